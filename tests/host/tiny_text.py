"""The sizes of a text encoder that is small enough for a test; only its width is the real one's."""

VOCABULARY = 32
UMT5 = {"num_layers": 1, "d_ff": 8, "num_heads": 1, "vocab_size": VOCABULARY}
TINY_TEXT = {"umt5xxl_model_config": UMT5}
"""As the host's loader takes it in its model options."""

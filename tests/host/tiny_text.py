"""The sizes of text encoders that are small enough for a test."""

VOCABULARY = 32
UMT5 = {"num_layers": 1, "d_ff": 8, "num_heads": 1, "vocab_size": VOCABULARY}
"""Wan's, of the real one's width, with a vocabulary of its own."""

T5 = {"num_layers": 1, "d_ff": 8, "num_heads": 1, "d_model": 64}
"""LTX-Video's and others', for the host's own vocabulary."""

TINY_TEXT = {"umt5xxl_model_config": UMT5, "t5xxl_model_config": T5}
"""As the host's loader takes it in its model options."""

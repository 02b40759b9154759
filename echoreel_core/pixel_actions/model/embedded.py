"""The embedded model, read from its file as the world's own evaluation and the demo run it."""

from __future__ import annotations

from pathlib import Path

from ...action.adapter import EchoReelAdapter
from ...lvdm.autoencoder import Autoencoder, load_autoencoder
from ...lvdm.checkpoint import load_released
from ..world.words import KNOWN
from .adapted_model import AdaptedModel
from .base_model import BaseModel

TOKEN_EMBEDDING = "text_model.embeddings.token_embedding.weight"


def load_embedded(path: Path) -> tuple[AdaptedModel, Autoencoder]:
    """The exported file as the world's own evaluation runs it: float32, with the small vocabulary."""
    parts = load_released(path)
    base = BaseModel()
    base.unet.load_state_dict({key: value.float() for key, value in parts.unet.items()})
    text = {key.removeprefix("transformer."): value.float() for key, value in parts.text.items()}
    text[TOKEN_EMBEDDING] = text[TOKEN_EMBEDDING][
        [*KNOWN, 0]
    ]  # row 0, "!", is one of those that stand for any other word
    base.text.load_state_dict(text)
    adapter = EchoReelAdapter(
        parts.adapter_config, attention=base.unet.middle_block[1].transformer_blocks[0].attn1.attention
    )
    adapter.load_state_dict({key: value.float() for key, value in parts.adapter.items()})
    model = AdaptedModel(base, adapter).requires_grad_(False).eval()
    return model, load_autoencoder({key: value.float() for key, value in parts.vae.items()})

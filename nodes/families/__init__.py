"""The table of model families. This table and one file per family are all that the pack knows of them."""

from __future__ import annotations

import torch

from ...echoreel_core.errors import EchoReelError
from .base import ModelFamily
from .cogvideox import COGVIDEOX
from .cosmos import COSMOS, COSMOS_PREDICT2
from .hunyuan_video import HUNYUAN_VIDEO
from .kandinsky5 import KANDINSKY5
from .ltxv import LTXAV, LTXV
from .lvdm import LVDM
from .minimax import MINIMAX_H3
from .mochi import MOCHI
from .unet import ANIMATEDIFF, SVD
from .wan import WAN

FAMILIES: list[ModelFamily] = [
    LVDM,
    SVD,
    ANIMATEDIFF,
    WAN,
    LTXV,
    LTXAV,
    HUNYUAN_VIDEO,
    MOCHI,
    COSMOS,
    COSMOS_PREDICT2,
    COGVIDEOX,
    MINIMAX_H3,
    KANDINSKY5,
]
"""Whatever is in this list is known: another family is one more entry of it."""


def find_family(diffusion_model: torch.nn.Module) -> ModelFamily:
    """The table entry of a diffusion model, recognised by the names of its classes.

    Raises: EchoReelError naming the model and what is supported.
    """
    class_names = frozenset(cls.__name__ for cls in type(diffusion_model).__mro__)
    for family in FAMILIES:
        if family.recognises(diffusion_model, class_names):
            return family
    raise EchoReelError(
        f"EchoReel does not know the model {type(diffusion_model).__name__}. "
        f"It works with: {', '.join(family.title for family in FAMILIES)}."
    )


def family_named(name: str) -> ModelFamily:
    """The table entry an adapter names. Raises: EchoReelError naming the family and what is supported."""
    for family in FAMILIES:
        if family.name == name:
            return family
    raise EchoReelError(
        f"The EchoReel adapter is for the model family {name!r}, which this version of the pack does not know. "
        f"It knows: {', '.join(family.name for family in FAMILIES)}."
    )

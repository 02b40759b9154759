"""The table of host models: where their blocks take an action."""

from __future__ import annotations

import torch

from .base import Host
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

HOSTS: tuple[Host, ...] = (
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
)


def find_host(diffusion_model: torch.nn.Module) -> Host:
    """The table entry of a diffusion model, recognised by the names of its classes.

    Raises: ValueError naming the model and what is supported.
    """
    class_names = frozenset(cls.__name__ for cls in type(diffusion_model).__mro__)
    for host in HOSTS:
        if host.recognises(diffusion_model, class_names):
            return host
    raise ValueError(
        f"EchoReel does not know the model {type(diffusion_model).__name__}. "
        f"It works with: {', '.join(host.title for host in HOSTS)}."
    )


def host_of_family(family: str) -> Host:
    """The table entry an adapter names. Raises: ValueError naming the family and what is supported."""
    for host in HOSTS:
        if host.family == family:
            return host
    raise ValueError(
        f"The EchoReel adapter is for models of the family {family!r}, which this version of the pack does not know. "
        f"It knows: {', '.join(host.family for host in HOSTS)}."
    )

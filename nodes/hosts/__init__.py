"""The table of host models: where their blocks take an action."""

from __future__ import annotations

import torch

from .base import Host
from .lvdm import LVDM
from .wan import WAN

HOSTS: tuple[Host, ...] = (LVDM, WAN)


def find_host(diffusion_model: torch.nn.Module) -> Host:
    """The table entry of a diffusion model, recognised by its class names.

    Raises: ValueError naming the model and what is supported.
    """
    class_names = {cls.__name__ for cls in type(diffusion_model).__mro__}
    for host in HOSTS:
        if class_names & host.class_names:
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

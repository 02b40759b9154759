"""What a model is given of the clip that it learns to make, in the form in which the cache keeps it."""

from __future__ import annotations

from typing import Any

import comfy.clip_vision
from torch import Tensor

from ...echoreel_core.training.data.conditioning import Conditioning, map_tensors
from ..families.base import ModelFamily
from ..families.clip_conditioning import VISION, Clip


def image_conditioning(family: ModelFamily, base: Any, clip: Clip) -> Conditioning:
    """The image conditioning of a clip for the host's model, ready for the cache.

    Raises: EchoReelError where that takes a model that is not connected.
    """
    given = {} if family.clip_conditioning is None else family.clip_conditioning(base, clip)
    plain = {
        name: {k: v for k, v in vars(value).items() if isinstance(v, Tensor)}
        if isinstance(value, comfy.clip_vision.Output)
        else value
        for name, value in given.items()
    }
    return map_tensors(plain, lambda tensor: tensor.float().cpu())


def as_the_host_has_it(conditioning: Conditioning) -> dict[str, Any]:
    """What `image_conditioning` gave, with the host's own class around what its CLIP vision model said."""
    result = dict(conditioning)
    for name, value in conditioning.items():
        if name.startswith(VISION) and isinstance(value, dict):
            result[name] = comfy.clip_vision.Output()
            vars(result[name]).update(value)
    return result

"""What a family's entry says a model is given of the clip it learns to make, and the host's own nodes that make it.

With the host's own nodes a model sees in training what it sees when it is sampled.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

VISION = "clip_vision_output"
"""Entries of the host's conditioning with names like this hold what a CLIP vision model says of an image."""
KNOWN, KNOWN_MASK = "samples", "noise_mask"
"""Latents that the model is given in place of noisy ones, and where (0: there), as in the host's LATENT."""
LEADING = "leading_latents"
"""Latents of a reference image whose place is before the clip's first frame."""


@dataclass(frozen=True)
class Clip:
    """A clip to make, and the host's models to look at it with: frames [T, H, W, 3]; `vision` may be None."""

    frames: Tensor
    fps: float
    vae: Any
    vision: Any

    @property
    def first(self) -> Tensor:
        """Its first frame [1, H, W, 3]."""
        return self.frames[:1]

    def seen(self) -> Any:
        """What the CLIP vision model says of the first frame; None without one."""
        return None if self.vision is None else self.vision.encode_image(self.first)

    def size(self) -> dict[str, Any]:
        """The inputs that the host's nodes share."""
        length, height, width, _ = self.frames.shape
        return {"vae": self.vae, "width": width, "height": height, "length": length, "batch_size": 1}


ClipConditioning = Callable[[Any, Clip], dict[str, Any]]
"""(the host's model, clip) → what goes into its conditioning beside the text."""


def frame_rate(_base: Any, clip: Clip) -> dict[str, Any]:
    """The clip's frame rate alone."""
    return {"frame_rate": clip.fps}


def by_host_class(table: Mapping[str, ClipConditioning]) -> ClipConditioning:
    """The one of the host's model class, or of the nearest of its base classes; all others get their text only.

    Args:
        table: by class name, as older hosts lack some of the classes.
    """

    def clip_conditioning(base: Any, clip: Clip) -> dict[str, Any]:
        found = next((table[cls.__name__] for cls in type(base).__mro__ if cls.__name__ in table), None)
        return {} if found is None else found(base, clip)

    return clip_conditioning


def run_node(module: str, name: str, **inputs: Any) -> tuple:
    """The outputs of one of the host's nodes in `comfy_extras`."""
    return getattr(importlib.import_module(f"comfy_extras.{module}"), name).execute(**inputs).result


def run_prompt_node(module: str, name: str, clip: Clip, **inputs: Any) -> dict[str, Any]:
    """What a node that takes and gives both prompts puts into them."""
    prompts = {"positive": blank_prompt(), "negative": blank_prompt()}
    return run_node(module, name, **prompts, **clip.size(), **inputs)[0][0][1]


def blank_prompt() -> list:
    """A prompt for a node to put something into."""
    return [[torch.zeros(1, 1, 1), {}]]

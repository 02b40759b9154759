"""What a model is given in training, besides the text, of the clip that it learns to generate.

The host's own nodes make it, so that a model sees the same in training as in sampling.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

VISION = "clip_vision_output"
"""The entries of the host's conditioning that hold a CLIP vision model's output."""
KNOWN, KNOWN_MASK = "samples", "noise_mask"
"""Clean latents that replace the noisy ones, and the mask that is 0 where they do, as in the host's LATENT."""
LEADING = "leading_latents"
"""Latents of a reference image, placed before the clip's first frame."""


@dataclass(frozen=True)
class Clip:
    """A clip to generate, frames [T, H, W, 3] at `fps`, and the host's VAE and CLIP vision model (or None)."""

    frames: Tensor
    fps: float
    vae: Any
    vision: Any

    @property
    def first(self) -> Tensor:
        """Its first frame [1, H, W, 3]."""
        return self.frames[:1]

    def seen(self) -> Any:
        """The CLIP vision model's output for the first frame, or None without such a model."""
        return None if self.vision is None else self.vision.encode_image(self.first)

    def size(self) -> dict[str, Any]:
        """The inputs that the host's nodes share."""
        length, height, width, _ = self.frames.shape
        return {"vae": self.vae, "width": width, "height": height, "length": length, "batch_size": 1}


ClipConditioning = Callable[[Any, Clip], dict[str, Any]]
"""(the host's model, clip) → entries of its conditioning, besides the text."""


def frame_rate(_base: Any, clip: Clip) -> dict[str, Any]:
    """Only the clip's frame rate."""
    return {"frame_rate": clip.fps}


def by_host_class(table: Mapping[str, ClipConditioning]) -> ClipConditioning:
    """Chooses by the host's model class, or its nearest base class in the table; other models get their text only.

    Args:
        table: keys are class names, because older hosts lack some of the classes.
    """

    def clip_conditioning(base: Any, clip: Clip) -> dict[str, Any]:
        found = next((table[cls.__name__] for cls in type(base).__mro__ if cls.__name__ in table), None)
        return {} if found is None else found(base, clip)

    return clip_conditioning


def run_node(module: str, name: str, **inputs: Any) -> tuple:
    """The outputs of one of the host's nodes in `comfy_extras`."""
    return getattr(importlib.import_module(f"comfy_extras.{module}"), name).execute(**inputs).result


def run_prompt_node(module: str, name: str, clip: Clip, **inputs: Any) -> dict[str, Any]:
    """The entries that a node which takes and returns both prompts adds to them."""
    prompts = {"positive": blank_prompt(), "negative": blank_prompt()}
    return run_node(module, name, **prompts, **clip.size(), **inputs)[0][0][1]


def blank_prompt() -> list:
    """An empty prompt for a node to add entries to."""
    return [[torch.zeros(1, 1, 1), {}]]

"""What the table asks of a model: a base with its autoencoder and its adapter, and how it is sampled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from ..world.clips import Clips
from .guidance import Guidance

Reference = tuple[Tensor, list[str]]
"""Latents of reference clips, and their captions."""


class Pipeline(Protocol):
    """Clips of the world in, clips as the judge and the tracker look at them out.

    Attributes:
        guided_at_once: clips in a batch that is guided without an adapter.
        best_guidance: the setting that did best without an adapter, on other seeds than the table's.
    """

    guided_at_once: int
    best_guidance: Guidance

    def pixels(self, clips: Clips) -> Tensor:
        """The clips drawn in this model's size and length, `[B, frames, 3, H, W]`."""
        ...

    def encode(self, pixels: Tensor) -> Tensor:
        """Latents `[B, C, T, h, w]` of pixels."""
        ...

    def show(self, latents: Tensor) -> Tensor:
        """What latents show, as the judge and the tracker take it: `[B, 16, 3, 32, 32]`."""
        ...

    def truth(self, clips: Clips) -> Tensor:
        """Of clips, as `Clips.track`, at the frames that are shown."""
        ...

    def noise(self, seeds: Sequence[int]) -> Tensor:
        """Noise to start from, that of each clip by its own seed alone."""
        ...

    def base(self, captions: list[str], noise: Tensor) -> Tensor:
        """Latents by a copy of the base model that no adapter was ever added to."""
        ...

    def generate(self, captions: list[str], noise: Tensor, *references: Reference) -> Tensor:
        """Latents with the adapter; several references are blended in equal parts."""
        ...

    def guided(self, captions: list[str], noise: Tensor, reference: Tensor, setting: Guidance) -> Tensor:
        """Latents by the base model, guided by the reference's latents."""
        ...

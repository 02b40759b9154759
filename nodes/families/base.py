"""What the pack must know about a model family."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import comfy.latent_formats
import torch
from torch import Tensor

from ...echoreel_core.action.adapter import AdapterConfig
from ...echoreel_core.action.injection import AnySite
from ...echoreel_core.errors import EchoReelError
from ...echoreel_core.training.default_sizes import AdapterInputs, general_form
from .clip_conditioning import ClipConditioning


@dataclass(frozen=True)
class TokenGrid:
    """Where the video lies in a block's hidden state during one call of the model.

    Attributes:
        latent_frames: frames of the latents that are the clip's (or the window's of it that the model sees), with the
            `leading` ones.
        size: (height, width) of a frame in tokens; in a UNet at its finest level.
        first: index of the first token of the clip; the ones before it are not the clip's.
        leading: how many of the latents' first frames are a reference image's place and not the clip's.
        patch_frames: latent frames per token.
    """

    latent_frames: int
    size: tuple[int, int]
    first: int = 0
    leading: int = 0
    patch_frames: int = 1

    @property
    def frames(self) -> int:
        """Frames T of the clip in tokens."""
        return math.ceil(self.latent_frames / self.patch_frames) - self.leading

    @property
    def positions(self) -> int:
        """Tokens P of one frame."""
        return self.size[0] * self.size[1]


@dataclass(frozen=True)
class ModelFamily:
    """One row of the table.

    Attributes:
        name: the model family's name in adapter files.
        title: its name for users.
        recognises: whether a diffusion model is one of these, given the names of its class and its base classes.
        sites: lists the blocks that can take an added layer.
        grid: (diffusion model, its input latents, its keyword arguments) → the grid of this call.
        to_frames: (hidden state, grid) → its video tokens as [B, T, P, dim]; None where it is not the clip's.
        from_frames: (delta [B, T, P, dim], hidden state, grid) → the delta in the hidden state's own layout.
        latent_format: latent channels → the host's latent format, which scales what its VAE gives.
        fps: frames per second that the model was made for.
        frames_per_latent: video frames per latent frame; the first latent frame holds one.
        video_channels: of its latents, where the latent format counts those of sound as well.
        frames_in_batch: whether a clip is carried as [T, C, H, W], not as [1, C, T, H, W].
        changes_in_place: whether its blocks write into their own hidden states, so that they cannot be run again for
            their gradients.
        fps_of: diffusion model → its frame rate, where variants of the family differ in it.
        window: where the family has a way of its own, beside the host's, to make a clip piece by piece: (grid,
            transformer_options of a call) → the latents' frames of that call among the clip's and how many those are;
            None for a call that is about the whole clip.
        untrainable: the host's model → why EchoReel cannot be trained on it, in one sentence for the user, or None;
            left out where it can be on all of them.
        clip_conditioning: what a model is given in training of the clip that it learns to make; left out where that is
            nothing.
        silence: video latents [B, C, T, H, W] → empty latents of the sound that a call needs beside them.
        one_sample: whether a call takes a single clip.
        kernels_without_gradient: names of the host's fused kernels that it uses even when it is told that it trains.
        default_adapter: (diffusion model, what the adapter has to fit) → the adapter to train where none is given.
    """

    name: str
    title: str
    recognises: Callable[[torch.nn.Module, frozenset[str]], bool]
    sites: Callable[[torch.nn.Module], list[AnySite]]
    grid: Callable[[torch.nn.Module, Tensor, dict[str, Any]], TokenGrid]
    to_frames: Callable[[Tensor, TokenGrid], Tensor | None]
    from_frames: Callable[[Tensor, Tensor, TokenGrid], Tensor]
    latent_format: Callable[[int], Any]
    fps: float
    frames_per_latent: float = 1
    video_channels: int | None = None
    frames_in_batch: bool = False
    changes_in_place: bool = False
    fps_of: Callable[[torch.nn.Module], float] | None = None
    window: Callable[[TokenGrid, dict[str, Any]], tuple[list[int], int] | None] | None = None
    untrainable: Callable[[Any], str | None] | None = None
    clip_conditioning: ClipConditioning | None = None
    silence: Callable[[Tensor], Tensor] | None = None
    one_sample: bool = False
    kernels_without_gradient: tuple[str, ...] = ()
    default_adapter: Callable[[torch.nn.Module, AdapterInputs], AdapterConfig] = lambda _model, fit: general_form(fit)

    def frame_rate(self, diffusion_model: torch.nn.Module) -> float:
        """Frames per second that this model was made for."""
        return self.fps if self.fps_of is None else self.fps_of(diffusion_model)

    def check_trainable(self, base: Any) -> None:
        """Raises: EchoReelError, in one sentence, for a model that EchoReel can be applied to but not trained on."""
        if self.untrainable is not None and (reason := self.untrainable(base)) is not None:
            raise EchoReelError(reason)


def class_named(*names: str) -> Callable[[torch.nn.Module, frozenset[str]], bool]:
    """Recognises a model by the name of its class or of any of its base classes, so nothing needs to be imported."""
    return lambda _model, classes: not classes.isdisjoint(names)


def untrainable_classes(reasons: Mapping[str, str]) -> Callable[[Any], str | None]:
    """Refuses some of the host's model classes, by name; `reasons` says what each does instead of making video."""

    def untrainable(base: Any) -> str | None:
        name = type(base).__name__
        if name not in reasons:
            return None
        return f"The model {name} {reasons[name]}: train on the model that generates the video."

    return untrainable


def format_named(name: str, by_channels: Mapping[int, str] | None = None) -> Callable[[int], Any]:
    """The host's latent format of that name, or another one chosen by the latents' channels.

    It is looked up when it is needed: older hosts lack some.
    """
    by_channels = by_channels or {}

    def latent_format(channels: int) -> comfy.latent_formats.LatentFormat:
        return getattr(comfy.latent_formats, by_channels.get(channels, name))()

    return latent_format


def patched_grid(latents: Tensor | list[Tensor], patch: tuple[int, int, int], **changes: int) -> TokenGrid:
    """The grid of latents [B, C, T, H, W] cut into patches of (t, h, w); what does not divide is padded up.

    Args:
        latents: the video's, or a list in which those of sound come after them.

    Raises: EchoReelError where the latents are a picture's.
    """
    if isinstance(latents, list):
        latents = latents[0]
    if latents.dim() != 5:
        raise EchoReelError(
            f"EchoReel needs video latents, but the model got latents of the shape {list(latents.shape)}: "
            "use an empty latent video."
        )
    frames, height, width = latents.shape[-3:]
    size = (math.ceil(height / patch[1]), math.ceil(width / patch[2]))
    return TokenGrid(frames, size, patch_frames=patch[0], **changes)


def sequence_to_frames(hidden: Tensor, grid: TokenGrid) -> Tensor:
    """The video tokens of a [B, L, dim] sequence that runs frame by frame, as [B, T, P, dim]."""
    length = grid.frames * grid.positions
    return hidden[:, grid.first : grid.first + length].unflatten(1, (grid.frames, grid.positions))


def sequence_from_frames(delta: Tensor, hidden: Tensor, grid: TokenGrid) -> Tensor:
    """The delta as [B, L, dim], zero at the tokens that are not the clip's."""
    return _padded(delta.flatten(1, 2), hidden, grid.first)


def tail_to_frames(hidden: Tensor, grid: TokenGrid) -> Tensor:
    """As `sequence_to_frames` where the video's tokens are the sequence's last ones."""
    return hidden[:, -grid.frames * grid.positions :].unflatten(1, (grid.frames, grid.positions))


def tail_from_frames(delta: Tensor, hidden: Tensor, grid: TokenGrid) -> Tensor:
    """The way back."""
    delta = delta.flatten(1, 2)
    return _padded(delta, hidden, hidden.shape[1] - delta.shape[1])


def _padded(delta: Tensor, hidden: Tensor, before: int) -> Tensor:
    after = hidden.shape[1] - before - delta.shape[1]
    return torch.nn.functional.pad(delta, (0, 0, before, after)) if before or after else delta


def batch_to_frames(hidden: Tensor, grid: TokenGrid) -> Tensor:
    """Hidden states [B·T, P, dim] with the frames in the batch, as [B, T, P, dim]."""
    return hidden.unflatten(0, (-1, grid.frames))


def batch_from_frames(delta: Tensor, _hidden: Tensor, _grid: TokenGrid) -> Tensor:
    """The way back."""
    return delta.flatten(0, 1)

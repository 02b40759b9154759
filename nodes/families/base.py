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
    """Where the video's tokens are in a block's hidden state, for one call of the model.

    Attributes:
        latent_frames: latent frames of the clip, or of the window of it that this call sees, `leading` included.
        size: (height, width) of a frame in tokens; in a UNet, at its finest level.
        first: index of the clip's first token; the tokens before it are something else.
        leading: number of first latent frames that hold a reference image and are not part of the clip.
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
    """Everything the pack knows about a family of video models.

    Attributes:
        name: the family's name in adapter files.
        title: its name for users.
        recognises: (diffusion model, names of its class and base classes) → whether it belongs to the family.
        sites: diffusion model → the blocks that can take an added layer.
        grid: (diffusion model, its input latents, its keyword arguments) → the grid of this call.
        to_frames: (hidden state, grid) → its video tokens as [B, T, P, dim], or None if they are not the clip's.
        from_frames: (delta [B, T, P, dim], hidden state, grid) → the delta in the hidden state's own layout.
        latent_format: number of latent channels → the host's latent format, which scales what its VAE returns.
        fps: frames per second that the model was made for.
        frames_per_latent: video frames per latent frame; the first latent frame always holds one.
        video_channels: channels of the video latents, if the latent format also counts those of sound.
        frames_in_batch: whether a clip is [T, C, H, W] instead of [1, C, T, H, W].
        changes_in_place: whether blocks write into their own hidden states, so that they cannot run again for their
            gradients.
        fps_of: diffusion model → its frame rate, for families whose variants differ in it.
        window: (grid, transformer_options of a call) → (indices of the call's latent frames in the clip, latent frames
            of the clip), or None for a call that sees the whole clip. For families that make a clip piece by piece in a
            way of their own, besides the host's context windows.
        untrainable: the host's model → one sentence for the user that says why it cannot be trained on, or None. Left
            out if every model of the family can be trained on.
        clip_conditioning: what training gives the model besides the text, made from the clip that it learns to
            generate. Left out if that is nothing.
        silence: video latents [B, C, T, H, W] → empty sound latents that a call needs besides them.
        one_sample: whether a call takes a single clip only.
        expert_boundary: the host's model → the noise level (timestep over their number) from which on a second model of
            its kind, trained for less noise, takes over. Left out if no model of the family comes as two.
        kernels_without_gradient: names of the host's fused kernels that it uses even in training.
        default_adapter: (diffusion model, what the adapter must fit) → configuration of a new adapter.
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
    expert_boundary: Callable[[Any], float] | None = None
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
    """The host's latent format of that name, or another one chosen by the number of latent channels.

    Looked up when it is needed, because older hosts lack some.
    """
    by_channels = by_channels or {}

    def latent_format(channels: int) -> comfy.latent_formats.LatentFormat:
        return getattr(comfy.latent_formats, by_channels.get(channels, name))()

    return latent_format


def patched_grid(latents: Tensor | list[Tensor], patch: tuple[int, int, int], **changes: int) -> TokenGrid:
    """The grid of latents [B, C, T, H, W] cut into patches of (t, h, w), the last ones padded.

    Args:
        latents: the video's, or a list of the video's and then the sound's.

    Raises: EchoReelError if the latents are those of a picture.
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
    """As `sequence_to_frames`, for sequences that end with the video's tokens."""
    return hidden[:, -grid.frames * grid.positions :].unflatten(1, (grid.frames, grid.positions))


def tail_from_frames(delta: Tensor, hidden: Tensor, grid: TokenGrid) -> Tensor:
    """The inverse of `tail_to_frames`, zero at the other tokens."""
    delta = delta.flatten(1, 2)
    return _padded(delta, hidden, hidden.shape[1] - delta.shape[1])


def _padded(delta: Tensor, hidden: Tensor, before: int) -> Tensor:
    after = hidden.shape[1] - before - delta.shape[1]
    return torch.nn.functional.pad(delta, (0, 0, before, after)) if before or after else delta


def batch_to_frames(hidden: Tensor, grid: TokenGrid) -> Tensor:
    """Hidden states [B·T, P, dim] with the frames in the batch, as [B, T, P, dim]."""
    return hidden.unflatten(0, (-1, grid.frames))


def batch_from_frames(delta: Tensor, _hidden: Tensor, _grid: TokenGrid) -> Tensor:
    """The inverse of `batch_to_frames`."""
    return delta.flatten(0, 1)

"""MiniMax H3."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ...echoreel_core.action.injection import Site
from .base import ModelFamily, TokenGrid, class_named, format_named, patched_grid, tail_from_frames, tail_to_frames


def _sites(diffusion_model: torch.nn.Module) -> list[Site]:
    return [
        Site(f"blocks.{i}", block, block.norm2, diffusion_model.hidden_size)
        for i, block in enumerate(diffusion_model.blocks)
    ]


def _grid(diffusion_model: torch.nn.Module, latents: Tensor | list[Tensor], _kwargs: dict[str, Any]) -> TokenGrid:
    return patched_grid(latents, diffusion_model.patch_size)


def _silence(video: Tensor) -> Tensor:
    """5/3 frames of sound to each of the video's."""
    from comfy.ldm.minimax.model import FRAME_PER_TOKEN, FRAME_RESCALE

    frames = sum(FRAME_PER_TOKEN[place % len(FRAME_PER_TOKEN)] for place in range(video.shape[2]))
    return video.new_zeros(video.shape[0], 32, 2, math.ceil(frames * FRAME_RESCALE))


MINIMAX_H3 = ModelFamily(
    name="minimax_h3",
    title="MiniMax H3",
    recognises=class_named("MiniMaxH3Model"),
    sites=_sites,
    grid=_grid,
    # one sample, [L, dim]: text, references and sound, then the video
    to_frames=lambda hidden, grid: tail_to_frames(hidden[None], grid),
    from_frames=lambda delta, hidden, grid: tail_from_frames(delta, hidden[None], grid)[0],
    latent_format=format_named("MiniMaxH3Video"),
    fps=24,
    frames_per_latent=3.4,  # 1, 4, 4, 4, 4 and again
    video_channels=24,
    changes_in_place=True,
    silence=_silence,
    one_sample=True,
    kernels_without_gradient=("rms_rope_split_half",),
)

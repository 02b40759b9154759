"""Stable Diffusion's UNet with time in it: Stable Video Diffusion, and AnimateDiff (by the pack AnimateDiff-Evolved).

The frames lie in the batch. The added layers go into the spatial transformer blocks; what the motion modules bring
along are modules of other classes, and SVD's temporal twins are in lists of another name.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...echoreel_core.action.injection import Site
from ...echoreel_core.errors import EchoReelError
from ...echoreel_core.training.data.conditioning import TOKENS
from .base import (
    ModelFamily,
    TokenGrid,
    batch_from_frames,
    batch_to_frames,
    format_named,
    untrainable_classes,
)
from .clip_conditioning import Clip


def frames_in_batch_grid(_diffusion_model: torch.nn.Module, latents: Tensor, kwargs: dict[str, Any]) -> TokenGrid:
    """The grid of [B·T, C, H, W] latents: T by the model's own count, else one clip per chunk of conditioning."""
    rows, chunks = latents.shape[0], len(kwargs["transformer_options"].get("cond_or_uncond", (0,)))
    frames = kwargs.get("num_video_frames")
    if not frames or rows % frames:  # other packs' context windows leave the count as it was
        frames = rows // chunks
    return TokenGrid(frames, tuple(latents.shape[-2:]))


def _sites(diffusion_model: torch.nn.Module) -> list[Site]:
    return [
        Site(f"{name}.transformer_blocks.{i}", block, block.norm3)
        for name, module in diffusion_model.named_modules()
        if any(cls.__name__ == "SpatialTransformer" for cls in type(module).__mro__)
        for i, block in enumerate(module.transformer_blocks)
    ]


def _is_svd(diffusion_model: torch.nn.Module) -> bool:
    return any(type(module).__name__ == "SpatialVideoTransformer" for module in diffusion_model.modules())


def _told_of_image(_base: Any, clip: Clip) -> dict[str, Any]:
    if clip.vision is None:
        raise EchoReelError(
            "Stable Video Diffusion reads its image through a CLIP vision model: connect the one from its checkpoint "
            "to clip_vision."
        )
    from comfy_extras.nodes_video_model import SVD_img2vid_Conditioning

    size = clip.size()
    positive, _, _ = SVD_img2vid_Conditioning().encode(
        clip_vision=clip.vision,
        init_image=clip.first,
        vae=clip.vae,
        width=size["width"],
        height=size["height"],
        video_frames=size["length"],
        motion_bucket_id=127,
        fps=max(1, round(clip.fps)),
        augmentation_level=0.0,
    )
    return {**positive[0][1], TOKENS: positive[0][0][0]}


def _evolved_window(grid: TokenGrid, options: dict[str, Any]) -> tuple[list[int], int] | None:
    """A context window of AnimateDiff-Evolved's own."""
    window = options.get("ad_params")
    if not window or window["sub_idxs"] is None or len(window["sub_idxs"]) != grid.latent_frames:
        return None
    return list(window["sub_idxs"]), window["full_length"]


SVD = ModelFamily(
    name="svd",
    title="Stable Video Diffusion",
    recognises=lambda model, classes: "UNetModel" in classes and _is_svd(model),
    sites=_sites,
    grid=frames_in_batch_grid,
    to_frames=batch_to_frames,
    from_frames=batch_from_frames,
    latent_format=format_named("SD15"),
    fps=6,
    frames_in_batch=True,
    untrainable=untrainable_classes(
        {name: "circles around an object and adds no motion" for name in ("SV3D_u", "SV3D_p")},
    ),
    clip_conditioning=_told_of_image,
)

ANIMATEDIFF = ModelFamily(
    name="animatediff",
    title="AnimateDiff",
    recognises=lambda model, classes: "UNetModel" in classes and not _is_svd(model),
    sites=_sites,
    grid=frames_in_batch_grid,
    to_frames=batch_to_frames,
    from_frames=batch_from_frames,
    latent_format=format_named("SD15"),
    fps=8,
    frames_in_batch=True,
    window=_evolved_window,
)

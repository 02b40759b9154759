"""HunyuanVideo and HunyuanVideo 1.5."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...echoreel_core.action.injection import AnySite, OutputSite, Site
from .base import (
    ModelFamily,
    TokenGrid,
    format_named,
    patched_grid,
    tail_from_frames,
    tail_to_frames,
    untrainable_classes,
)
from .clip_conditioning import VISION, Clip, blank_prompt, by_host_class, run_node, run_prompt_node


def _sites(diffusion_model: torch.nn.Module) -> list[AnySite]:
    dim = diffusion_model.hidden_size
    double = [
        Site(f"double_blocks.{i}", block, block.img_norm2, dim, item=0)
        for i, block in enumerate(diffusion_model.double_blocks)
    ]
    # attention and feed-forward run side by side in these, so there is no place between them
    single = [
        OutputSite(f"single_blocks.{i}", block, dim, module=block)
        for i, block in enumerate(diffusion_model.single_blocks)
    ]
    return [*double, *single]


def _grid(diffusion_model: torch.nn.Module, latents: Tensor, _kwargs: dict[str, Any]) -> TokenGrid:
    return patched_grid(latents, tuple(diffusion_model.patch_size))


def _start_image(_base: Any, clip: Clip) -> dict[str, Any]:
    inputs = {"positive": blank_prompt(), "guidance_type": "v1 (concat)", "start_image": clip.first}
    return run_node("nodes_hunyuan", "HunyuanImageToVideo", **inputs, **clip.size())[0][0][1]


def _start_image_15(_base: Any, clip: Clip) -> dict[str, Any]:
    """Text-to-video and image-to-video have the same layers: the image-to-video model has a CLIP vision model."""
    if clip.vision is None:
        return {}
    images = {"start_image": clip.first, VISION: clip.seen()}
    return run_prompt_node("nodes_hunyuan", "HunyuanVideo15ImageToVideo", clip, **images)


HUNYUAN_VIDEO = ModelFamily(
    name="hunyuan_video",
    title="HunyuanVideo and HunyuanVideo 1.5",
    # the picture models of the family have patches without time
    recognises=lambda model, classes: "HunyuanVideo" in classes and len(model.patch_size) == 3,
    sites=_sites,
    grid=_grid,
    # a reference's tokens, and in single blocks the text's, come before the clip's
    to_frames=tail_to_frames,
    from_frames=tail_from_frames,
    latent_format=format_named("HunyuanVideo", {32: "HunyuanVideo15"}),
    fps=24,
    frames_per_latent=4,
    changes_in_place=True,
    untrainable=untrainable_classes({"HunyuanVideo15_SR_Distilled": "upscales a video and adds no motion"}),
    clip_conditioning=by_host_class(
        {
            "HunyuanVideoI2V": _start_image,
            "HunyuanVideoSkyreelsI2V": _start_image,
            "HunyuanVideo15": _start_image_15,
        }
    ),
)

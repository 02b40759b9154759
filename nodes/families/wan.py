"""Wan 2.1 and 2.2 with all their variants."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...echoreel_core.action.injection import AnySite, BranchSite, Site
from .base import (
    ModelFamily,
    TokenGrid,
    class_named,
    format_named,
    patched_grid,
    sequence_from_frames,
    sequence_to_frames,
)
from .clip_conditioning import LEADING, VISION, Clip, ClipConditioning, by_host_class, run_prompt_node


def _class_names(diffusion_model: torch.nn.Module) -> set[str]:
    return {cls.__name__ for cls in type(diffusion_model).__mro__}


def _sites(diffusion_model: torch.nn.Module) -> list[AnySite]:
    blocks, dim = diffusion_model.blocks, diffusion_model.dim
    if "WanAnimate2Model" in _class_names(diffusion_model):
        # its blocks are not called as modules, but the attentions in them are
        return [
            BranchSite(f"blocks.{i}", block, dim, entry=block.norm3, branch=block.cross_attn)
            for i, block in enumerate(blocks)
        ]
    return [Site(f"blocks.{i}", block, block.norm2, dim) for i, block in enumerate(blocks)]


def _grid(diffusion_model: torch.nn.Module, latents: Tensor, kwargs: dict[str, Any]) -> TokenGrid:
    grid = patched_grid(latents, diffusion_model.patch_size)
    names = _class_names(diffusion_model)
    reference = kwargs.get("reference_latent")
    first = leading = 0
    if names & {"AnimateWanModel", "WanAnimate2Model"}:
        first, leading = grid.positions, 1  # the latents' first frame is the place of the character's picture
    if reference is not None and "SCAILWanModel" in names:
        first += grid.positions * reference.shape[2]  # goes in as more frames before the clip's own
    elif reference is not None and diffusion_model.ref_conv is not None:
        first += grid.positions  # goes in as one more frame
    return TokenGrid(grid.latent_frames, grid.size, first, leading, grid.patch_frames)


def _to_frames(hidden: Tensor, grid: TokenGrid) -> Tensor | None:
    if hidden.shape[1] < grid.first + grid.frames * grid.positions:
        return None  # Animate 2 runs the frames of its pose video through the same blocks
    return sequence_to_frames(hidden, grid)


def _chunk(grid: TokenGrid, options: dict[str, Any]) -> tuple[list[int], int] | None:
    """Of the model that makes a clip chunk by chunk, with the ones before in a cache as long as the clip."""
    chunk = options.get("ar_state")
    if chunk is None:
        return None
    start, tokens = chunk["start_frame"], chunk["kv_caches"][0]["k"].shape[1]
    return list(range(start, start + grid.latent_frames)), tokens // grid.positions


def _node(name: str, image: str = "start_image", vision: bool = False, **inputs: Any) -> ClipConditioning:
    """One of the host's nodes, which takes the first frame as its input `image`."""

    def clip_conditioning(_base: Any, clip: Clip) -> dict[str, Any]:
        seen = {VISION: clip.seen()} if vision else {}
        return run_prompt_node("nodes_wan", name, clip, **{image: clip.first}, **seen, **inputs)

    return clip_conditioning


def _channels_beside(base: Any) -> int:
    """Channels that the model takes beside the latents'."""
    return base.diffusion_model.patch_embedding.weight.shape[1] - base.latent_format.latent_channels


def _expert_boundary(base: Any) -> float:
    """Wan 2.2 14B, from an image or from text: `boundary` in https://github.com/Wan-Video/Wan2.2, wan/configs."""
    return 0.9 if _channels_beside(base) else 0.875


def _by_channels(base: Any, clip: Clip) -> dict[str, Any]:
    """By the channels beside the latents: those of the start image and its mask, those of a control video before it."""
    channels, beside = base.latent_format.latent_channels, _channels_beside(base)
    if beside == channels + 4:
        name = "WanImageToVideo" if channels == 16 else "WanFunInpaintToVideo"
        return _node(name, vision=True)(base, clip)
    takes_reference = base.diffusion_model.ref_conv is not None
    if beside == 2 * channels + 4 or (beside == 2 * channels and takes_reference):
        reference = {"ref_image": clip.first} if takes_reference else {}
        return _node("Wan22FunControlToVideo", **reference)(base, clip)
    return _node("WanFunControlToVideo", vision=True)(base, clip) if beside == 2 * channels else {}


def _vace(_base: Any, clip: Clip) -> dict[str, Any]:
    return run_prompt_node("nodes_wan", "WanVaceToVideo", clip, strength=1.0)


def _humo(base: Any, clip: Clip) -> dict[str, Any]:
    conditioning = _node("WanHuMoImageToVideo", "ref_image")(base, clip)
    # the node's silence is one frame longer than the sound it makes of a recording, which the model does not take
    return {**conditioning, "audio_embed": conditioning["audio_embed"][:, :-1]}


def _animate(name: str, **inputs: Any) -> ClipConditioning:
    """The reference image is the first of the latents' frames."""
    node = _node(name, "reference_image", vision=True, video_frame_offset=0, **inputs)

    def clip_conditioning(base: Any, clip: Clip) -> dict[str, Any]:
        conditioning = node(base, clip)
        return {**conditioning, LEADING: conditioning["concat_latent_image"][:, :, :1]}

    return clip_conditioning


def _scail(_base: Any, clip: Clip) -> dict[str, Any]:
    pose = {"pose_strength": 1.0, "pose_start": 0.0, "pose_end": 1.0}
    more = {"video_frame_offset": 0, "previous_frame_count": 5, VISION: clip.seen()}
    return run_prompt_node("nodes_scail", "WanSCAILToVideo", clip, reference_image=clip.first, **pose, **more)


WAN = ModelFamily(
    name="wan",
    title="Wan 2.1 and 2.2",
    recognises=class_named("WanModel"),
    sites=_sites,
    grid=_grid,
    to_frames=_to_frames,
    from_frames=sequence_from_frames,
    latent_format=format_named("Wan21", {48: "Wan22"}),
    fps=16,
    frames_per_latent=4,
    fps_of=lambda diffusion_model: 24 if diffusion_model.out_dim == 48 else 16,  # Wan 2.2 5B has latents of its own
    window=_chunk,
    expert_boundary=_expert_boundary,
    clip_conditioning=by_host_class(
        {
            "WAN21_Vace": _vace,
            "WAN21_Camera": _node("WanCameraImageToVideo", vision=True),
            "WAN21_HuMo": _humo,
            "WAN22_S2V": _node("WanSoundImageToVideo", "ref_image"),
            "WAN22_Animate": _animate("WanAnimateToVideo", continue_motion_max_frames=5),
            "WAN_Animate2": _animate("WanAnimate2ToVideo"),
            "WAN21_SCAIL": _scail,
            "WAN21": _by_channels,
        }
    ),
)

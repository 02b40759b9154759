"""What a model is given of the clip that it learns to make: its first frame for image-to-video models, its frame rate.

It is what the host's own nodes make of it, so that a model sees in training what it sees when it is sampled.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import comfy.clip_vision
import torch
from torch import Tensor

from ...echoreel_core.errors import EchoReelError
from ...echoreel_core.training.data.conditioning import TOKENS, Conditioning, map_tensors

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


ImageConditioning = Callable[[Any, Clip], dict[str, Any]]
"""(the host's model, clip) → what the host's node puts into the conditioning."""


def _node(module: str, name: str, **inputs: Any) -> tuple:
    return getattr(importlib.import_module(f"comfy_extras.{module}"), name).execute(**inputs).result


def _conditioned(module: str, name: str, clip: Clip, **inputs: Any) -> dict[str, Any]:
    """What a node that takes and gives both prompts puts into them."""
    prompts = {"positive": _blank(), "negative": _blank()}
    return _node(module, name, **prompts, **clip.size(), **inputs)[0][0][1]


def _blank() -> list:
    return [[torch.zeros(1, 1, 1), {}]]


def _wan_node(name: str, image: str = "start_image", vision: bool = False, **inputs: Any) -> ImageConditioning:
    """One of the host's nodes for Wan, which takes the first frame as its input `image`."""

    def image_conditioning(_base: Any, clip: Clip) -> dict[str, Any]:
        seen = {VISION: clip.seen()} if vision else {}
        return _conditioned("nodes_wan", name, clip, **{image: clip.first}, **seen, **inputs)

    return image_conditioning


def _with_place_before(name: str, **inputs: Any) -> ImageConditioning:
    """Wan Animate: the reference image is the first of the latents' frames."""
    node = _wan_node(name, "reference_image", vision=True, video_frame_offset=0, **inputs)

    def image_conditioning(base: Any, clip: Clip) -> dict[str, Any]:
        conditioning = node(base, clip)
        return {**conditioning, LEADING: conditioning["concat_latent_image"][:, :, :1]}

    return image_conditioning


def _wan(base: Any, clip: Clip) -> dict[str, Any]:
    """By the channels beside the latents: those of the start image and its mask, those of a control video before it."""
    channels = base.latent_format.latent_channels
    beside = base.diffusion_model.patch_embedding.weight.shape[1] - channels
    if beside == channels + 4:
        name = "WanImageToVideo" if channels == 16 else "WanFunInpaintToVideo"
        return _wan_node(name, vision=True)(base, clip)
    takes_reference = base.diffusion_model.ref_conv is not None
    if beside == 2 * channels + 4 or (beside == 2 * channels and takes_reference):
        reference = {"ref_image": clip.first} if takes_reference else {}
        return _wan_node("Wan22FunControlToVideo", **reference)(base, clip)
    return _wan_node("WanFunControlToVideo", vision=True)(base, clip) if beside == 2 * channels else {}


def _svd(_base: Any, clip: Clip) -> dict[str, Any]:
    if clip.vision is None:
        raise EchoReelError(
            "Stable Video Diffusion reads its image through a CLIP vision model: connect the one from its checkpoint "
            "to clip_vision."
        )
    size = clip.size()
    from comfy_extras.nodes_video_model import SVD_img2vid_Conditioning

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


def _vace(_base: Any, clip: Clip) -> dict[str, Any]:
    return _conditioned("nodes_wan", "WanVaceToVideo", clip, strength=1.0)


def _humo(base: Any, clip: Clip) -> dict[str, Any]:
    conditioning = _wan_node("WanHuMoImageToVideo", "ref_image")(base, clip)
    # the node's silence is one frame longer than the sound it makes of a recording, which the model does not take
    return {**conditioning, "audio_embed": conditioning["audio_embed"][:, :-1]}


def _scail(_base: Any, clip: Clip) -> dict[str, Any]:
    pose = {"pose_strength": 1.0, "pose_start": 0.0, "pose_end": 1.0}
    more = {"video_frame_offset": 0, "previous_frame_count": 5, VISION: clip.seen()}
    return _conditioned("nodes_scail", "WanSCAILToVideo", clip, reference_image=clip.first, **pose, **more)


def _hunyuan(_base: Any, clip: Clip) -> dict[str, Any]:
    inputs = {"positive": _blank(), "guidance_type": "v1 (concat)", "start_image": clip.first}
    return _node("nodes_hunyuan", "HunyuanImageToVideo", **inputs, **clip.size())[0][0][1]


def _hunyuan_15(_base: Any, clip: Clip) -> dict[str, Any]:
    """Text-to-video and image-to-video have the same layers: the image-to-video model has a CLIP vision model."""
    if clip.vision is None:
        return {}
    images = {"start_image": clip.first, VISION: clip.seen()}
    return _conditioned("nodes_hunyuan", "HunyuanVideo15ImageToVideo", clip, **images)


def _cosmos(name: str) -> ImageConditioning:
    def image_conditioning(base: Any, clip: Clip) -> dict[str, Any]:
        if not base.image_to_video:
            return {}
        (latent,) = _node("nodes_cosmos", name, **clip.size(), start_image=clip.first)
        return {KNOWN: latent["samples"], KNOWN_MASK: latent["noise_mask"]}

    return image_conditioning


def _cogvideox(base: Any, clip: Clip) -> dict[str, Any]:
    """The host has no node for it, but takes the start image's latents in its conditioning."""
    beside = base.diffusion_model.in_channels - base.latent_format.latent_channels
    return {"concat_latent_image": clip.vae.encode(clip.first)} if beside else {}


IMAGE_CONDITIONING: dict[str, ImageConditioning] = {
    "SVD_img2vid": _svd,
    "WAN21_Vace": _vace,
    "WAN21_Camera": _wan_node("WanCameraImageToVideo", vision=True),
    "WAN21_HuMo": _humo,
    "WAN22_S2V": _wan_node("WanSoundImageToVideo", "ref_image"),
    "WAN22_Animate": _with_place_before("WanAnimateToVideo", continue_motion_max_frames=5),
    "WAN_Animate2": _with_place_before("WanAnimate2ToVideo"),
    "WAN21_SCAIL": _scail,
    "WAN21": _wan,
    "HunyuanVideoI2V": _hunyuan,
    "HunyuanVideoSkyreelsI2V": _hunyuan,
    "HunyuanVideo15": _hunyuan_15,
    "CosmosVideo": _cosmos("CosmosImageToVideoLatent"),
    "CosmosPredict2": _cosmos("CosmosPredict2ImageToVideoLatent"),
    "CogVideoX": _cogvideox,
    "LTXV": lambda _base, clip: {"frame_rate": clip.fps},
    "LTXAV": lambda _base, clip: {"frame_rate": clip.fps},
}
"""By the name of the host's model class, or of the nearest of its base classes; all others get their text only."""

UNTRAINABLE = {
    "HunyuanVideo15_SR_Distilled": "upscales a video and adds no motion",
    "SV3D_u": "circles around an object and adds no motion",
    "SV3D_p": "circles around an object and adds no motion",
}


def check_trainable(base: Any) -> None:
    """Raises: EchoReelError, in one sentence, for a model that EchoReel can be applied to but not trained on."""
    name = type(base).__name__
    if name in UNTRAINABLE:
        raise EchoReelError(f"The model {name} {UNTRAINABLE[name]}: train on the model that generates the video.")
    inputs = getattr(base.diffusion_model, "in_channels", None)
    if name == "CogVideoX" and inputs > 2 * base.latent_format.latent_channels:
        raise EchoReelError(
            "CogVideoX for inpainting needs to know what to remove from a video, which pairs of clips do not show: "
            "train on its text-to-video or image-to-video model."
        )


def image_conditioning(base: Any, clip: Clip) -> Conditioning:
    """The image conditioning of a clip for the host's model, ready for the cache.

    Raises: EchoReelError where that takes a model that is not connected.
    """
    for cls in type(base).__mro__:
        if cls.__name__ in IMAGE_CONDITIONING:
            conditioning = IMAGE_CONDITIONING[cls.__name__](base, clip)
            break
    else:
        conditioning = {}
    plain = {
        name: {k: v for k, v in vars(value).items() if isinstance(v, Tensor)}
        if isinstance(value, comfy.clip_vision.Output)
        else value
        for name, value in conditioning.items()
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

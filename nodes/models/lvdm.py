"""The released checkpoint as stock MODEL, CLIP and VAE of the host."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from typing import Any

import comfy.conds
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.sd
import comfy.sd1_clip
import comfy.utils
import torch
from comfy import latent_formats, supported_models_base
from comfy.ldm.modules.attention import optimized_attention
from comfy.patcher_extension import WrapperExecutor, WrappersMP, get_all_wrappers
from torch import Tensor

from ...echoreel_core.errors import EchoReelError
from ...echoreel_core.lvdm.autoencoder import AutoencoderConfig
from ...echoreel_core.lvdm.checkpoint import ReleasedCheckpoint, build, load_released
from ...echoreel_core.lvdm.text_encoder import HEAD_DIM, TextConfig
from ...echoreel_core.lvdm.unet import LVDMConfig, LVDMUNet
from ..families.unet import frames_in_batch_grid
from .patches import patches_in


class HostLVDMUNet(LVDMUNet):
    """The UNet as the host calls it: frames in the batch, the conditioning repeated for each."""

    def __init__(self, *, dtype: torch.dtype, device: Any, operations: Any, **config: Any) -> None:
        with torch.device("meta"):  # the weights are assigned when they are loaded
            super().__init__(LVDMConfig(**config), operations, optimized_attention)
        self.dtype = dtype

    def forward(
        self,
        x: Tensor,
        timesteps: Tensor,
        context: Tensor,
        y: None = None,
        control: Any = None,
        transformer_options: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """x [clips·T, C, H, W], timesteps [clips·T], context [clips·T, L, context_dim] → as x.

        As the host's own UNet does, inside the wrappers that others put around it.
        """
        options = {} if transformer_options is None else transformer_options
        wrappers = get_all_wrappers(WrappersMP.DIFFUSION_MODEL, options)
        if not wrappers:  # less for torch.compile to look at
            return self._forward(x, timesteps, context, y, control, options, **kwargs)
        executor = WrapperExecutor.new_class_executor(self._forward, self, wrappers)
        return executor.execute(x, timesteps, context, y, control, options, **kwargs)

    def _forward(
        self,
        x: Tensor,
        timesteps: Tensor,
        context: Tensor,
        _y: None,
        _control: Any,
        transformer_options: Mapping[str, Any],
        **kwargs: Any,
    ) -> Tensor:
        patches = patches_in(transformer_options, x, self.config.heads)
        call = {**kwargs, "transformer_options": transformer_options}
        frames = frames_in_batch_grid(self, x, call).latent_frames
        if not frames or len(x) % frames:
            raise EchoReelError(
                f"Another node runs the model on {len(x)} frames at once, which are no whole number of clips: let it "
                "run all frames of a clip together."
            )
        clips = x.unflatten(0, (-1, frames)).transpose(1, 2)
        out = super().forward(clips, timesteps[::frames], context[::frames], patches)
        return out.transpose(1, 2).flatten(0, 1)


class LVDMHostConfig(supported_models_base.BASE):
    """The host's description of LVDM: Stable Diffusion 1.5's latents and noise schedule."""

    unet_extra_config: dict = {}
    latent_format = latent_formats.SD15
    memory_usage_factor = 2.0


class LVDMHostModel(comfy.model_base.BaseModel):
    """LVDM as one of the host's models."""

    def __init__(self, model_config: LVDMHostConfig, device: torch.device | None = None) -> None:
        super().__init__(model_config, comfy.model_base.ModelType.EPS, device=device, unet_model=HostLVDMUNet)

    def extra_conds(self, **kwargs: Any) -> dict[str, Any]:
        """The host's, and how many frames a clip has: packs call the model on parts of a batch, or on many tiles."""
        return {**super().extra_conds(**kwargs), "num_video_frames": comfy.conds.CONDConstant(len(kwargs["noise"]))}

    def resize_cond_for_context_window(
        self, cond_key: str, cond_value: Any, window: Any, x_in: Tensor, *args: Any, **kwargs: Any
    ) -> Any:
        """The same for a context window, which may have one frame more than its own."""
        if cond_key == "num_video_frames":
            return cond_value._copy_with(len(window.get_tensor(torch.empty(len(x_in)), dim=0)))
        return super().resize_cond_for_context_window(cond_key, cond_value, window, x_in, *args, **kwargs)


def lvdm_patcher(checkpoint: ReleasedCheckpoint, disable_dynamic: bool = False) -> comfy.model_patcher.ModelPatcher:
    """A MODEL from a checkpoint's LVDM weights, in the dtype the host prefers for this device."""
    config, weights = checkpoint.unet_config, checkpoint.unet
    management = comfy.model_management
    load_device = management.get_torch_device()
    host_config = LVDMHostConfig(asdict(config))
    if checkpoint.vae:  # with this the host resizes empty latents, made for an eighth of the picture, to the right size
        factor = AutoencoderConfig.from_state_dict(checkpoint.vae).factor
        host_config.latent_format.spacial_downscale_ratio = factor
    dtype = management.unet_dtype(
        model_params=comfy.utils.calculate_parameters(weights),
        supported_dtypes=host_config.supported_inference_dtypes,
        weight_dtype=comfy.utils.weight_dtype(weights),
    )
    cast = management.unet_manual_cast(dtype, load_device, host_config.supported_inference_dtypes)
    host_config.set_inference_dtype(dtype, cast)
    model = LVDMHostModel(host_config)
    build(model.diffusion_model, {key: tensor.to(dtype) for key, tensor in weights.items()})
    management.archive_model_dtypes(model.diffusion_model)
    patcher_class = comfy.model_patcher.ModelPatcher if disable_dynamic else comfy.model_patcher.CoreModelPatcher
    return patcher_class(model, load_device=load_device, offload_device=management.unet_offload_device())


def reload_lvdm(path: str, disable_dynamic: bool = False) -> comfy.model_patcher.ModelPatcher:
    """A fresh MODEL from the file, as the host wants it for every further GPU."""
    return lvdm_patcher(load_released(path), disable_dynamic)


def text_encoder(weights: Mapping[str, Tensor], embedding_directory: Any = None) -> comfy.sd.CLIP:
    """A CLIP from text weights named `transformer.text_model.…`, of whatever size."""
    config = TextConfig.from_state_dict({key.removeprefix("transformer."): value for key, value in weights.items()})
    clip_config = {
        "vocab_size": config.vocabulary,
        "hidden_size": config.width,
        "intermediate_size": config.feed_forward,
        "num_attention_heads": max(1, config.width // HEAD_DIM),
        "num_hidden_layers": config.depth,
        "max_position_embeddings": config.tokens,
        "hidden_act": "quick_gelu",
        "eos_token_id": 49407,
    }
    target = supported_models_base.ClipTarget(comfy.sd1_clip.SD1Tokenizer, comfy.sd1_clip.SD1ClipModel)
    target.params = {
        "clip_model": partial(
            comfy.sd1_clip.SDClipModel, textmodel_json_config=clip_config, return_projected_pooled=False
        )
    }
    state_dict = {f"clip_l.{key}": value for key, value in weights.items()}
    return comfy.sd.CLIP(
        target,
        embedding_directory=embedding_directory,
        tokenizer_data=state_dict,
        parameters=comfy.utils.calculate_parameters(state_dict),
        state_dict=state_dict,
    )


def image_vae(weights: Mapping[str, Tensor]) -> comfy.sd.VAE:
    """A VAE of Stable Diffusion 1.x's kind, of whatever size; without weights, one that says so when it is used."""
    if not weights:
        return comfy.sd.VAE(sd={})
    config = AutoencoderConfig.from_state_dict(weights)
    vae = comfy.sd.VAE(
        sd=dict(weights), config={"params": {"ddconfig": config.ddconfig(), "embed_dim": config.latent_channels}}
    )
    vae.latent_channels = config.latent_channels
    vae.downscale_ratio = vae.upscale_ratio = config.factor
    return vae

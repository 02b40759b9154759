"""Every host family at its smallest: the host's own classes with random weights, built the way the host builds them.

`CASES` names them; `build(name)` gives a `Tiny`, or None where this version of the host has no such model.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import comfy.model_patcher
import comfy.ops
import comfy.sd
import comfy.supported_models
import comfy.utils
import torch
from conditioning import noise
from tiny_models import randomise

CPU = torch.device("cpu")
Builder = Callable[[], "Tiny"]


@dataclass
class Tiny:
    """A model with the inputs of one call, for both halves of the guidance unless it takes one sample only.

    Attributes:
        x: noisy latents, as the sampler holds them.
        conds: the other inputs of the model.
        channels: of the latents that the prism is to take.
        frames: of the clip, in tokens. leading, trailing: latent frames before and after it that are not the clip's.
        options: further transformer_options.
        factor: pixels of its VAE to a latent.
        text_width: of its text encoder's tokens; left out where the model is given them as they are.
        vision: (width, tokens) of the CLIP vision model that it is shown images by; left out where it has none.
    """

    family: str
    model: Any
    x: torch.Tensor
    conds: dict[str, Any]
    channels: int = 16
    frames: int = 3
    leading: int = 0
    trailing: int = 0
    options: dict[str, Any] = field(default_factory=dict)
    factor: int = 8
    text_width: int | None = None
    vision: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if self.text_width is None and "c_crossattn" in self.conds:
            self.text_width = self.conds["c_crossattn"].shape[-1]
        if self.vision is None and "clip_fea" in self.conds:
            self.vision = self.conds["clip_fea"].shape[-1], self.conds["clip_fea"].shape[1]


def find(path: str, name: str) -> Any:
    """A class of the host by module and name; raises `Missing` where this version has none."""
    try:
        return getattr(importlib.import_module(path), name)
    except (ImportError, AttributeError):
        raise Missing(name) from None


class Missing(Exception):
    """This version of the host has no such model."""


def from_state_dict(cls: type, config: dict, metadata: dict | None = None, buffers: dict | None = None) -> Any:
    """The host's own way: weights → detection → patcher. `buffers` are those that the host takes from its files."""
    module = cls(**config, dtype=torch.float32, device="cpu", operations=comfy.ops.disable_weight_init)
    weights = {**randomise(module).state_dict(), **(buffers or {})}
    more = {"metadata": {"config": json.dumps({"transformer": metadata})}} if metadata else {}
    model = comfy.sd.load_diffusion_model_state_dict(weights, model_options={"dtype": torch.float32}, **more)
    assert type(model.model.diffusion_model) is cls
    return model


def from_config(name: str, unet_config: dict) -> Any:
    """Past the detection, for sizes it cannot express."""
    config = find("comfy.supported_models", name)(dict(unet_config))
    config.set_inference_dtype(torch.float32, None)
    model = config.get_model({}, "", device=CPU)
    randomise(model.diffusion_model)
    return comfy.model_patcher.ModelPatcher(model, load_device=CPU, offload_device=CPU)


WAN_CONFIG = {
    "dim": 128,
    "ffn_dim": 64,
    "num_heads": 1,
    "num_layers": 2,
    "in_dim": 16,
    "out_dim": 16,
    "text_dim": 4096,
    "freq_dim": 256,
    "qk_norm": True,
    "cross_attn_norm": True,
    "patch_size": (1, 2, 2),
    "model_type": "t2v",
}


def wan(cls: str = "WanModel", module: str = "model", channels: int = 16, conds: dict | None = None, **config) -> Tiny:
    model = from_state_dict(find(f"comfy.ldm.wan.{module}", cls), {**WAN_CONFIG, **config})
    text = {"c_crossattn": noise(2, 5, 4096, seed=1)}
    x, conds = noise(2, channels, 3, 8, 6), {**text, **(conds or {})}
    return Tiny("wan", model, x, conds, channels=channels, factor=16 if channels == 48 else 8)


def concat(channels: int, size: tuple[int, ...] = (3, 8, 6)) -> dict[str, torch.Tensor]:
    return {"c_concat": noise(2, channels, *size, seed=2)}


def wan_i2v() -> Tiny:
    conds = {**concat(20), "clip_fea": noise(2, 257, 1280, seed=3)}
    return wan(model_type="i2v", in_dim=36, conds=conds)


def wan_reference() -> Tiny:
    """Fun and others: a reference picture goes in as one more frame before the clip's."""
    return wan(in_dim_ref_conv=16, conds={"reference_latent": noise(2, 16, 8, 6, seed=4)})


def wan_phantom() -> Tiny:
    return wan(conds={"time_dim_concat": noise(2, 16, 1, 8, 6, seed=4)})


def wan_vace() -> Tiny:
    conds = {"vace_context": noise(2, 1, 96, 3, 8, 6, seed=4), "vace_strength": [1.0]}
    return wan("VaceWanModel", model_type="vace", vace_layers=1, vace_in_dim=96, conds=conds)


def wan_camera() -> Tiny:
    conds = {**concat(20), "camera_conditions": noise(2, 24, 3, 64, 48, seed=4)}
    return wan("CameraWanModel", model_type="camera_2.2", in_dim=36, conds=conds)


def wan_humo() -> Tiny:
    conds = {
        **concat(20),
        "audio_embed": noise(2, 3, 8, 5, 1280, seed=4),
        "reference_latent": noise(2, 36, 1, 8, 6, seed=5),
    }
    return wan("HumoWanModel", model_type="humo", in_dim=36, conds=conds)


def wan_s2v() -> Tiny:
    conds = {"audio_embed": noise(2, 25, 1024, 12, seed=4), "reference_latent": noise(2, 16, 1, 8, 6, seed=5)}
    tiny = wan("WanModel_S2V", model_type="s2v", audio_inject_layers=[0, 1], conds=conds)
    randomise(tiny.model.model.diffusion_model)  # the host adds the layers for the sound that the full model has
    return tiny


def wan_animate() -> Tiny:
    conds = {
        **concat(20),
        "clip_fea": noise(2, 257, 1280, seed=3),
        "pose_latents": noise(2, 16, 2, 8, 6, seed=4),
    }
    tiny = wan("AnimateWanModel", "model_animate", model_type="animate", in_dim=36, num_layers=5, conds=conds)
    return replace(tiny, frames=2, leading=1)


def wan_scail() -> Tiny:
    conds = {
        "clip_fea": noise(2, 257, 1280, seed=3),
        "pose_latents": noise(2, 20, 3, 8, 6, seed=4),
        "reference_latent": noise(2, 20, 1, 8, 6, seed=5),
        **concat(4),
    }
    return wan("SCAILWanModel", model_type="scail", in_dim=20, conds=conds)


def wan_animate2() -> Tiny:
    """Its blocks are not called as modules, and the frames of its pose video run through them too."""
    config = {**WAN_CONFIG, "image_model": "wan2.1", "model_type": "animate2", "in_dim": 36}
    model = from_config("WAN_Animate2", config)
    conds = {
        **concat(20),
        "c_crossattn": noise(2, 5, 4096, seed=1),
        "clip_fea": noise(2, 257, 1280, seed=3),
        "pose_latents": noise(2, 16, 2, 8, 6, seed=4),
    }
    return Tiny("wan", model, noise(2, 16, 3, 8, 6), conds, frames=2, leading=1)


def wan_causal(chunk: bool = False) -> Tiny:
    """One that makes the clip chunk by chunk, with what came before in a cache."""
    model = from_config("WAN21_CausalAR_T2V", {**WAN_CONFIG, "image_model": "wan2.1", "causal_ar": True})
    tiny = Tiny("wan", model, noise(2, 16, 3, 8, 6), {"c_crossattn": noise(2, 5, 4096, seed=1)})
    if chunk:
        causal = model.model.diffusion_model
        tiny.options["ar_state"] = {
            "start_frame": 0,
            "kv_caches": causal.init_kv_caches(2, 3 * 12, CPU, torch.float32),
            "crossattn_caches": causal.init_crossattn_caches(2, CPU, torch.float32),
        }
    return tiny


SVD_CONFIG = {
    "image_size": 32,
    "in_channels": 8,
    "out_channels": 4,
    "model_channels": 64,
    "channel_mult": [1, 2],
    "num_res_blocks": [1, 1],
    "transformer_depth": [1, 1],
    "transformer_depth_output": [1, 1, 1, 1],
    "transformer_depth_middle": 1,
    "context_dim": 64,
    "adm_in_channels": 768,
    "num_classes": "sequential",
    "use_spatial_transformer": True,
    "use_linear_in_transformer": True,
    "extra_ff_mix_layer": True,
    "use_spatial_context": True,
    "merge_strategy": "learned_with_images",
    "merge_factor": 0.0,
    "video_kernel_size": [3, 1, 1],
    "use_temporal_resblock": True,
    "use_temporal_attention": True,
    "disable_temporal_crossattention": False,
    "legacy": False,
}


def svd(frames: int = 3) -> Tiny:
    conds = {
        "c_concat": noise(2 * frames, 4, 8, 12, seed=2),
        "y": noise(2 * frames, 768, seed=3),
        "c_crossattn": noise(2 * frames, 1, 64, seed=1),
        "num_video_frames": frames,
    }
    model, x = from_config("SVD_img2vid", SVD_CONFIG), noise(2 * frames, 4, 8, 12)
    return Tiny("svd", model, x, conds, channels=4, vision=(1280, 257))


LTXV_CONFIG = {
    "cross_attention_dim": 128,
    "attention_head_dim": 4,
    "num_attention_heads": 32,
    "caption_channels": 4096,
    "num_layers": 2,
}


def ltxv(guides: int = 0) -> Tiny:
    conds = {
        "c_crossattn": noise(2, 5, 4096, seed=1),
        "attention_mask": torch.ones(2, 5, dtype=torch.int64),
        "frame_rate": 25,
    }
    if guides:  # guide frames are appended to the clip's; here two tokens of them are dropped
        mask = torch.ones(2, 1, 3 + guides, 2, 3)
        mask[:, :, -1, 0, :2] = -1
        conds |= {"keyframe_idxs": torch.zeros(2, 3, guides * 6, 2), "denoise_mask": mask}
    model = from_state_dict(find("comfy.ldm.lightricks.model", "LTXVModel"), LTXV_CONFIG)
    return Tiny("ltxv", model, noise(2, 128, 3 + guides, 2, 3), conds, channels=128, trailing=guides, factor=32)


def ltxv_gated() -> Tiny:
    config = {**LTXV_CONFIG, "cross_attention_adaln": True}
    model = from_state_dict(find("comfy.ldm.lightricks.model", "LTXVModel"), config, metadata=config)
    return Tiny("ltxv", model, noise(2, 128, 3, 2, 3), ltxv().conds, channels=128, factor=32)


def ltxav() -> Tiny:
    config = {
        **LTXV_CONFIG,
        "audio_cross_attention_dim": 64,
        "audio_attention_head_dim": 2,
        "audio_num_attention_heads": 32,
        "caption_channels": 64,
        "connector_attention_head_dim": 32,
        "connector_num_attention_heads": 2,
        "connector_num_layers": 1,
    }
    model = from_state_dict(find("comfy.ldm.lightricks.av_model", "LTXAVModel"), config, metadata=config)
    packed, shapes = comfy.utils.pack_latents([noise(2, 128, 3, 2, 3), noise(2, 8, 4, 16, seed=2)])
    conds = {"c_crossattn": noise(2, 5, 128, seed=1), "latent_shapes": shapes, "frame_rate": 25}
    return Tiny("ltxav", model, packed, conds, channels=128, factor=32)


HUNYUAN_CONFIG = {
    "image_model": "hunyuan_video",
    "in_channels": 16,
    "out_channels": 16,
    "hidden_size": 128,
    "num_heads": 1,
    "depth": 2,
    "depth_single_blocks": 2,
    "axes_dim": [16, 56, 56],
    "patch_size": [1, 2, 2],
    "context_in_dim": 64,
    "vec_in_dim": 768,
    "theta": 256,
    "mlp_ratio": 4.0,
    "qkv_bias": True,
    "guidance_embed": True,
    "byt5": False,
    "meanflow": False,
    "use_cond_type_embedding": False,
    "vision_in_dim": None,
    "meanflow_sum": False,
}


def hunyuan(reference: bool = False, image: bool = False) -> Tiny:
    batch = 1 if reference else 2  # the host itself can take a reference for one sample only
    conds = {"c_crossattn": noise(batch, 5, 64, seed=1), "y": noise(batch, 768, seed=2), "guidance": torch.ones(batch)}
    if reference:
        conds["ref_latent"] = noise(1, 16, 1, 8, 6, seed=3)
    if image:
        conds |= concat(17)
    config = {**HUNYUAN_CONFIG, "in_channels": 33 if image else 16}
    model = from_state_dict(find("comfy.ldm.hunyuan_video.model", "HunyuanVideo"), config)
    return Tiny("hunyuan_video", model, noise(batch, 16, 3, 8, 6), conds)


def hunyuan_1_5() -> Tiny:
    find("comfy.latent_formats", "HunyuanVideo15")
    config = {
        **HUNYUAN_CONFIG,
        "in_channels": 65,
        "out_channels": 32,
        "vec_in_dim": None,
        "patch_size": [1, 1, 1],
        "byt5": True,
        "use_cond_type_embedding": True,
        "meanflow_sum": True,
        "vision_in_dim": 1152,
        "depth_single_blocks": 0,
        "guidance_embed": False,
    }
    conds = {
        **concat(33, (3, 4, 3)),
        "c_crossattn": noise(2, 5, 64, seed=1),
        "txt_byt5": noise(2, 4, 1472, seed=3),
        "clip_fea": noise(2, 7, 1152, seed=4),
    }
    model = from_state_dict(find("comfy.ldm.hunyuan_video.model", "HunyuanVideo"), config)
    return Tiny("hunyuan_video", model, noise(2, 32, 3, 4, 3), conds, channels=32, factor=16)


def mochi() -> Tiny:
    config = {
        "image_model": "mochi_preview",
        "depth": 2,
        "patch_size": 2,
        "num_heads": 4,
        "hidden_size_x": 128,
        "hidden_size_y": 64,
        "mlp_ratio_x": 96.0,
        "mlp_ratio_y": 4.0,
        "learn_sigma": False,
        "in_channels": 12,
        "qk_norm": True,
        "qkv_bias": False,
        "out_bias": True,
        "attn_drop": 0.0,
        "patch_embed_bias": True,
        "posenc_preserve_area": True,
        "timestep_mlp_bias": True,
        "attend_to_padding": False,
        "timestep_scale": 1000.0,
        "use_t5": True,
        "t5_feat_dim": 64,
        "t5_token_length": 7,
        "rope_theta": 10000.0,
    }
    conds = {
        "c_crossattn": noise(2, 7, 64, seed=1),
        "attention_mask": torch.ones(2, 7, dtype=torch.int64),
        "num_tokens": 7,
    }
    return Tiny("mochi", from_config("GenmoMochi", config), noise(2, 12, 3, 8, 6), conds, channels=12)


def cosmos(image: bool = False) -> Tiny:
    config = {
        "image_model": "cosmos",
        "max_img_h": 240,
        "max_img_w": 240,
        "max_frames": 128,
        "in_channels": 16,
        "out_channels": 16,
        "patch_spatial": 2,
        "patch_temporal": 1,
        "model_channels": 64,
        "num_blocks": 2,
        "num_heads": 4,
        "block_config": "FA-CA-MLP",
        "concat_padding_mask": True,
        "pos_emb_cls": "rope3d",
        "pos_emb_learnable": False,
        "pos_emb_interpolation": "crop",
        "block_x_format": "THWBD",
        "affline_emb_norm": True,
        "use_adaln_lora": True,
        "adaln_lora_dim": 16,
        "crossattn_emb_channels": 1024,
        "extra_per_block_abs_pos_emb": True,
        "extra_per_block_abs_pos_emb_type": "learnable",
    }
    conds = {"c_crossattn": noise(2, 5, 1024, seed=1), "fps": 24}
    if image:
        config["in_channels"], conds["c_concat"] = 17, noise(2, 1, 3, 8, 6, seed=2)
    model = from_config("CosmosI2V" if image else "CosmosT2V", config)
    return Tiny("cosmos", model, noise(2, 16, 3, 8, 6), conds)


def cosmos_predict2(image: bool = False) -> Tiny:
    config = {
        "image_model": "cosmos_predict2",
        "max_img_h": 240,
        "max_img_w": 240,
        "max_frames": 128,
        "in_channels": 16,
        "out_channels": 16,
        "patch_spatial": 2,
        "patch_temporal": 1,
        "concat_padding_mask": True,
        "model_channels": 256,
        "num_blocks": 2,
        "num_heads": 16,
        "crossattn_emb_channels": 1024,
        "pos_emb_cls": "rope3d",
        "pos_emb_learnable": True,
        "pos_emb_interpolation": "crop",
        "min_fps": 1,
        "max_fps": 30,
        "use_adaln_lora": True,
        "adaln_lora_dim": 16,
        "extra_per_block_abs_pos_emb": False,
        "rope_h_extrapolation_ratio": 4.0,
        "rope_w_extrapolation_ratio": 4.0,
        "rope_t_extrapolation_ratio": 1.0,
    }
    conds = {"c_crossattn": noise(2, 5, 1024, seed=1)}
    if image:
        config["in_channels"], conds["c_concat"] = 17, noise(2, 1, 3, 8, 6, seed=2)
    model = from_config("CosmosI2VPredict2" if image else "CosmosT2IPredict2", config)
    return Tiny("cosmos_predict2", model, noise(2, 16, 3, 8, 6), conds)


def cogvideox(patch_size_t: int | None = None, image: bool = False) -> Tiny:
    config = {
        "in_channels": 32 if image else 16,
        "out_channels": 16,
        "num_attention_heads": 1,
        "attention_head_dim": 64,
        "time_embed_dim": 32,
        "text_embed_dim": 64,
        "num_layers": 2,
        "use_rotary_positional_embeddings": True,
        "patch_size_t": patch_size_t,
    }
    model = from_state_dict(find("comfy.ldm.cogvideo.model", "CogVideoXTransformer3DModel"), config)
    conds = {"c_crossattn": noise(2, 5, 64, seed=1), **(concat(16) if image else {})}
    return Tiny("cogvideox", model, noise(2, 16, 3, 8, 6), conds, frames=2 if patch_size_t else 3)


def minimax_h3() -> Tiny:
    config = {
        "hidden_size": 64,
        "num_layers": 2,
        "token_refiner_num_layers": 1,
        "num_attention_heads": 2,
        "attention_head_dim": 32,
        "ffn_hidden_size": 64,
        "text_dim": 48,
        "timestep_input_dim": 32,
        "time_embed_hidden_size": 32,
        "time_embed_dim": 32,
        "rope_inv_freq_len": 4,
    }
    buffers = {"rope.inv_freq": 1 / torch.arange(1.0, 5.0)}
    model = from_state_dict(find("comfy.ldm.minimax.model", "MiniMaxH3Model"), config, buffers=buffers)
    packed, shapes = comfy.utils.pack_latents([noise(1, 24, 3, 8, 6), noise(1, 32, 2, 5, seed=2)])
    conds = {"c_crossattn": noise(1, 5, 64, seed=1), "latent_shapes": shapes, "minimax_payload": {}}
    return Tiny("minimax_h3", model, packed, conds, channels=24, factor=16, text_width=48)


def kandinsky5() -> Tiny:
    config = {
        "model_dim": 64,
        "axes_dims": (16, 24, 24),
        "time_dim": 32,
        "ff_dim": 64,
        "visual_embed_dim": 132,
        "num_text_blocks": 1,
        "num_visual_blocks": 2,
    }
    model = from_state_dict(find("comfy.ldm.kandinsky5.model", "Kandinsky5"), config)
    conds = {**concat(17), "c_crossattn": noise(2, 5, 3584, seed=1), "y": noise(2, 768, seed=3)}
    return Tiny("kandinsky5", model, noise(2, 16, 3, 8, 6), conds)


IMAGE_CASES: dict[str, Builder] = {
    "wan fun control": lambda: wan(model_type="i2v", in_dim=48, conds={**concat(32), "clip_fea": noise(2, 257, 1280)}),
    "wan fun control with reference": lambda: wan(in_dim=52, in_dim_ref_conv=16, conds=concat(36)),
    "hunyuan i2v": lambda: hunyuan(image=True),
    "cosmos i2v": lambda: cosmos(image=True),
    "cosmos predict 2 i2v": lambda: cosmos_predict2(image=True),
    "cogvideox i2v": lambda: cogvideox(image=True),
}
"""More models that are given images: in their blocks they are like others among the cases, in training they are not."""

CASES: dict[str, Builder] = {
    "svd": svd,
    "wan t2v": wan,
    "wan i2v": wan_i2v,
    "wan 5b": lambda: wan(channels=48, in_dim=48, out_dim=48),
    "wan fun reference": wan_reference,
    "wan phantom": wan_phantom,
    "wan vace": wan_vace,
    "wan camera": wan_camera,
    "wan humo": wan_humo,
    "wan s2v": wan_s2v,
    "wan animate": wan_animate,
    "wan scail": wan_scail,
    "wan animate 2": wan_animate2,
    "wan causal": wan_causal,
    "wan causal, by chunks": lambda: wan_causal(chunk=True),
    "ltxv": ltxv,
    "ltxv with guides": lambda: ltxv(guides=2),
    "ltxv gated": ltxv_gated,
    "ltxav": ltxav,
    "hunyuan": hunyuan,
    "hunyuan with reference": lambda: hunyuan(reference=True),
    "hunyuan 1.5": hunyuan_1_5,
    "mochi": mochi,
    "cosmos": cosmos,
    "cosmos predict 2": cosmos_predict2,
    "cogvideox": cogvideox,
    "cogvideox 1.5": lambda: cogvideox(patch_size_t=2),
    "minimax h3": minimax_h3,
    "kandinsky 5": kandinsky5,
}


def build(name: str) -> Tiny | None:
    """The case of that name, or None where this version of the host has no such model."""
    try:
        return {**CASES, **IMAGE_CASES}[name]()
    except Missing:
        return None

"""Wan 2.1 and 2.2 with all their variants."""

from __future__ import annotations

from dataclasses import replace

import torch
from conditioning import noise
from tiny_models import randomise

from .tiny import CPU, Builder, Tiny, concat, find, from_config, from_state_dict

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


CASES: dict[str, Builder] = {
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
}

IMAGE_CASES: dict[str, Builder] = {
    "wan fun control": lambda: wan(model_type="i2v", in_dim=48, conds={**concat(32), "clip_fea": noise(2, 257, 1280)}),
    "wan fun control with reference": lambda: wan(in_dim=52, in_dim_ref_conv=16, conds=concat(36)),
}

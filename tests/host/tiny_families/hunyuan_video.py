"""HunyuanVideo and HunyuanVideo 1.5."""

from __future__ import annotations

import torch
from conditioning import noise

from .tiny import Builder, Tiny, concat, find, from_state_dict

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


CASES: dict[str, Builder] = {
    "hunyuan": hunyuan,
    "hunyuan with reference": lambda: hunyuan(reference=True),
    "hunyuan 1.5": hunyuan_1_5,
}

IMAGE_CASES: dict[str, Builder] = {
    "hunyuan i2v": lambda: hunyuan(image=True),
}

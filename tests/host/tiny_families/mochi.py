"""Mochi."""

from __future__ import annotations

import torch
from conditioning import noise

from .tiny import Builder, Tiny, from_config


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


CASES: dict[str, Builder] = {
    "mochi": mochi,
}

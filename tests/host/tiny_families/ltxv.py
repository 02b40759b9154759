"""LTX-Video, and LTX-2 with sound."""

from __future__ import annotations

import comfy.utils
import torch
from conditioning import noise

from .tiny import Builder, Tiny, find, from_state_dict

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


CASES: dict[str, Builder] = {
    "ltxv": ltxv,
    "ltxv with guides": lambda: ltxv(guides=2),
    "ltxv gated": ltxv_gated,
    "ltxav": ltxav,
}

"""Stable Video Diffusion."""

from __future__ import annotations

from conditioning import noise

from .tiny import Builder, Tiny, from_config

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


CASES: dict[str, Builder] = {
    "svd": svd,
}

"""Cosmos 1 and Cosmos Predict 2."""

from __future__ import annotations

from conditioning import noise

from .tiny import Builder, Tiny, from_config


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


CASES: dict[str, Builder] = {
    "cosmos": cosmos,
    "cosmos predict 2": cosmos_predict2,
}

IMAGE_CASES: dict[str, Builder] = {
    "cosmos i2v": lambda: cosmos(image=True),
    "cosmos predict 2 i2v": lambda: cosmos_predict2(image=True),
}

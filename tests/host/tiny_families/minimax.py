"""MiniMax H3."""

from __future__ import annotations

import comfy.utils
import torch
from conditioning import noise

from .tiny import Builder, Tiny, find, from_state_dict


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


CASES: dict[str, Builder] = {
    "minimax h3": minimax_h3,
}

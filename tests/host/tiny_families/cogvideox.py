"""CogVideoX and CogVideoX 1.5."""

from __future__ import annotations

from conditioning import noise

from .tiny import Builder, Tiny, concat, find, from_state_dict


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


CASES: dict[str, Builder] = {
    "cogvideox": cogvideox,
    "cogvideox 1.5": lambda: cogvideox(patch_size_t=2),
}

IMAGE_CASES: dict[str, Builder] = {
    "cogvideox i2v": lambda: cogvideox(image=True),
}

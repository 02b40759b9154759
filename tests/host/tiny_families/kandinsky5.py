"""Kandinsky 5."""

from __future__ import annotations

from conditioning import noise

from .tiny import Builder, Tiny, concat, find, from_state_dict


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


CASES: dict[str, Builder] = {
    "kandinsky 5": kandinsky5,
}

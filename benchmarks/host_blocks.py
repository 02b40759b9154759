"""ComfyUI's own blocks with random weights, one of each of the big video models.

COMFYUI_PATH=…   where it is, ~/ComfyUI unless said otherwise
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from echoreel_core.action.injection import AnySite, BranchSite, OutputSite, Site

HUNYUAN_TEXT = 256
COMFYUI = Path(os.environ.get("COMFYUI_PATH", Path.home() / "ComfyUI"))

Call = Callable[[Tensor], object]
Made = tuple[nn.Module, AnySite, Call]
"""A block, its site, and a call of it with a hidden state."""


@dataclass(frozen=True)
class Model:
    """A model's sizes.

    Attributes:
        grid: latent frames, height and width in tokens of 81 frames at 832 x 480.
        parameters: of the whole model. blocks: that take a layer.
        make: (tokens, operations as the host's blocks take them) → a block.
        text: tokens of the text in the hidden state, before the clip's.
    """

    dim: int
    grid: tuple[int, int, int]
    blocks: int
    parameters: float
    make: Callable[[int, dict[str, Any]], Made]
    text: int = 0


def find_comfyui(device: str) -> dict[str, Any]:
    """Makes the host's code importable, for blocks on "cpu" or "cuda"; gives its operations on that device.

    Raises: ImportError if ComfyUI, or something it needs, is missing.
    """
    if str(COMFYUI) not in sys.path:
        sys.path.append(str(COMFYUI))
    from comfy.cli_args import args

    args.cpu = args.use_pytorch_cross_attention = device == "cpu"  # the attention that GPUs have, which compiles
    import comfy.ops

    return {"operations": comfy.ops.disable_weight_init, "device": device}


def wan(dim: int, feed_forward: int, heads: int) -> Callable[[int, dict], Made]:
    """A block of Wan."""

    def make(tokens: int, operations: dict) -> Made:
        from comfy.ldm.wan.model import WanAttentionBlock

        block = WanAttentionBlock(
            "t2v_cross_attn", dim, feed_forward, heads, cross_attn_norm=True, operation_settings=operations
        )
        like = {"device": operations["device"], "dtype": operations["dtype"]}
        context, vector = torch.randn(1, 512, dim, **like), torch.randn(1, 6, dim, **like)
        freqs = _no_rotation(1, tokens, 1, dim // heads, device=operations["device"])
        return block, Site("", block, block.norm2, dim), lambda x: block(x, vector, freqs, context)

    return make


def hunyuan(single: bool) -> Callable[[int, dict], Made]:
    """A block of HunyuanVideo, of either kind."""

    def make(tokens: int, operations: dict) -> Made:
        from comfy.ldm.hunyuan_video.model import DoubleStreamBlock, SingleStreamBlock

        dim, heads, text = 3072, 24, HUNYUAN_TEXT
        like = {"device": operations["device"], "dtype": operations["dtype"]}
        freqs = _no_rotation(1, 1, text + tokens, dim // heads, device=operations["device"])
        vector, context = torch.randn(1, dim, **like), torch.randn(1, text, dim, **like)
        if single:
            block = SingleStreamBlock(dim, heads, **operations)
            return block, OutputSite("", block, dim, block), lambda x: block(x.clone(), vector, freqs)
        block = DoubleStreamBlock(dim, heads, 4.0, qkv_bias=True, **operations)
        site = Site("", block, block.img_norm2, dim, item=0)
        return block, site, lambda x: block(x.clone(), context.clone(), vector, freqs)

    return make


def ltxv(dim: int) -> Callable[[int, dict], Made]:
    """A block of LTX-Video."""

    def make(_tokens: int, operations: dict) -> Made:
        from comfy.ldm.lightricks.model import BasicTransformerBlock

        block = BasicTransformerBlock(dim, 32, dim // 32, context_dim=dim, **operations)
        like = {"device": operations["device"], "dtype": operations["dtype"]}
        context, timestep = torch.randn(1, 256, dim, **like), torch.randn(1, 1, 6 * dim, **like)
        call = lambda x: block(x.clone(), context=context, timestep=timestep)  # noqa: E731
        return block, BranchSite("", block, dim, block.attn2, block.attn2), call

    return make


def _no_rotation(*shape: int, device: str) -> Tensor:
    *shape, head_dim = shape
    return torch.eye(2, device=device).expand(*shape, head_dim // 2, 2, 2)


def make_block(model: Model, tokens: int, operations: dict[str, Any], dtype: torch.dtype) -> Made:
    """A block of the model with random weights of unit gain."""
    made = model.make(tokens, {**operations, "dtype": dtype})
    with torch.no_grad():
        for parameter in made[0].parameters():
            parameter.normal_(std=parameter.shape[-1] ** -0.5)
    return made


MODELS = {
    "Wan 1.3B": Model(1536, (21, 30, 52), 30, 1.42e9, wan(1536, 8960, 12)),
    "Wan 14B": Model(5120, (21, 30, 52), 40, 14.3e9, wan(5120, 13824, 40)),
    "Hunyuan double": Model(3072, (21, 30, 52), 60, 12.8e9, hunyuan(single=False)),
    "Hunyuan single": Model(3072, (21, 30, 52), 60, 12.8e9, hunyuan(single=True), text=HUNYUAN_TEXT),
    "LTXV 2B": Model(2048, (11, 15, 26), 28, 1.92e9, ltxv(2048)),
    "LTXV 13B": Model(4096, (11, 15, 26), 48, 13.0e9, ltxv(4096)),
}

"""The video model: a small text-to-video Wan 2.1 transformer in plain torch, named as the published weights are.

Architecture: Wan 2.1 (https://arxiv.org/abs/2503.20314, section 4.2). It is run from the same files by any host that
takes a Wan of other sizes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ...action.injection import Site

FREQUENCIES = 256  # of the time embedding, in all of the family
PATCH = 2  # latent positions per token and side


@dataclass(frozen=True)
class WanConfig:
    """Sizes; the width of a head is even, the rest is free."""

    width: int = 256
    depth: int = 8
    heads: int = 4
    feed_forward: int = 1024
    text_width: int = 48
    channels: int = 16

    @classmethod
    def from_state_dict(cls, weights: Mapping[str, Tensor], heads: int) -> WanConfig:
        """Reads all sizes but the number of heads, which no shape tells, off the weights."""
        return cls(
            width=weights["head.modulation"].shape[-1],
            depth=1 + max(int(key.split(".")[1]) for key in weights if key.startswith("blocks.")),
            heads=heads,
            feed_forward=weights["blocks.0.ffn.0.weight"].shape[0],
            text_width=weights["text_embedding.0.weight"].shape[1],
            channels=weights["patch_embedding.weight"].shape[1],
        )

    to_dict = asdict


def rotations(frames: int, height: int, width: int, head_dim: int, device: torch.device | str) -> Tensor:
    """Angles `[frames · height · width, head_dim / 2]` by which the pairs of a head's channels turn (3-D RoPE).

    A sixth of the pairs each stands for height and width, rounded down to whole pairs; time has the rest.
    """
    space = 2 * (head_dim // 6)
    axes = (head_dim - 2 * space, space, space)
    angles = []
    for count, dim in zip((frames, height, width), axes, strict=True):
        speed = 10000.0 ** -(torch.arange(0, dim, 2, dtype=torch.float64, device=device) / dim)
        angles.append(torch.arange(count, dtype=torch.float64, device=device)[:, None] * speed)
    t, h, w = angles
    grid = (frames, height, width, -1)
    parts = (t[:, None, None].expand(grid), h[None, :, None].expand(grid), w[None, None].expand(grid))
    return torch.cat(parts, -1).flatten(0, 2).float()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x `[B, N, heads, head_dim]`, neighbouring channels turned in pairs; cos and sin `[N, 1, head_dim / 2]`."""
    a, b = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack([a * cos - b * sin, a * sin + b * cos], -1).flatten(-2).to(x.dtype)


class RMSNorm(nn.RMSNorm):
    """In the dtype of its input."""

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps)


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Softmax attention of `[B, heads, N, head_dim]` to `[B, heads, M, head_dim]`.

    On a CPU the backward pass of two products is several times faster than the fused kernel's.
    """
    if q.device.type != "cpu" or not torch.is_grad_enabled():
        return F.scaled_dot_product_attention(q, k, v)
    heads = q.shape[1]
    q, k, v = (part.flatten(0, 1) for part in (q, k, v))
    weight = torch.bmm(q * q.shape[-1] ** -0.5, k.mT).softmax(-1)
    return torch.bmm(weight, v).unflatten(0, (-1, heads))


class Attention(nn.Module):
    """Multi-head attention with queries and keys normalised over all heads together."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v, self.o = (nn.Linear(width, width) for _ in range(4))
        self.norm_q, self.norm_k = (RMSNorm(width, eps=1e-6) for _ in range(2))

    def forward(self, x: Tensor, context: Tensor, turn: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """x `[B, N, width]` looks at context `[B, M, width]`; `turn` are cosine and sine of `rotations`."""
        q, k, v = self.norm_q(self.q(x)), self.norm_k(self.k(context)), self.v(context)
        q, k, v = (rearrange(part, "b n (h d) -> b n h d", h=self.heads) for part in (q, k, v))
        if turn is not None:
            q, k = rotate(q, *turn), rotate(k, *turn)
        q, k, v = (part.to(v.dtype).transpose(1, 2) for part in (q, k, v))
        return self.o(attend(q, k, v).transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Self-attention, cross-attention to the text, feed-forward; the first and the last are modulated by the time."""

    def __init__(self, config: WanConfig) -> None:
        super().__init__()
        width = config.width
        self.norm1 = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.self_attn = Attention(width, config.heads)
        self.norm3 = nn.LayerNorm(width, eps=1e-6)
        self.cross_attn = Attention(width, config.heads)
        self.norm2 = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        feed_forward = nn.Linear(width, config.feed_forward), nn.Linear(config.feed_forward, width)
        self.ffn = nn.Sequential(feed_forward[0], nn.GELU(approximate="tanh"), feed_forward[1])
        self.modulation = nn.Parameter(torch.zeros(1, 6, width))

    def forward(self, x: Tensor, time: Tensor, text: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
        """x `[B, N, width]`, time `[B, 6, width]`, text `[B, L, width]` → as x."""
        shift, scale, gate, shift_2, scale_2, gate_2 = (self.modulation + time).chunk(6, 1)
        y = self.norm1(x) * (1 + scale) + shift
        x = x + gate * self.self_attn(y, y, turn)
        x = x + self.cross_attn(self.norm3(x), text)
        return x + gate_2 * self.ffn(self.norm2(x) * (1 + scale_2) + shift_2)


class Head(nn.Module):
    """From the hidden state to the values of each patch."""

    def __init__(self, config: WanConfig) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.width, eps=1e-6, elementwise_affine=False)
        self.head = nn.Linear(config.width, PATCH * PATCH * config.channels)
        self.modulation = nn.Parameter(torch.zeros(1, 2, config.width))

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """x `[B, N, width]`, time `[B, width]` → `[B, N, patch · patch · channels]`."""
        shift, scale = (self.modulation + time[:, None]).chunk(2, 1)
        return self.head(self.norm(x) * (1 + scale) + shift)


class WanModel(nn.Module):
    """Noisy latents, time and text tokens → velocity, noise minus clean latents."""

    def __init__(self, config: WanConfig) -> None:
        super().__init__()
        self.config, width = config, config.width
        self.patch_embedding = nn.Conv3d(config.channels, width, (1, PATCH, PATCH), (1, PATCH, PATCH))
        self.text_embedding = nn.Sequential(
            nn.Linear(config.text_width, width), nn.GELU(approximate="tanh"), nn.Linear(width, width)
        )
        self.time_embedding = nn.Sequential(nn.Linear(FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width))
        self.time_projection = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.head = Head(config)

    def forward(self, x: Tensor, time: Tensor, text: Tensor) -> Tensor:
        """x `[B, channels, T, H, W]`, H and W even; time `[B]`, 0 to 1000; text `[B, L, text_width]` → as x."""
        frames, height, width = x.shape[2], x.shape[3] // PATCH, x.shape[4] // PATCH
        angles = rotations(frames, height, width, self.config.width // self.config.heads, x.device)[:, None]
        turn = angles.cos(), angles.sin()
        half = FREQUENCIES // 2
        speed = torch.exp(torch.arange(half, device=x.device) * (-math.log(10000.0) / half))
        waves = time.float()[:, None] * speed
        time = self.time_embedding(torch.cat([waves.cos(), waves.sin()], 1))
        each = self.time_projection(time).unflatten(1, (6, -1))
        text = self.text_embedding(text)
        hidden = rearrange(self.patch_embedding(x), "b c t h w -> b (t h w) c").to(self.head.modulation.dtype)
        for block in self.blocks:
            hidden = block(hidden, each, text, turn)
        sizes = {"t": frames, "h": height, "w": width, "y": PATCH, "x": PATCH}
        return rearrange(self.head(hidden, time), "b (t h w) (y x c) -> b c t (h y) (w x)", **sizes)

    def sites(self) -> list[Site]:
        """Where added layers go: before the norm of each block's feed-forward."""
        width = self.config.width
        return [Site(f"blocks.{i}", block, block.norm2, width) for i, block in enumerate(self.blocks)]


@torch.no_grad()
def start(model: WanModel) -> WanModel:
    """Every residual branch starts at zero with an open gate, so that it learns from the first step on."""
    for block in model.blocks:
        block.modulation[:, [2, 5]] = 1.0
        for layer in (block.self_attn.o, block.cross_attn.o, block.ffn[2]):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
    for layer in (model.time_projection[1], model.head.head):
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    return model

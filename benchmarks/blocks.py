"""A plain Wan model with random weights, to measure without ComfyUI; and one added layer for it.

The block has the products, norms and modulations of Wan 2.1's (github.com/Wan-Video/Wan2.1, wan/modules/model.py), so
that it costs what that costs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from echoreel_core.action.attention import ActionAttention, ActionContext
from echoreel_core.modules.attention import scaled_dot_product

ACTION_DIM, HEADS, HEAD_DIM = 1024, 8, 64
"""Of the default adapter for video transformers, see training/adapters.py."""


@dataclass(frozen=True)
class WanSizes:
    """Sizes of a Wan model; the defaults are those of Wan 2.1 1.3B."""

    dim: int = 1536
    feed_forward: int = 8960
    heads: int = 12
    depth: int = 30
    text_width: int = 4096
    channels: int = 16


WAN_1_3B = WanSizes()
WAN_14B = WanSizes(dim=5120, feed_forward=13824, heads=40, depth=40)


class Float8Linear(nn.Linear):
    """A linear layer whose weight is kept in eight bits (`keep_in_float8`) and widened when it is used."""

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] → [..., out]."""
        return F.linear(x, self.weight.to(self.bias.dtype), self.bias)


class WanAttention(nn.Module):
    """Attention with normalised queries and keys, and rotary positions where they are given."""

    def __init__(self, dim: int, heads: int, linear: type[nn.Linear]) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v, self.o = (linear(dim, dim) for _ in range(4))
        self.norm_q, self.norm_k = nn.RMSNorm(dim, eps=1e-6), nn.RMSNorm(dim, eps=1e-6)

    def forward(self, x: Tensor, context: Tensor, rotation: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """x [B, L, dim], context [B, M, dim] → [B, L, dim]."""
        q, k, v = self.norm_q(self.q(x)), self.norm_k(self.k(context)), self.v(context)
        if rotation is not None:
            q, k = (rotated(y, self.heads, *rotation) for y in (q, k))
        return self.o(scaled_dot_product(q, k, v, self.heads))


def rotated(x: Tensor, heads: int, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions: x [B, L, heads · d], cos and sin [L, 1, d / 2]."""
    a, b = x.float().unflatten(-1, (heads, -1, 2)).unbind(-1)
    return torch.stack((a * cos - b * sin, a * sin + b * cos), -1).flatten(2).to(x.dtype)


class WanBlock(nn.Module):
    """Self-attention, attention to the text, feed-forward; the first and the last are modulated by the time."""

    def __init__(self, sizes: WanSizes, linear: type[nn.Linear] = nn.Linear) -> None:
        super().__init__()
        dim = sizes.dim
        self.norm1, self.norm2 = (nn.LayerNorm(dim, 1e-6, elementwise_affine=False) for _ in range(2))
        self.norm3 = nn.LayerNorm(dim, 1e-6)
        self.self_attn, self.cross_attn = (WanAttention(dim, sizes.heads, linear) for _ in range(2))
        self.ffn = nn.Sequential(
            linear(dim, sizes.feed_forward), nn.GELU(approximate="tanh"), linear(sizes.feed_forward, dim)
        )
        self.modulation = nn.Parameter(torch.zeros(1, 6, dim))

    def forward(self, x: Tensor, time: Tensor, rotation: tuple[Tensor, Tensor], text: Tensor) -> Tensor:
        """x [B, L, dim], time [B, 6, dim], text [B, M, dim] → [B, L, dim]."""
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = (self.modulation + time).chunk(6, dim=1)
        y = torch.addcmul(shift_1, self.norm1(x), 1 + scale_1)
        x = torch.addcmul(x, self.self_attn(y, y, rotation), gate_1)
        x = x + self.cross_attn(self.norm3(x), text)
        return torch.addcmul(x, self.ffn(torch.addcmul(shift_2, self.norm2(x), 1 + scale_2)), gate_2)


class PlainWan(nn.Module):
    """Patches of 1 x 2 x 2 latents in and out, blocks between them."""

    def __init__(self, sizes: WanSizes, linear: type[nn.Linear] = nn.Linear) -> None:
        super().__init__()
        self.sizes = sizes
        self.patch_embedding = nn.Linear(4 * sizes.channels, sizes.dim)
        self.text_embedding = nn.Sequential(
            nn.Linear(sizes.text_width, sizes.dim), nn.GELU(approximate="tanh"), nn.Linear(sizes.dim, sizes.dim)
        )
        self.time_embedding = nn.Sequential(nn.Linear(256, sizes.dim), nn.SiLU(), nn.Linear(sizes.dim, 6 * sizes.dim))
        self.blocks = nn.ModuleList(WanBlock(sizes, linear) for _ in range(sizes.depth))
        self.norm, self.head = nn.LayerNorm(sizes.dim, 1e-6), nn.Linear(sizes.dim, 4 * sizes.channels)

    def forward(self, latents: Tensor, time: Tensor, text: Tensor) -> Tensor:
        """latents [B, C, T, H, W], time [B] from 0 to 1, text [B, M, text_width] → as the latents."""
        b, c, t, h, w = latents.shape
        x = latents.view(b, c, t, h // 2, 2, w // 2, 2).permute(0, 2, 3, 5, 1, 4, 6).reshape(b, -1, 4 * c)
        x, text = self.patch_embedding(x), self.text_embedding(text)
        frequencies = 1000 * time.float()[:, None] * torch.logspace(0, -4, 128, device=time.device)
        waves = torch.cat((frequencies.cos(), frequencies.sin()), -1).to(x.dtype)
        vector = self.time_embedding(waves).unflatten(-1, (6, -1))
        rotation = rotation_of(x.shape[1], self.sizes, x.device)
        for block in self.blocks:
            x = block(x, vector, rotation, text)
        x = self.head(self.norm(x)).view(b, t, h // 2, w // 2, c, 2, 2)
        return x.permute(0, 4, 1, 2, 5, 3, 6).reshape(latents.shape)


def rotation_of(tokens: int, sizes: WanSizes, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosines and sines [tokens, 1, d / 2] of some rotary positions: they cost the same whatever they are."""
    half = sizes.dim // sizes.heads // 2
    angle = torch.arange(tokens, device=device)[:, None, None] * torch.logspace(0, -4, half, device=device)
    return angle.cos(), angle.sin()


def with_random_weights(
    make: Callable[[], nn.Module], device: torch.device, dtype: torch.dtype = torch.bfloat16
) -> nn.Module:
    """The module made on the device, with weights of unit gain."""
    with torch.device("meta"):
        module = make()
    module = module.to(dtype).to_empty(device=device)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=parameter.shape[-1] ** -0.5)
            else:
                parameter.fill_(0.0 if name.endswith("bias") else 1.0)
    return module.requires_grad_(False).eval()


@torch.no_grad()
def keep_in_float8(model: nn.Module) -> None:
    """Narrows the weights of all `Float8Linear` in the model."""
    for module in model.modules():
        if isinstance(module, Float8Linear):
            module.weight = nn.Parameter(module.weight.to(torch.float8_e4m3fn), requires_grad=False)


def folded_layer(
    dim: int, keys: int, frames: int, text: int, dtype: torch.dtype, device: torch.device | str
) -> Callable[[Tensor], Tensor]:
    """An added layer of the default adapter with an action of `keys` frames folded in.

    Args:
        frames: of the clip. text: tokens that come before the clip's.

    Returns: hidden state [B, text + T·P, dim] → what is added to it.
    """
    attention = ActionAttention(
        dim, ACTION_DIM, heads=HEADS, head_dim=HEAD_DIM, max_distance=keys, position="relative_bias"
    ).to(device)
    nn.init.normal_(attention.to_out.weight, std=0.1)  # so that rounding does not hide it
    distance = torch.arange(keys)[None] - torch.arange(frames)[:, None]
    context = ActionContext(torch.randn(1, keys, ACTION_DIM), distance).to(device)
    folded = attention.fold(context, dtype, device)

    def layer(x: Tensor) -> Tensor:
        delta = folded(x[:, text:].unflatten(1, (frames, -1))).flatten(1, 2)
        return F.pad(delta, (0, 0, text, 0)) if text else delta

    return layer

"""The attention layers that the video UNet and the Action Prism are both built from."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

AttentionFunction = Callable[[Tensor, Tensor, Tensor, int], Tensor]
"""(q [B, N, heads·d], k [B, M, heads·d], v [B, M, heads·d], heads) → [B, N, heads·d]. ComfyUI may pass in its own."""


def scaled_dot_product(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """Multi-head attention with torch's own kernel; shapes as in `AttentionFunction`."""
    q, k, v = (rearrange(t, "b n (h d) -> b h n d", h=heads) for t in (q, k, v))
    return rearrange(F.scaled_dot_product_attention(q, k, v), "b h n d -> b n (h d)")


def at_distance(table: Tensor, distance: Tensor) -> Tensor:
    """Looks relative positions up by (possibly fractional) distance.

    Args:
        table: [2·R + 1, ...], the entry for distance -R first.
        distance: [T, S], key position minus query position, in frames; clipped to ±R.

    Returns: [T, S, ...]; between two whole distances their entries are interpolated linearly, at a whole distance
    the entry itself.
    """
    reach = table.shape[0] // 2
    index = distance.to(table.device, torch.float32).clamp(-reach, reach) + reach
    below = index.floor()
    share = (index - below).reshape(*index.shape, *[1] * (table.dim() - 1)).to(table.dtype)
    below = below.long()
    return table[below] * (1 - share) + table[(below + 1).clamp(max=2 * reach)] * share


def frame_distance(queries: int, keys: int, device: torch.device | None = None) -> Tensor:
    """[queries, keys] whole-frame distances, key minus query: both clips start together and run at the same pace."""
    return torch.arange(keys, device=device)[None, :] - torch.arange(queries, device=device)[:, None]


class Attention(nn.Module):
    """Multi-head attention over positions: self-attention, or cross-attention to `context`.

    Parameter names are those of the released checkpoint with `to_out.0` shortened to `to_out`.
    """

    def __init__(
        self,
        dim: int,
        context_dim: int | None = None,
        *,
        heads: int,
        head_dim: int,
        operations=nn,
        attention: AttentionFunction = scaled_dot_product,
    ) -> None:
        super().__init__()
        inner = heads * head_dim
        self.heads, self.attention = heads, attention
        self.to_q = operations.Linear(dim, inner, bias=False)
        self.to_k = operations.Linear(context_dim or dim, inner, bias=False)
        self.to_v = operations.Linear(context_dim or dim, inner, bias=False)
        self.to_out = operations.Linear(inner, dim)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """x [B, N, dim], context [B, M, context_dim] or None → [B, N, dim]."""
        context = x if context is None else context
        return self.to_out(self.attention(self.to_q(x), self.to_k(context), self.to_v(context), self.heads))


class TemporalAttention(nn.Module):
    """Self-attention of every position over time, with relative-position vectors added to keys and values.

    score(t, s) = q_t · (k_s + K[s-t]) / √d,   out_t = Σ_s softmax(score)(t, s) · (v_s + V[s-t]),
    the distance s-t clipped to ±max_frames (reference: lvdm/models/modules/attention_temporal.py).
    """

    def __init__(self, dim: int, *, heads: int, head_dim: int, max_frames: int, operations=nn) -> None:
        super().__init__()
        inner = heads * head_dim
        self.heads = heads
        self.to_q = operations.Linear(dim, inner, bias=False)
        self.to_k = operations.Linear(dim, inner, bias=False)
        self.to_v = operations.Linear(dim, inner, bias=False)
        self.to_out = operations.Linear(inner, dim)
        self.position_k = nn.Parameter(torch.empty(2 * max_frames + 1, head_dim))
        self.position_v = nn.Parameter(torch.empty(2 * max_frames + 1, head_dim))
        nn.init.xavier_uniform_(self.position_k)
        nn.init.xavier_uniform_(self.position_v)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, T, P, dim] (P positions) → [B, T, P, dim]."""
        b, t, p, _ = x.shape
        h = self.heads
        q, k, v = self.to_q(x), self.to_k(x), self.to_v(x)
        d = q.shape[-1] // h
        distance = frame_distance(t, t, x.device)
        position_k = at_distance(self.position_k.to(q), distance)
        position_v = at_distance(self.position_v.to(q), distance)

        # the relative part needs no transpose: for one query frame it is a product with that frame's own table
        bias = rearrange(q.view(b, t, p * h, d) @ position_k.mT, "b t n s -> (b n) t s")
        q, k, v = (rearrange(y, "b t p (h d) -> (b p h) t d", h=h) for y in (q, k, v))
        weight = torch.baddbmm(bias, q, k.mT, beta=d**-0.5, alpha=d**-0.5).softmax(-1)
        out = rearrange(weight @ v, "(b n) t d -> b t n d", b=b)
        out = out + rearrange(weight, "(b n) t s -> b t n s", b=b) @ position_v
        return self.to_out(out.reshape(b, t, p, h * d))


class GEGLUFeedForward(nn.Module):
    """Gated feed-forward: dim → 2 × mult·dim, value · gelu(gate), → dim."""

    def __init__(self, dim: int, mult: int = 4, operations=nn) -> None:
        super().__init__()
        self.proj_in = operations.Linear(dim, dim * mult * 2)
        self.proj_out = operations.Linear(dim * mult, dim)

    def forward(self, x: Tensor) -> Tensor:
        """[..., dim] → [..., dim]."""
        value, gate = self.proj_in(x).chunk(2, dim=-1)
        return self.proj_out(value * F.gelu(gate))

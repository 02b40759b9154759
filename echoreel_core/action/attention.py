"""The added attention layer of EchoReel, in its trained and its folded form.

In one layer, every position of the generated video attends, in each frame, to the frames of the action:

    delta_t = W_o · softmax( LN(x_t) W_q · (k_s + shift) / √d ) · (v_s + shift) + b_o

Keys and values depend on the action alone, which is fixed while sampling, so the products of W_q with the keys and of
the values with W_o can be made once (`ActionAttention.fold`). What is left per token are two thin products of width
heads · S in place of two square ones, at the same numbers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import EchoReelError
from ..modules.attention import at_distance, frame_distance

Position = Literal["relative_vectors", "relative_bias"]


@dataclass(frozen=True)
class ActionContext:
    """What the added layers attend to in one pass of the model.

    The S keys form one or more groups. Attention is normalised within a group; the groups' outputs are added with
    their mix weights. References that are concatenated (the paper's figure 2) form one group, blended ones a group
    each.

    Attributes:
        tokens: [B, S, action_dim], one action per sample.
        distance: [T, S], key position minus query position, in frames of the reference.
        score_bias: [T, S] added to the scores before the softmax (a reference's log weight), or None.
        groups: how many keys each group holds; they add up to S.
        mix_weights: [T or 1, groups], the factor of each group's output at each query frame, or None for 1.
    """

    tokens: Tensor
    distance: Tensor
    score_bias: Tensor | None = None
    groups: tuple[int, ...] = ()
    mix_weights: Tensor | None = None

    def __post_init__(self) -> None:
        if not self.groups:
            object.__setattr__(self, "groups", (self.tokens.shape[1],))

    @classmethod
    def plain(cls, tokens: Tensor, frames: int) -> ActionContext:
        """One reference at the pace of the clip, frame by frame: tokens [B, S, action_dim], a clip of `frames`."""
        return cls(tokens, frame_distance(frames, tokens.shape[1], tokens.device))

    def to(self, device: torch.device | str) -> ActionContext:
        """The same on another device."""
        parts = {name: getattr(self, name) for name in ("tokens", "distance", "score_bias", "mix_weights")}
        return replace(self, **{name: part.to(device) for name, part in parts.items() if part is not None})

    def group_weights(self, like: Tensor) -> Tensor:
        """[T or 1, groups] factors in the dtype and on the device of `like`."""
        if self.mix_weights is None:
            return like.new_ones(1, len(self.groups))
        return self.mix_weights.to(like)

    def key_weights(self, like: Tensor) -> Tensor:
        """[T or 1, S]: each key's group's factor."""
        sizes = torch.tensor(self.groups, device=like.device)
        return self.group_weights(like).repeat_interleave(sizes, dim=1, output_size=self.tokens.shape[1])


def grouped_softmax(scores: Tensor, groups: tuple[int, ...]) -> Tensor:
    """Softmax over the last axis of [..., S], within each group of keys."""
    if len(groups) == 1:
        return scores.softmax(-1)
    return torch.cat([part.softmax(-1) for part in scores.split(groups, dim=-1)], dim=-1)


class ActionAttention(nn.Module):
    """LayerNorm and multi-head cross-attention from a block's hidden state to the action's frames.

    Args:
        dim: width of the model's hidden state.
        action_dim: width of an action token.
        heads, head_dim: of this layer; their product need not be `dim`.
        position: "relative_vectors" (released: a vector per clipped distance added to keys and to values) or
            "relative_bias" (one scalar per head and distance added to the score).
        max_distance: distances are clipped to ± this many frames.

    The output projection starts at zero, so a fresh layer changes nothing.
    """

    def __init__(
        self,
        dim: int,
        action_dim: int,
        *,
        heads: int,
        head_dim: int,
        max_distance: int,
        position: Position = "relative_vectors",
        operations=nn,
    ) -> None:
        super().__init__()
        inner = heads * head_dim
        self.dim, self.action_dim, self.heads, self.head_dim, self.position = dim, action_dim, heads, head_dim, position
        self.norm = operations.LayerNorm(dim)
        self.to_q = operations.Linear(dim, inner, bias=False)
        self.to_k = operations.Linear(action_dim, inner, bias=False)
        self.to_v = operations.Linear(action_dim, inner, bias=False)
        self.to_out = operations.Linear(inner, dim)
        entries = 2 * max_distance + 1
        if position == "relative_vectors":
            self.position_k = nn.Parameter(torch.empty(entries, head_dim))
            self.position_v = nn.Parameter(torch.empty(entries, head_dim))
            nn.init.xavier_uniform_(self.position_k)
            nn.init.xavier_uniform_(self.position_v)
        elif position == "relative_bias":
            self.position_bias = nn.Parameter(torch.zeros(entries, heads))
        else:
            raise EchoReelError(f"unknown position {position!r}: use 'relative_vectors' or 'relative_bias'")
        if self.to_out.weight is not None:  # ComfyUI may create the weights only when they are loaded
            nn.init.zeros_(self.to_out.weight)
            nn.init.zeros_(self.to_out.bias)

    def _keys_values(self, context: ActionContext, like: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values [B, T or 1, S, heads, head_dim]; relative vectors make them differ per query frame."""
        tokens = context.tokens.to(like)
        k, v = (
            F.linear(tokens, layer.weight.to(like)).unflatten(-1, (self.heads, self.head_dim))[:, None]
            for layer in (self.to_k, self.to_v)
        )
        if self.position == "relative_vectors":
            k = k + at_distance(self.position_k.to(like), context.distance)[None, :, :, None]
            v = v + at_distance(self.position_v.to(like), context.distance)[None, :, :, None]
        return k, v

    def _score_bias(self, context: ActionContext, like: Tensor) -> Tensor | None:
        """What is added to the scores: [T, heads or 1, S] in the dtype and on the device of `like`, or None."""
        bias = None if context.score_bias is None else context.score_bias.to(like)[:, None, :]
        if self.position == "relative_bias":
            learned = at_distance(self.position_bias.to(like), context.distance).movedim(-1, 1)
            bias = learned if bias is None else learned + bias
        return bias

    def forward(self, x: Tensor, context: ActionContext) -> Tensor:
        """The trained form.

        Args:
            x: [B, T, P, dim] hidden state, P positions in each of T frames.
            context: its tokens [B, S, action_dim], one action per sample.

        Returns: [B, T, P, dim], to be added to x.
        """
        q = self.to_q(self.norm(x)).unflatten(-1, (self.heads, self.head_dim))
        k, v = self._keys_values(context, q)
        k, v = (y.expand(-1, q.shape[1], -1, -1, -1) for y in (k, v))
        scores = torch.einsum("btphd,btshd->btphs", q, k) * self.head_dim**-0.5
        bias = self._score_bias(context, scores)
        if bias is not None:
            scores = scores + bias[None, :, None]
        weight = grouped_softmax(scores, context.groups)
        mix_weights = context.group_weights(weight)
        if context.mix_weights is not None:
            weight = weight * context.key_weights(weight)[None, :, None, None]
        out = self.to_out(torch.einsum("btphs,btshd->btphd", weight, v).flatten(-2))
        if context.mix_weights is not None:  # the bias belongs to each group's output, so it takes the weights' sum
            out = out + self.to_out.bias.to(out) * (mix_weights.sum(1) - 1)[None, :, None, None]
        return out

    def worth_folding(self, keys: int) -> bool:
        """Whether the folded form takes fewer operations per token than the plain one, for S = `keys`."""
        inner = self.heads * self.head_dim
        return 2 * self.dim * self.heads * keys < 2 * self.dim * inner + 2 * keys * inner

    @torch.no_grad()
    def fold(self, context: ActionContext, dtype: torch.dtype, device: torch.device | str) -> FoldedActionAttention:
        """Folds the action into the layer's matrices; the arithmetic is float32 whatever the result's dtype."""
        wide = torch.empty(0, device=device, dtype=torch.float32)
        weight_q = self.to_q.weight.to(wide).unflatten(0, (self.heads, self.head_dim))
        weight_o = self.to_out.weight.to(wide).unflatten(1, (self.heads, self.head_dim))
        gamma, beta, bias_o = (w.to(wide) for w in (self.norm.weight, self.norm.bias, self.to_out.bias))
        k, v = self._keys_values(context, wide)
        a = torch.einsum("btshd,hdc->btchs", k, weight_q) / math.sqrt(self.head_dim)
        # each head's weights add up to 1 in every group, so the output's bias can be folded into the values
        b = torch.einsum("btshd,chd->bthsc", v, weight_o) + bias_o / self.heads
        key_weights = context.key_weights(wide)
        over_time = len(key_weights) > 1
        if not over_time:
            b = b * key_weights[:, None, :, None]
        a_bias = torch.einsum("c,btchs->bths", beta, a)
        bias = self._score_bias(context, wide)
        if bias is not None:
            a_bias = a_bias + bias[None]
        frames = context.distance.shape[0]
        a_bias = a_bias.expand(-1, frames, -1, -1)
        return FoldedActionAttention(
            scores_in=(a * gamma[:, None, None]).flatten(-2).to(dtype),
            scores_bias=a_bias.flatten(-2).to(dtype),
            values_out=b.flatten(2, 3).to(dtype),
            mix_weights=key_weights.repeat(1, self.heads).to(dtype) if over_time else None,
            heads=self.heads,
            groups=context.groups,
        )


@dataclass(frozen=True)
class FoldedActionAttention:
    """An `ActionAttention` with one action multiplied into its matrices.

    Attributes:
        scores_in: [B, T or 1, dim, heads·S]; T where every query frame has its own (relative vectors).
        scores_bias: [B, T, heads·S].
        values_out: [B, T or 1, heads·S, dim], with the output's bias in it.
        mix_weights: [T, heads·S], the factor of each weight where it changes from frame to frame, else None.
    """

    scores_in: Tensor
    scores_bias: Tensor
    values_out: Tensor
    mix_weights: Tensor | None
    heads: int
    groups: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Memory of the folded matrices in bytes."""
        tensors = (self.scores_in, self.scores_bias, self.values_out, self.mix_weights)
        return sum(t.nbytes for t in tensors if t is not None)

    def __call__(self, x: Tensor) -> Tensor:
        """x [B, T, P, dim] → [B, T, P, dim], to be added to x. A batch of 1 in the matrices serves every sample."""
        b, t, p, dim = x.shape
        x = F.layer_norm(x, (dim,))
        if self.scores_in.shape[1] == 1:  # the same matrices for every frame: one tall product
            scores = (x.reshape(b, 1, t * p, dim) @ self.scores_in).view(b, t, p, -1) + self.scores_bias[:, :, None]
        else:
            scores = x @ self.scores_in + self.scores_bias[:, :, None]
        weight = grouped_softmax(scores.unflatten(-1, (self.heads, -1)), self.groups).flatten(-2)
        if self.mix_weights is not None:
            weight = weight * self.mix_weights[:, None]
        if self.values_out.shape[1] == 1:
            return (weight.view(b, 1, t * p, -1) @ self.values_out).view(b, t, p, dim)
        return weight @ self.values_out

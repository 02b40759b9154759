"""The places in a pass of the UNet where a host may put in what its users patch a model with.

Both classes do nothing: a host hands in subclasses of its own. Hidden states of the UNet are [B·T, C, H, W], those of
its transformers [B, T, P, dim].
"""

from __future__ import annotations

from torch import Tensor

from ..modules.attention import Attention


class TransformerPatches:
    """Around the attentions over space and text of one transformer; those over time are the model's own."""

    def self_attention(self, layer: Attention, x: Tensor) -> Tensor:
        """Attention within each frame: x [B, T, P, dim] → as x."""
        return layer(x.flatten(0, 1)).view_as(x)

    def after_self_attention(self, x: Tensor) -> Tensor:
        """The residual stream [B, T, P, dim] with the attention's output in it → as x."""
        return x

    def cross_attention(self, layer: Attention, x: Tensor, context: Tensor) -> Tensor:
        """Attention to the text, the same for all frames: x [B, T, P, dim], context [B, L, context_dim] → as x."""
        return layer(x.flatten(1, 2), context).view_as(x)


class UNetPatches:
    """Around the blocks of one pass."""

    def enter(self, part: str, index: int) -> None:
        """The pass enters a block: number `index` of "input", "middle" or "output"."""

    def transformer(self, shape: tuple[int, ...]) -> TransformerPatches:
        """What is around the attentions of the block's transformer, for hidden states of that shape."""
        return _NO_TRANSFORMER_PATCHES

    def after_input(self, x: Tensor) -> Tensor:
        """An input block's output → what goes on and is kept for the output block opposite."""
        return x

    def after_skip(self, x: Tensor) -> Tensor:
        """An input block's output → what goes on; kept is what came in."""
        return x

    def before_output(self, x: Tensor, skip: Tensor) -> tuple[Tensor, Tensor]:
        """What an output block gets from the block before, and from the input block opposite → as both."""
        return x, skip


_NO_TRANSFORMER_PATCHES = TransformerPatches()
NO_PATCHES = UNetPatches()

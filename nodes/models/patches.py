"""The host's patches of a UNet, at the places where the host's own UNet has them, for the released model.

Attention patches get the attentions over space and text, one frame per row, as in an image model; attention over time
is the model's own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from ...echoreel_core.lvdm.patches import NO_PATCHES, TransformerPatches, UNetPatches
from ...echoreel_core.modules.attention import Attention


def patches_in(options: Mapping[str, Any], latents: Tensor, heads: int) -> UNetPatches:
    """What transformer_options ask for, around one pass over latents [B·T, C, H, W]."""
    if any(options.get(key) for key in ("patches", "patches_replace", "optimized_attention_override")):
        return HostPatches(options, latents, heads)
    return NO_PATCHES


class HostPatches(UNetPatches):
    """Around the blocks.

    Args:
        options: transformer_options of the call; where the pass is, is written into a copy.
        latents: [B·T, C, H, W]. heads: of every attention.
    """

    def __init__(self, options: Mapping[str, Any], latents: Tensor, heads: int) -> None:
        self._options = {**options, "original_shape": list(latents.shape), "transformer_index": 0}
        self._heads = heads

    def enter(self, part: str, index: int) -> None:
        """See `UNetPatches`."""
        self._options["block"] = (part, index)

    def transformer(self, shape: tuple[int, ...]) -> TransformerPatches:
        """See `UNetPatches`. LVDM's transformers are one block each."""
        self._options |= {"activations_shape": list(shape), "block_index": 0}
        here = HostTransformerPatches(dict(self._options), self._heads, shape[1] // self._heads)
        self._options["transformer_index"] += 1
        return here

    def after_input(self, x: Tensor) -> Tensor:
        """See `UNetPatches`."""
        for patch in _patches(self._options, "input_block_patch"):
            x = patch(x, self._options)
        return x

    def after_skip(self, x: Tensor) -> Tensor:
        """See `UNetPatches`."""
        for patch in _patches(self._options, "input_block_patch_after_skip"):
            x = patch(x, self._options)
        return x

    def before_output(self, x: Tensor, skip: Tensor) -> tuple[Tensor, Tensor]:
        """See `UNetPatches`."""
        for patch in _patches(self._options, "output_block_patch"):
            x, skip = patch(x, skip, self._options)
        return x, skip


class HostTransformerPatches(TransformerPatches):
    """Around the attentions of one transformer.

    Args:
        options: transformer_options of the call and where in the pass it is.
    """

    def __init__(self, options: dict[str, Any], heads: int, head_dim: int) -> None:
        self._options = options
        self._extra = {key: value for key, value in options.items() if key not in ("patches", "patches_replace")}
        self._extra |= {"n_heads": heads, "dim_head": head_dim, "attn_precision": None}

    def self_attention(self, layer: Attention, x: Tensor) -> Tensor:
        """See `TransformerPatches`."""
        rows = x.flatten(0, 1)
        return self._attend("attn1", layer, rows, rows).reshape(x.shape)

    def after_self_attention(self, x: Tensor) -> Tensor:
        """See `TransformerPatches`."""
        for patch in _patches(self._options, "middle_patch"):
            x = patch(x.flatten(0, 1), self._extra).reshape(x.shape)
        return x

    def cross_attention(self, layer: Attention, x: Tensor, context: Tensor) -> Tensor:
        """See `TransformerPatches`."""
        patched = any(_patches(self._options, name) for name in ("attn2_patch", "attn2_output_patch"))
        if patched or self._replacement("attn2") is not None:
            rows, context = x.flatten(0, 1), context.repeat_interleave(x.shape[1], dim=0)
        else:  # all frames of a clip at once: the text's keys and values are computed once
            rows = x.flatten(1, 2)
        return self._attend("attn2", layer, rows, context).reshape(x.shape)

    def _attend(self, name: str, layer: Attention, rows: Tensor, context: Tensor) -> Tensor:
        """[N, tokens, dim], [N, L, context_dim] → [N, tokens, dim]."""
        keys_from, values_from = context, context
        for patch in _patches(self._options, f"{name}_patch"):
            rows, keys_from, values_from = patch(rows, keys_from, values_from, self._extra)
        keys_from = context if keys_from is None else keys_from
        values_from = keys_from if values_from is None else values_from
        q, k, v = layer.to_q(rows), layer.to_k(keys_from), layer.to_v(values_from)
        replacement = self._replacement(name)
        if replacement is None:
            out = layer.attention(q, k, v, layer.heads, transformer_options=self._options)
        else:
            out = replacement(q, k, v, self._extra)
        out = layer.to_out(out)
        for patch in _patches(self._options, f"{name}_output_patch"):
            out = patch(out, self._extra)
        return out

    def _replacement(self, name: str) -> Callable | None:
        """What replaces an attention: by block and the transformer's number in it, or by block."""
        replacements = (self._options.get("patches_replace") or {}).get(name) or {}
        block = self._options["block"]
        return replacements.get((*block, self._options["block_index"]), replacements.get(block))


def _patches(options: Mapping[str, Any], name: str) -> Sequence[Callable]:
    return (options.get("patches") or {}).get(name) or ()

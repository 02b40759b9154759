"""The LVDM text-to-video UNet, the released base model of EchoReel.

Hidden states are frames in the batch, [B·T, C, H, W], in channels-last memory: a frame's convolution is a plain 2-D
one, and the transformer's token view [B, T, H·W, C] costs nothing. Parameter names are those of the released
checkpoint, but for shortened `to_out`, `ff` and relative-position names (names.py).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..action.injection import Site
from ..errors import EchoReelError
from ..modules.attention import Attention, AttentionFunction, GEGLUFeedForward, TemporalAttention, scaled_dot_product
from .patches import NO_PATCHES, TransformerPatches, UNetPatches


@dataclass(frozen=True)
class LVDMConfig:
    """Sizes of an LVDM UNet, tuples have one entry per resolution level; the defaults are the released."""

    in_channels: int = 4
    out_channels: int = 4
    model_channels: int = 320
    channel_mult: tuple[int, ...] = (1, 2, 4, 4)
    res_blocks: int = 2
    attention_levels: tuple[bool, ...] = (True, True, True, False)
    heads: int = 8
    context_dim: int = 768
    max_frames: int = 16

    @classmethod
    def from_state_dict(cls, weights: dict[str, Tensor]) -> LVDMConfig:
        """Reads the sizes off the tensors, keyed as in this module.

        Raises: EchoReelError naming the first thing that is not an LVDM UNet's.
        """
        try:
            channels = weights["input_blocks.0.0.weight"].shape[0]
            widths, attention, res_blocks = [], [], []
            level_width, level_attention, level_blocks = 0, False, 0
            block = 1
            while (
                f"input_blocks.{block}.0.in_layers.2.weight" in weights
                or f"input_blocks.{block}.0.op.weight" in weights
            ):
                if f"input_blocks.{block}.0.op.weight" in weights:
                    widths.append(level_width)
                    attention.append(level_attention)
                    res_blocks.append(level_blocks)
                    level_attention, level_blocks = False, 0
                else:
                    level_width = weights[f"input_blocks.{block}.0.in_layers.2.weight"].shape[0]
                    level_attention = f"input_blocks.{block}.1.proj_in.weight" in weights
                    level_blocks += 1
                block += 1
            widths.append(level_width)
            attention.append(level_attention)
            res_blocks.append(level_blocks)
            middle = "middle_block.1.transformer_blocks.0"
            position = weights[f"{middle}.attn1_tmp.position_k"]
            dim, context_dim = weights[f"{middle}.attn2.to_k.weight"].shape
            config = cls(
                in_channels=weights["input_blocks.0.0.weight"].shape[1],
                out_channels=weights["out.2.weight"].shape[0],
                model_channels=channels,
                channel_mult=tuple(width // channels for width in widths),
                res_blocks=res_blocks[0],
                attention_levels=tuple(attention),
                heads=dim // position.shape[1],
                context_dim=context_dim,
                max_frames=position.shape[0] // 2,
            )
        except KeyError as missing:
            raise EchoReelError(f"This is not an LVDM video UNet: it has no tensor named {missing}.") from None
        if len(set(res_blocks)) != 1:
            raise EchoReelError(
                f"This LVDM UNet has {res_blocks} residual blocks per level; only equal counts are supported."
            )
        return config


def timestep_embedding(timesteps: Tensor, dim: int) -> Tensor:
    """Sinusoidal embedding, cosines first: timesteps [B] → [B, dim], float32."""
    frequencies = torch.exp(torch.arange(dim // 2, device=timesteps.device) * (-math.log(10000) / (dim // 2)))
    angles = timesteps.float()[:, None] * frequencies
    return F.pad(torch.cat((angles.cos(), angles.sin()), dim=-1), (0, dim % 2))


def _clip_group_norm(norm: nn.Module, x: Tensor, frames: int) -> Tensor:
    """Group norm over a whole clip: x [B·T, C, H, W] channels-last; the statistics run over T, H and W together."""
    n, c, h, w = x.shape
    clip = x.permute(0, 2, 3, 1).reshape(n // frames, frames * h, w, c).permute(0, 3, 1, 2)
    out = norm(clip).permute(0, 2, 3, 1).reshape(n, h, w, c)
    return out.permute(0, 3, 1, 2)


class ResBlock(nn.Module):
    """Group norm, SiLU and convolution, twice, with the timestep added in between."""

    def __init__(self, channels: int, out_channels: int, embedding_dim: int, operations) -> None:
        super().__init__()
        conv = {"kernel_size": 3, "padding": 1}
        self.in_layers = nn.ModuleList(
            [operations.GroupNorm(32, channels), nn.SiLU(), operations.Conv2d(channels, out_channels, **conv)]
        )
        self.emb_layers = nn.Sequential(nn.SiLU(), operations.Linear(embedding_dim, out_channels))
        self.out_layers = nn.ModuleList(  # the third is the place of the reference's dropout
            [
                operations.GroupNorm(32, out_channels),
                nn.SiLU(),
                nn.Identity(),
                operations.Conv2d(out_channels, out_channels, **conv),
            ]
        )
        same = channels == out_channels
        self.skip_connection = nn.Identity() if same else operations.Conv2d(channels, out_channels, 1)

    def forward(self, x: Tensor, embedding: Tensor, frames: int) -> Tensor:
        """x [B·T, C, H, W], embedding [B, embedding_dim] → [B·T, out_channels, H, W]."""
        h = self.in_layers[2](F.silu(_clip_group_norm(self.in_layers[0], x, frames)))
        h = h + self.emb_layers(embedding).repeat_interleave(frames, dim=0)[:, :, None, None]
        h = self.out_layers[3](F.silu(_clip_group_norm(self.out_layers[0], h, frames)))
        return self.skip_connection(x) + h


class Downsample(nn.Module):
    """A convolution of stride 2 per frame."""

    def __init__(self, channels: int, operations) -> None:
        super().__init__()
        self.op = operations.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] → [N, C, ceil(H/2), ceil(W/2)]."""
        return self.op(x)


class Upsample(nn.Module):
    """Nearest-neighbour enlargement and a convolution per frame."""

    def __init__(self, channels: int, operations) -> None:
        super().__init__()
        self.conv = operations.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """[N, C, H, W] → [N, C, *size], the size of the skip connection that comes next (odd sizes need it)."""
        return self.conv(F.interpolate(x, size=size, mode="nearest"))


class TransformerBlock(nn.Module):
    """Attention over space, time, text and time again, then the feed-forward; pre-norm, each with a residual.

    EchoReel's layer goes in before `norm3` (see injection.py).
    """

    def __init__(self, config: LVDMConfig, dim: int, operations, attention: AttentionFunction) -> None:
        super().__init__()
        sizes = {"heads": config.heads, "head_dim": dim // config.heads, "operations": operations}
        self.attn1 = Attention(dim, **sizes, attention=attention)
        self.attn2 = Attention(dim, config.context_dim, **sizes, attention=attention)
        self.ff = GEGLUFeedForward(dim, operations=operations)
        self.norm1, self.norm2, self.norm3 = (operations.LayerNorm(dim) for _ in range(3))
        self.attn1_tmp = TemporalAttention(dim, **sizes, max_frames=config.max_frames)
        self.attn2_tmp = TemporalAttention(dim, **sizes, max_frames=config.max_frames)
        self.norm4, self.norm5 = (operations.LayerNorm(dim) for _ in range(2))

    def forward(self, x: Tensor, context: Tensor, patches: TransformerPatches) -> Tensor:
        """x [B, T, P, dim], context [B, L, context_dim] → [B, T, P, dim]."""
        x = patches.after_self_attention(x + patches.self_attention(self.attn1, self.norm1(x)))
        x = x + self.attn1_tmp(self.norm4(x))
        x = x + patches.cross_attention(self.attn2, self.norm2(x), context)
        x = x + self.attn2_tmp(self.norm5(x))
        return x + self.ff(self.norm3(x))


class SpatialTemporalTransformer(nn.Module):
    """Group norm, projection, transformer block, projection, with a residual around all."""

    def __init__(self, config: LVDMConfig, channels: int, operations, attention: AttentionFunction) -> None:
        super().__init__()
        self.norm = operations.GroupNorm(32, channels, eps=1e-6)
        self.proj_in = operations.Linear(channels, channels)
        self.transformer_blocks = nn.ModuleList([TransformerBlock(config, channels, operations, attention)])
        self.proj_out = operations.Linear(channels, channels)

    def forward(self, x: Tensor, context: Tensor, frames: int, patches: UNetPatches) -> Tensor:
        """x [B·T, C, H, W], context [B, L, context_dim] → as x."""
        n, c, height, width = x.shape
        tokens = _clip_group_norm(self.norm, x, frames).permute(0, 2, 3, 1).reshape(-1, frames, height * width, c)
        tokens = self.proj_in(tokens)
        around = patches.transformer(x.shape)
        for block in self.transformer_blocks:
            tokens = block(tokens, context, around)
        return x + self.proj_out(tokens).view(n, height, width, c).permute(0, 3, 1, 2)


class LVDMUNet(nn.Module):
    """The noise-prediction UNet over video latents."""

    def __init__(self, config: LVDMConfig, operations=nn, attention: AttentionFunction = scaled_dot_product) -> None:
        super().__init__()
        self.config = config
        channels, embedding_dim = config.model_channels, config.model_channels * 4
        self.time_embed = nn.Sequential(
            operations.Linear(channels, embedding_dim), nn.SiLU(), operations.Linear(embedding_dim, embedding_dim)
        )

        def res_block(width_in: int, width_out: int) -> ResBlock:
            return ResBlock(width_in, width_out, embedding_dim, operations)

        def transformer(width: int) -> SpatialTemporalTransformer:
            return SpatialTemporalTransformer(config, width, operations, attention)

        width = channels
        skips = [channels]
        self.input_blocks = nn.ModuleList(
            [nn.ModuleList([operations.Conv2d(config.in_channels, channels, 3, padding=1)])]
        )
        levels = list(zip(config.channel_mult, config.attention_levels, strict=True))
        for level, (mult, attends) in enumerate(levels):
            for _ in range(config.res_blocks):
                block = [res_block(width, mult * channels)]
                width = mult * channels
                block += [transformer(width)] if attends else []
                self.input_blocks.append(nn.ModuleList(block))
                skips.append(width)
            if level < len(levels) - 1:
                self.input_blocks.append(nn.ModuleList([Downsample(width, operations)]))
                skips.append(width)
        self.middle_block = nn.ModuleList([res_block(width, width), transformer(width), res_block(width, width)])
        self.output_blocks = nn.ModuleList()
        for level, (mult, attends) in reversed(list(enumerate(levels))):
            for last in [False] * config.res_blocks + [True]:
                block = [res_block(width + skips.pop(), mult * channels)]
                width = mult * channels
                block += [transformer(width)] if attends else []
                block += [Upsample(width, operations)] if last and level > 0 else []
                self.output_blocks.append(nn.ModuleList(block))
        self.out = nn.ModuleList(
            [operations.GroupNorm(32, width), nn.SiLU(), operations.Conv2d(width, config.out_channels, 3, padding=1)]
        )

    def sites(self) -> list[Site]:
        """Where EchoReel's layers go: every transformer block, in the order of the forward pass."""
        return [
            Site(name, module, module.norm3)
            for name, module in self.named_modules()
            if isinstance(module, TransformerBlock)
        ]

    def forward(self, x: Tensor, timesteps: Tensor, context: Tensor, patches: UNetPatches = NO_PATCHES) -> Tensor:
        """Predicts the noise.

        Args:
            x: [B, in_channels, T, H, W] noisy latents.
            timesteps: [B], 0 to 999.
            context: [B, L, context_dim] text tokens.
            patches: a host's.

        Returns: [B, out_channels, T, H, W].
        """
        b, _, frames, _, _ = x.shape
        x = x.transpose(1, 2).flatten(0, 1).contiguous(memory_format=torch.channels_last)
        embedding = self.time_embed(timestep_embedding(timesteps, self.config.model_channels).to(x.dtype))

        def run(block: nn.ModuleList, x: Tensor, size: tuple[int, int] | None = None) -> Tensor:
            for module in block:
                if isinstance(module, ResBlock):
                    x = module(x, embedding, frames)
                elif isinstance(module, SpatialTemporalTransformer):
                    x = module(x, context, frames, patches)
                elif isinstance(module, Upsample):
                    x = module(x, size)
                else:
                    x = module(x)
            return x

        skips = []
        for index, block in enumerate(self.input_blocks):
            patches.enter("input", index)
            skips.append(patches.after_input(run(block, x)))
            x = patches.after_skip(skips[-1])
        patches.enter("middle", 0)
        x = run(self.middle_block, x)
        for index, block in enumerate(self.output_blocks):
            patches.enter("output", index)
            x = torch.cat(patches.before_output(x, skips.pop()), dim=1)
            x = run(block, x, skips[-1].shape[-2:] if skips else None)
        x = self.out[2](F.silu(_clip_group_norm(self.out[0], x, frames)))
        return x.unflatten(0, (b, frames)).transpose(1, 2)

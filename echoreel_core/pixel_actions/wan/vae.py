"""The video autoencoder: Wan 2.1's causal VAE in plain torch, in any width, named as the published weights are.

Architecture: Wan 2.1 (https://arxiv.org/abs/2503.20314, section 4.1): 8 times smaller in space, 4 times in time, 16
channels. The published code walks through a clip in short pieces and keeps each convolution's last frames; here the
whole clip goes through at once, which comes to the same. Everything runs in the dtype of its input.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CHANNELS = 16
_WIDTHS = (1, 2, 4, 4)  # of the levels, in units of the VAE's width
_BLOCKS = 2  # per level, and one more in the decoder


class CausalConv3d(nn.Conv3d):
    """A convolution that sees no later frame: time is padded with zeros in front alone."""

    def forward(self, x: Tensor) -> Tensor:
        if self.kernel_size == (1, 1, 1):  # a product over the channels
            y = F.linear(x.movedim(1, -1), self.weight.to(x.dtype).flatten(1), self.bias.to(x.dtype))
            return y.movedim(-1, 1)
        time, height, width = self.kernel_size
        space = (height // 2, width // 2)
        x = F.pad(x, (0, 0, 0, 0, time - 1, 0))
        return F.conv3d(x, self.weight.to(x.dtype), self.bias.to(x.dtype), self.stride, (0, *space))


class FrameConv2d(nn.Conv2d):
    """A convolution of each frame of `[B, C, T, H, W]` by itself; with a stride, padded below and right alone."""

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.weight.to(x.dtype)[:, :, None], self.bias.to(x.dtype)
        if self.kernel_size == (1, 1):
            return F.linear(x.movedim(1, -1), weight.flatten(1), bias).movedim(-1, 1)
        if self.stride == (2, 2):
            return F.conv3d(F.pad(x, (0, 1, 0, 1)), weight, bias, (1, 2, 2))
        return F.conv3d(x, weight, bias, padding=(0, 1, 1))


class Norm(nn.Module):
    """Each position's channels scaled to a root mean square of `gamma`."""

    def __init__(self, width: int, axes: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width, *[1] * axes))

    def forward(self, x: Tensor) -> Tensor:
        """x `[B, C, T, H, W]` → as x."""
        gamma = self.gamma.flatten().to(x.dtype)
        return F.rms_norm(x.movedim(1, -1), gamma.shape, gamma, eps=1e-12).movedim(-1, 1)


class ResidualBlock(nn.Module):
    """Norm, SiLU and convolution, twice, beside a shortcut."""

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        # A place is left empty where the published code has its dropout.
        self.residual = nn.Sequential(
            *(Norm(width_in, 3), nn.SiLU(), CausalConv3d(width_in, width_out, 3)),
            *(Norm(width_out, 3), nn.SiLU(), nn.Identity(), CausalConv3d(width_out, width_out, 3)),
        )
        self.shortcut = CausalConv3d(width_in, width_out, 1) if width_in != width_out else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.shortcut(x) + self.residual(x)


class FrameAttention(nn.Module):
    """Each frame's positions look at one another, with a single head."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = Norm(width, 2)
        self.to_qkv, self.proj = FrameConv2d(width, 3 * width, 1), FrameConv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        frames = self.to_qkv(self.norm(x)).movedim(1, -1).flatten(2, 3)  # [B, T, H · W, 3 C]
        y = F.scaled_dot_product_attention(*frames.chunk(3, -1))
        return x + self.proj(y.unflatten(2, x.shape[3:]).movedim(-1, 1))


class Halve(nn.Module):
    """Half the size in space, and with `time` half as many frames; the first frame stands by itself."""

    def __init__(self, width: int, time: bool) -> None:
        super().__init__()
        self.resample = nn.Sequential(nn.Identity(), FrameConv2d(width, width, 3, 2))
        self.time_conv = CausalConv3d(width, width, (3, 1, 1), (2, 1, 1)) if time else None

    def forward(self, x: Tensor) -> Tensor:
        x = self.resample(x)
        conv = self.time_conv
        if conv is None or x.shape[2] == 1:
            return x
        later = F.conv3d(x, conv.weight.to(x.dtype), conv.bias.to(x.dtype), conv.stride)  # from frames 0 to 2 on
        return torch.cat([x[:, :, :1], later], 2)


class Double(nn.Module):
    """Twice the size in space at half the channels, and with `time` two frames for each but the first."""

    def __init__(self, width: int, time: bool) -> None:
        super().__init__()
        self.resample = nn.Sequential(nn.Identity(), FrameConv2d(width, width // 2, 3))
        self.time_conv = CausalConv3d(width, 2 * width, (3, 1, 1)) if time else None

    def forward(self, x: Tensor) -> Tensor:
        x = x.movedim(1, -1)  # each value is repeated with its channels together, as they lie in memory
        if self.time_conv is not None and x.shape[1] > 1:
            later = self.time_conv(x[:, 1:].movedim(-1, 1)).movedim(1, -1)  # which never sees the first frame
            later = later.unflatten(-1, (2, -1)).movedim(-2, 2).flatten(1, 2)
            x = torch.cat([x[:, :1], later], 1)
        batch, frames, height, width, channels = x.shape
        x = x[:, :, :, None, :, None].expand(-1, -1, -1, 2, -1, 2, -1)
        return self.resample(x.reshape(batch, frames, 2 * height, 2 * width, channels).movedim(-1, 1))


def _middle(width: int) -> nn.Sequential:
    return nn.Sequential(ResidualBlock(width, width), FrameAttention(width), ResidualBlock(width, width))


def _head(width: int, out: int) -> nn.Sequential:
    return nn.Sequential(Norm(width, 3), nn.SiLU(), CausalConv3d(width, out, 3))


class Encoder(nn.Module):
    """Pixels to twice the latents' channels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = CausalConv3d(3, width, 3)
        layers, size = [], width
        for level, multiple in enumerate(_WIDTHS):
            for _ in range(_BLOCKS):
                layers.append(ResidualBlock(size, size := multiple * width))
            if level < len(_WIDTHS) - 1:
                layers.append(Halve(size, time=level > 0))
        self.downsamples, self.middle, self.head = nn.Sequential(*layers), _middle(size), _head(size, 2 * CHANNELS)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.middle(self.downsamples(self.conv1(x))))


class Decoder(nn.Module):
    """Latents to pixels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        size = _WIDTHS[-1] * width
        self.conv1, self.middle = CausalConv3d(CHANNELS, size, 3), _middle(size)
        layers = []
        for level, multiple in enumerate(_WIDTHS[::-1]):
            for _ in range(_BLOCKS + 1):
                layers.append(ResidualBlock(size, size := multiple * width))
            if level < len(_WIDTHS) - 1:
                layers.append(Double(size, time=level < 2))
                size //= 2
        self.upsamples, self.head = nn.Sequential(*layers), _head(size, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.upsamples(self.middle(self.conv1(x))))


class WanVAE(nn.Module):
    """Clips of 4 n + 1 frames to n + 1 latent frames, and back. Pixels are -1 to 1."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.encoder, self.decoder = Encoder(width), Decoder(width)
        self.conv1, self.conv2 = CausalConv3d(2 * CHANNELS, 2 * CHANNELS, 1), CausalConv3d(CHANNELS, CHANNELS, 1)

    def moments(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Pixels `[B, 3, 4 n + 1, H, W]` → mean and log variance `[B, 16, n + 1, H / 8, W / 8]`."""
        return self.conv1(self.encoder(pixels)).chunk(2, 1)

    def encode(self, pixels: Tensor) -> Tensor:
        """Pixels as above → latents, the mean."""
        return self.moments(pixels)[0]

    def decode(self, latents: Tensor) -> Tensor:
        """Latents `[B, 16, n + 1, h, w]` → pixels `[B, 3, 4 n + 1, 8 h, 8 w]`."""
        return self.decoder(self.conv2(latents))


def load_vae(weights: Mapping[str, Tensor]) -> WanVAE:
    """The VAE of these weights, float32 and frozen."""
    with torch.device("meta"):
        vae = WanVAE(weights["decoder.head.0.gamma"].shape[0])
    vae.load_state_dict({key: value.float() for key, value in weights.items()}, assign=True)
    return vae.requires_grad_(False).eval()


@torch.no_grad()
def standardise(vae: WanVAE, mean: Tensor, deviation: Tensor, to_mean: Tensor, to_deviation: Tensor) -> None:
    """Give latents whose channels have this mean and standard deviation, all `[16]`, others; pixels stay the same."""
    factor = to_deviation / deviation
    into, out = vae.conv1, vae.conv2
    weight, bias = into.weight[:CHANNELS], into.bias[:CHANNELS]
    bias.copy_((bias - mean) * factor + to_mean)
    weight.mul_(factor.view(-1, 1, 1, 1, 1))
    out.bias.add_(out.weight.flatten(1) @ (mean - to_mean / factor))
    out.weight.div_(factor.view(1, -1, 1, 1, 1))

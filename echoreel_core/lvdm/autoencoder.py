"""The image autoencoder of Stable Diffusion 1.x (AutoencoderKL), with its sizes read off a state dict.

Keys are those of `first_stage_model.*` in an all-in-one checkpoint. Used where ComfyUI's own is not available: the
stand-alone demo and training of the embedded model.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..action.adapter import check_weights
from ..errors import EchoReelError
from ..files import reason


@dataclass(frozen=True)
class AutoencoderConfig:
    """Sizes. The picture shrinks by 2 between levels, so by `2 ** (len(multipliers) - 1)` altogether."""

    channels: int = 128
    multipliers: tuple[int, ...] = (1, 2, 4, 4)
    blocks: int = 2  # residual blocks per level of the encoder; the decoder has one more
    latent_channels: int = 4
    image_channels: int = 3

    @property
    def factor(self) -> int:
        return 2 ** (len(self.multipliers) - 1)

    @classmethod
    def from_state_dict(cls, weights: dict[str, Tensor]) -> AutoencoderConfig:
        """Read the sizes off the tensors.

        Raises: EchoReelError naming the first tensor that is missing or whose shape does not fit the others.
        """
        try:
            channels, image_channels = weights["encoder.conv_in.weight"].shape[:2]
            latent_channels = weights["post_quant_conv.weight"].shape[1]
            levels = 0
            multipliers = []
            while (key := f"encoder.down.{levels}.block.0.conv1.weight") in weights:
                multipliers.append(weights[key].shape[0] // channels)
                levels += 1
            blocks = sum(f"encoder.down.0.block.{i}.conv1.weight" in weights for i in range(16))
            config = cls(channels, tuple(multipliers), blocks, latent_channels, image_channels)
            with torch.device("meta"):
                expected = {key: tensor.shape for key, tensor in Autoencoder(config).state_dict().items()}
        except KeyError as error:
            raise EchoReelError(
                f"The checkpoint's image autoencoder lacks {error}: the file is incomplete, download it again."
            ) from None
        except (ValueError, TypeError, IndexError, ArithmeticError, RuntimeError) as error:
            raise EchoReelError(
                f"The checkpoint's image autoencoder has a different architecture ({reason(error)})."
            ) from None
        check_weights("The checkpoint's image autoencoder", weights, expected, others=True)
        return config

    def ddconfig(self) -> dict[str, Any]:
        """The same sizes as Stable Diffusion's `ddconfig`."""
        sizes = asdict(self)
        return {
            "double_z": True,
            "z_channels": self.latent_channels,
            "resolution": 256,
            "in_channels": self.image_channels,
            "out_ch": self.image_channels,
            "ch": self.channels,
            "ch_mult": list(sizes["multipliers"]),
            "num_res_blocks": self.blocks,
            "attn_resolutions": [],
            "dropout": 0.0,
        }


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(32, channels, eps=1e-6)


class _Residual(nn.Module):
    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = _norm(channels), nn.Conv2d(channels, out, 3, padding=1)
        self.norm2, self.conv2 = _norm(out), nn.Conv2d(out, out, 3, padding=1)
        if channels != out:
            self.nin_shortcut = nn.Conv2d(channels, out, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        return h + (self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x)


class _Attention(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = _norm(channels)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(channels, channels, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        q, k, v = (part(h).flatten(2).transpose(1, 2)[:, None] for part in (self.q, self.k, self.v))
        h = F.scaled_dot_product_attention(q, k, v)[:, 0].transpose(1, 2).reshape(x.shape)
        return x + self.proj_out(h)


class _Middle(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.block_1, self.attn_1, self.block_2 = (
            _Residual(channels, channels),
            _Attention(channels),
            _Residual(channels, channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.block_2(self.attn_1(self.block_1(x)))


class _Resample(nn.Module):
    """Half the size (one zero row and column added at the far edges, as the original does), or twice the size."""

    def __init__(self, channels: int, up: bool) -> None:
        super().__init__()
        self.up = up
        self.conv = nn.Conv2d(channels, channels, 3, stride=1 if up else 2, padding=1 if up else 0)

    def forward(self, x: Tensor) -> Tensor:
        x = F.interpolate(x, scale_factor=2.0, mode="nearest") if self.up else F.pad(x, (0, 1, 0, 1))
        return self.conv(x)


class _Level(nn.Module):
    def __init__(self, channels: int, out: int, blocks: int) -> None:
        super().__init__()
        self.block = nn.ModuleList(_Residual(channels if i == 0 else out, out) for i in range(blocks))

    def forward(self, x: Tensor) -> Tensor:
        for block in self.block:
            x = block(x)
        return x


class _Encoder(nn.Module):
    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        widths = [config.channels * m for m in config.multipliers]
        self.conv_in = nn.Conv2d(config.image_channels, config.channels, 3, padding=1)
        self.down = nn.ModuleList()
        for i, width in enumerate(widths):
            level = _Level(widths[i - 1] if i else config.channels, width, config.blocks)
            if i < len(widths) - 1:
                level.downsample = _Resample(width, up=False)
            self.down.append(level)
        self.mid = _Middle(widths[-1])
        self.norm_out = _norm(widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], 2 * config.latent_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for level in self.down:
            x = level(x)
            if hasattr(level, "downsample"):
                x = level.downsample(x)
        return self.conv_out(F.silu(self.norm_out(self.mid(x))))


class _Decoder(nn.Module):
    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        widths = [config.channels * m for m in config.multipliers]
        self.conv_in = nn.Conv2d(config.latent_channels, widths[-1], 3, padding=1)
        self.mid = _Middle(widths[-1])
        levels = []
        for i, width in enumerate(widths):
            level = _Level(widths[min(i + 1, len(widths) - 1)], width, config.blocks + 1)
            if i > 0:
                level.upsample = _Resample(width, up=True)
            levels.append(level)
        self.up = nn.ModuleList(levels)
        self.norm_out = _norm(widths[0])
        self.conv_out = nn.Conv2d(widths[0], config.image_channels, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        x = self.mid(self.conv_in(z))
        for level in reversed(self.up):
            x = level(x)
            if hasattr(level, "upsample"):
                x = level.upsample(x)
        return self.conv_out(F.silu(self.norm_out(x)))


class Autoencoder(nn.Module):
    """Pictures `[N, 3, H, W]` in −1 to 1 ↔ latents `[N, latent_channels, H / factor, W / factor]`, not scaled."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        z = config.latent_channels
        self.encoder = _Encoder(config)
        self.decoder = _Decoder(config)
        self.quant_conv = nn.Conv2d(2 * z, 2 * z, 1)
        self.post_quant_conv = nn.Conv2d(z, z, 1)

    def moments(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance of the latents."""
        mean, log_variance = self.quant_conv(self.encoder(pictures)).chunk(2, 1)
        return mean, log_variance.clamp(-30, 20)

    def encode(self, pictures: Tensor) -> Tensor:
        """The most likely latents (the mean, not a sample)."""
        height, width = pictures.shape[-2:]
        if height % self.config.factor or width % self.config.factor:
            raise EchoReelError(
                f"A picture of {width} × {height} cannot be encoded: its sides must be multiples of "
                f"{self.config.factor}; resize it first."
            )
        return self.moments(pictures)[0]

    def decode(self, latents: Tensor) -> Tensor:
        return self.decoder(self.post_quant_conv(latents))


def load_autoencoder(weights: dict[str, Tensor]) -> Autoencoder:
    """Build from a state dict without prefix, sizes read off the tensors, in evaluation mode."""
    with torch.device("meta"):
        model = Autoencoder(AutoencoderConfig.from_state_dict(weights))
    model.load_state_dict(weights, assign=True)
    return model.eval()


@torch.no_grad()
def standardise(model: Autoencoder, pictures: Tensor, deviation: float) -> None:
    """Give each latent channel mean 0 and this standard deviation over `pictures`; what is decoded stays the same."""
    mean, log_variance = model.moments(pictures)
    middle, scale = mean.mean((0, 2, 3)), deviation / mean.std((0, 2, 3))
    z = model.config.latent_channels
    into, out = model.quant_conv, model.post_quant_conv
    into.weight[:z] *= scale.view(-1, 1, 1, 1)
    into.bias[:z] = (into.bias[:z] - middle) * scale
    into.bias[z:] += 2 * scale.log()
    out.bias += out.weight[:, :, 0, 0] @ middle
    out.weight /= scale.view(1, -1, 1, 1)

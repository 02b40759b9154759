"""What the family's latents look like, and clips as such latents."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .vae import WanVAE

RESOLUTION, FRAMES = 64, 33  # of the world as this model is shown it: 9 latent frames of 8 x 8
PER_LATENT = 4  # frames, after the first
SHAPE = (16, 1 + (FRAMES - 1) // PER_LATENT, RESOLUTION // 8, RESOLUTION // 8)
# Statistics per channel of Wan 2.1's latents, which hosts take off before the model and put back behind it.
MEAN = torch.tensor(
    [-0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508]
    + [0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921]
)
STD = torch.tensor(
    [2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743]
    + [3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160]
)
_SEEN = torch.linspace(0, FRAMES - 1, 16).round().long()  # the frames that judge and tracker look at


def _statistics(like: Tensor) -> tuple[Tensor, Tensor]:
    return tuple(values.to(like.device).view(1, -1, 1, 1, 1) for values in (MEAN, STD))


def products(device: torch.device) -> torch.dtype:
    """In which the VAE runs where exactness to the last digit is not needed: bfloat16, wherever it is quick."""
    quick = device.type != "cpu" or torch.backends.cpu.get_cpu_capability().startswith("AVX512")
    return torch.bfloat16 if quick else torch.float32


@torch.no_grad()
def encode(vae: WanVAE, pixels: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Pixels `[batch, frames, 3, H, W]` in 0 to 1 → latents `[batch, 16, T, H / 8, W / 8]` as the model takes them."""
    x = (pixels.transpose(1, 2) * 2 - 1).to(dtype, memory_format=torch.channels_last_3d)
    mean, deviation = _statistics(pixels)
    return (vae.encode(x).float() - mean) / deviation


@torch.no_grad()
def decode(vae: WanVAE, latents: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """The other way; the pixels are clamped."""
    mean, deviation = _statistics(latents)
    x = (latents * deviation + mean).to(dtype, memory_format=torch.channels_last_3d)
    return (vae.decode(x).float() / 2 + 0.5).clamp(0, 1).transpose(1, 2)


def seen(pixels: Tensor) -> Tensor:
    """A clip of 33 frames of 64 x 64 as judge and tracker look at it: `[batch, 16, 3, 32, 32]`."""
    small = F.avg_pool2d(pixels[:, _SEEN.to(pixels.device)].flatten(0, 1), RESOLUTION // 32)
    return small.unflatten(0, (len(pixels), len(_SEEN)))


def seen_frames(truth: Tensor) -> Tensor:
    """Of ground truth `[batch, 33, …]` the same frames, `[batch, 16, …]`."""
    return truth[:, _SEEN.to(truth.device)]

"""The sizes of the embedded model, and its parts in the state in which they are trained."""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn

from ...action.adapter import AdapterConfig, SiteConfig
from ...action.prism import ActionPrismConfig
from ...lvdm.text_encoder import CLIPTextEncoder, TextConfig
from ...lvdm.unet import LVDMConfig, LVDMUNet
from ..world.words import LENGTH, UNKNOWN

UNET = LVDMConfig(
    model_channels=64,
    channel_mult=(1, 2),
    res_blocks=1,
    attention_levels=(True, True),
    heads=4,
    context_dim=48,
    max_frames=16,
)
TEXT = TextConfig(vocabulary=UNKNOWN + 1, width=48, depth=2, tokens=LENGTH, feed_forward=192)
LATENT_SIZE = 8


def plain_attention(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """Attention by two products. On the CPU its backward is four times faster than torch's fused one at these sizes."""
    q, k, v = (rearrange(t, "b n (h d) -> (b h) n d", h=heads) for t in (q, k, v))
    weight = torch.bmm(q * q.shape[-1] ** -0.5, k.mT).softmax(-1)
    return rearrange(torch.bmm(weight, v), "(b h) n d -> b n (h d)", h=heads)


def start_text(encoder: CLIPTextEncoder) -> CLIPTextEncoder:
    """Embeddings small enough for the attention to matter beside them from the start."""
    for embedding in encoder.text_model["embeddings"].values():
        nn.init.normal_(embedding.weight, std=0.3)
    return encoder


class BaseModel(nn.Module):
    """Text encoder and UNet, trained together."""

    def __init__(self) -> None:
        super().__init__()
        self.text = start_text(CLIPTextEncoder(TEXT))
        self.unet = LVDMUNet(UNET, attention=plain_attention)
        for name, weight in self.unet.named_parameters():  # every residual branch starts at zero
            if name.endswith(("out_layers.3.weight", "proj_out.weight", "to_out.weight")) and ".ff." not in name:
                nn.init.zeros_(weight)

    def forward(self, x: Tensor, timesteps: Tensor, ids: Tensor) -> Tensor:
        """Noisy latents `[B, 4, T, 8, 8]`, timesteps `[B]`, ids `[B, 77]` of the small vocabulary → noise."""
        return self.unet(x, timesteps, self.text(ids))


PRISM = ActionPrismConfig(
    latent_channels=4,
    grid=(1, 1),  # the whole frame: in a smaller patch a subject's angle hardly shows
    patch=8,
    text_width=48,
    context_width=48,
    width=96,
    depth=2,
    heads=4,
    head_dim=24,
    out_channels=192,
    max_frames=16,
)


def adapter_config(unet: LVDMUNet) -> AdapterConfig:
    """A layer at every block of the UNet, with the block's own heads."""
    sites = [
        SiteConfig(site.name, dim := site.block.norm3.normalized_shape[0], UNET.heads, dim // UNET.heads)
        for site in unet.sites()
    ]
    return AdapterConfig(host="lvdm", prism=PRISM, sites=tuple(sites))

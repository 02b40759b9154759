"""VAEs of the host's own classes at their smallest, with random weights, loaded the way the host loads them."""

from __future__ import annotations

import json

import comfy.ldm.lightricks.vae.causal_video_autoencoder
import comfy.ldm.models.autoencoder
import comfy.ldm.wan.vae
import comfy.sd
import torch

STOCK = {
    "double_z": True,
    "z_channels": 4,
    "resolution": 256,
    "in_channels": 3,
    "out_ch": 3,
    "ch": 32,
    "ch_mult": [1, 1, 1, 1],
    "num_res_blocks": 1,
    "attn_resolutions": [],
    "dropout": 0.0,
}
WAN = {"dim_mult": [1, 2, 4, 4], "num_res_blocks": 2, "attn_scales": [], "temperal_downsample": [False, True, True]}
LTX = {
    "dims": 3,
    "latent_channels": 128,
    "blocks": [["res_x", 1], ["compress_all", 1], ["compress_all", 1], ["compress_all", 1], ["res_x", 1]],
    "norm_layer": "pixel_norm",
    "patch_size": 4,
    "latent_log_var": "uniform",
    "encoder_base_channels": 16,
    "decoder_base_channels": 16,
}


def stock() -> comfy.sd.VAE:
    """Stable Diffusion's: pictures, 8 pixels to a latent, 4 channels."""
    module = comfy.ldm.models.autoencoder.AutoencoderKL(ddconfig=STOCK, embed_dim=4)
    return comfy.sd.VAE(sd=_weights(module), config={"params": {"ddconfig": STOCK, "embed_dim": 4}})


def wan() -> comfy.sd.VAE:
    """Wan 2.1's: 8 pixels and 4 frames to a latent, 16 channels."""
    return comfy.sd.VAE(sd=_weights(comfy.ldm.wan.vae.WanVAE(dim=8, z_dim=16, **WAN)))


def ltxv() -> comfy.sd.VAE:
    """LTX-Video's: 32 pixels and 8 frames to a latent, 128 channels."""
    module = comfy.ldm.lightricks.vae.causal_video_autoencoder.VideoVAE(config=LTX)
    return comfy.sd.VAE(sd=_weights(module), metadata={"config": json.dumps({"vae": LTX})})


def _weights(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Weights by which numbers keep their size from layer to layer; the host leaves them uninitialised."""
    generator = torch.Generator().manual_seed(0)
    weights = {}
    for name, value in module.state_dict().items():
        if value.dim() < 2:
            weights[name] = torch.full_like(value, float(name.endswith(("weight", "gamma", "std-of-means"))))
        elif "gamma" in name:
            weights[name] = torch.ones_like(value)
        else:
            weights[name] = torch.randn(value.shape, generator=generator) / value[0].numel() ** 0.5
    return weights

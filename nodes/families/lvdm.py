"""LVDM, the released text-to-video model (the pack adds it to the host, see nodes/models/lvdm.py)."""

from __future__ import annotations

from ...echoreel_core.training.default_sizes import released_form
from .base import ModelFamily, class_named, format_named
from .unet import frames_in_batch_grid

LVDM = ModelFamily(
    name="lvdm",
    title="LVDM (the released EchoReel checkpoint)",
    recognises=class_named("LVDMUNet"),
    sites=lambda diffusion_model: diffusion_model.sites(),
    grid=frames_in_batch_grid,
    to_frames=lambda hidden, grid: hidden,  # its hidden states are [B, T, P, dim] already
    from_frames=lambda delta, hidden, grid: delta,
    latent_format=format_named("SD15"),
    fps=8,
    frames_in_batch=True,
    default_adapter=lambda diffusion_model, fit: released_form(fit, block_heads=diffusion_model.config.heads),
)

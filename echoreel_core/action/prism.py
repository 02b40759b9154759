"""The Action Prism: distils the motion of a reference clip into one action token per frame."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor, nn

from ..errors import EchoReelError
from ..modules.attention import Attention, AttentionFunction, GEGLUFeedForward, TemporalAttention, scaled_dot_product
from ..progress import Progress


@dataclass(frozen=True)
class ActionPrismConfig:
    """Sizes of an Action Prism; the defaults are the released one's.

    Attributes:
        latent_channels: of the reference latents.
        grid: (height, width) in tokens per frame; the latents are `patch` times as large.
        text_width: of the text tokens; context_width: what they are projected to.
        width, depth, heads, head_dim: of the transformer.
        out_channels: per token of the action; a frame's token is grid · out_channels wide.
        max_frames: temporal distances are clipped to ± this.
        patch: latent positions per token and side.
    """

    latent_channels: int = 4
    grid: tuple[int, int] = (32, 32)
    text_width: int = 768
    context_width: int = 768
    width: int = 640
    depth: int = 18
    heads: int = 8
    head_dim: int = 80
    out_channels: int = 4
    max_frames: int = 16
    patch: int = 1

    @property
    def action_dim(self) -> int:
        """Width of one frame's action token."""
        return self.grid[0] * self.grid[1] * self.out_channels

    @property
    def latent_size(self) -> tuple[int, int]:
        """(height, width) of the reference latents."""
        return self.grid[0] * self.patch, self.grid[1] * self.patch


class ActionPrismLayer(nn.Module):
    """Space, time, text, time: four pre-norm attentions, a feed-forward after each, all with residuals."""

    def __init__(self, config: ActionPrismConfig, operations, attention: AttentionFunction) -> None:
        super().__init__()
        width, sizes = config.width, {"heads": config.heads, "head_dim": config.head_dim, "operations": operations}
        self.spatial = Attention(width, **sizes, attention=attention)
        self.temporal = TemporalAttention(width, **sizes, max_frames=config.max_frames)
        self.text = Attention(width, config.context_width, **sizes, attention=attention)
        self.temporal_2 = TemporalAttention(width, **sizes, max_frames=config.max_frames)
        self.norms = nn.ModuleList(operations.LayerNorm(width) for _ in range(4))
        self.feed_forwards = nn.ModuleList(GEGLUFeedForward(width, operations=operations) for _ in range(4))
        self.feed_forward_norms = nn.ModuleList(operations.LayerNorm(width) for _ in range(4))

    def forward(self, x: Tensor, text: Tensor) -> Tensor:
        """x [B, T, P, width], text [B, L, context_width] → [B, T, P, width]."""
        b, t, p, _ = x.shape
        attentions = (
            lambda y: self.spatial(y.reshape(b * t, p, -1)).view(b, t, p, -1),
            self.temporal,
            lambda y: self.text(y.reshape(b, t * p, -1), text).view(b, t, p, -1),
            self.temporal_2,
        )
        for attention, norm, feed_forward, feed_forward_norm in zip(
            attentions, self.norms, self.feed_forwards, self.feed_forward_norms, strict=True
        ):
            x = x + attention(norm(x))
            x = x + feed_forward(feed_forward_norm(x))
        return x


class ActionPrism(nn.Module):
    """Reference latents and text in, action tokens out (reference: `Perceiver` in openaimodel3d.py).

    The text is [prompt tokens ; reference caption tokens]. The output head is three linear layers with nothing
    between them, as released.
    """

    def __init__(
        self, config: ActionPrismConfig, operations=nn, attention: AttentionFunction = scaled_dot_product
    ) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.text_in = operations.Linear(config.text_width, config.context_width)
        self.latent_in = operations.Linear(config.latent_channels * config.patch**2, width)
        self.layers = nn.ModuleList(ActionPrismLayer(config, operations, attention) for _ in range(config.depth))
        self.out = nn.Sequential(
            operations.Linear(width, width * 4),
            operations.Linear(width * 4, width * 4),
            operations.Linear(width * 4, config.out_channels),
        )

    def forward(self, latents: Tensor, text: Tensor, progress: Progress | None = None) -> Tensor:
        """Distils the action.

        Args:
            latents: [B, latent_channels, T, H, W], clean, scaled as the video model takes them.
            text: [B, L, text_width], the prompt's tokens followed by the reference caption's.
            progress: called after each layer.

        Returns: [B, T, action_dim], one action token per latent frame.
        Raises: EchoReelError if the latents' channels or size, or the text's width, are not the prism's.
        """
        config = self.config
        _, channels, frames, *size = latents.shape
        if channels != config.latent_channels or tuple(size) != config.latent_size:
            raise EchoReelError(
                f"The reference latents are {channels} x {size[0]} x {size[1]} (channels, height, width), but this "
                f"Action Prism takes {config.latent_channels} x {config.latent_size[0]} x {config.latent_size[1]}: "
                "use the VAE of the model it was trained for, and resize the reference to fit."
            )
        if text.shape[-1] != config.text_width:
            raise EchoReelError(
                f"The text tokens are {text.shape[-1]} wide, but this Action Prism takes {config.text_width}: "
                "use the CLIP (text encoder) of the model it was trained for."
            )
        text = self.text_in(text)
        x = rearrange(latents, "b c t (h y) (w x) -> b t (h w) (c y x)", y=config.patch, x=config.patch)
        x = self.latent_in(x)
        for done, layer in enumerate(self.layers, start=1):
            x = layer(x, text)
            if progress is not None:
                progress(done, len(self.layers))
        return rearrange(self.out(x), "b t p c -> b t (p c)", t=frames)


def check_finite(latents: Tensor) -> None:
    """Raises EchoReelError if the reference latents contain NaN or infinity. Reads the tensor back from the device."""
    if not torch.isfinite(latents).all():
        raise EchoReelError(
            "The reference contains NaN or infinite values, so no action can be read from it: "
            "check the frames and the precision of the VAE."
        )

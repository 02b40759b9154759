"""What is trained, made to fit the model and the clips: the node's and the command line's way."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ...echoreel_core.action.adapter import AdapterConfig, EchoReelAdapter
from ...echoreel_core.errors import EchoReelError
from ...echoreel_core.training.config import VideoSettings
from ...echoreel_core.training.data.batches import Batch
from ...echoreel_core.training.data.conditioning import TOKENS
from ...echoreel_core.training.default_sizes import REFERENCE_PIXELS
from .experts import HostExperts
from .trainable import TrainableHostModel


def reference_framing(video: VideoSettings, vae: Any, start: AdapterConfig | None) -> VideoSettings:
    """The framing of references: of the size that the adapter takes, if there is one; else no larger than the clips."""
    factor = vae.spacial_compression_encode()
    pixels = min(REFERENCE_PIXELS, max(video.width, video.height))
    size = start.prism.latent_size if start else (max(1, pixels // factor),) * 2
    return replace(video, height=size[0] * factor, width=size[1] * factor)


def fitting_adapter(
    trainable: TrainableHostModel | HostExperts,
    sample: Batch,
    seed: int,
    start: tuple[AdapterConfig, dict[str, Tensor]] | None = None,
    **prism: int,
) -> EchoReelAdapter:
    """A copy of the adapter to continue from, or a new one of the default sizes for the model.

    Args:
        sample: any of the pairs.
        prism: fields of `ActionPrismConfig` that differ from the default.

    Raises: EchoReelError if the text tokens have the wrong width, or the adapter takes other references.
    """
    text, prompt = (tokens.shape[-1] for tokens in (sample.caption[0], sample.conditioning_of(0)[TOKENS]))
    if start is not None and text != start[0].prism.text_width:
        raise EchoReelError(
            f"The EchoReel adapter reads text tokens that are {start[0].prism.text_width} wide, but the text encoder's "
            f"are {text} wide: connect the text encoder it was trained with."
        )
    if prompt != text:
        raise EchoReelError(
            f"The model reads images as tokens that are {prompt} wide, but the text encoder's tokens are {text} "
            f"wide: connect a text encoder whose tokens are {prompt} wide."
        )
    _, channels, frames, height, width = sample.reference.shape
    if start is None:
        sizes = {"latent_channels": channels, "latent_size": (height, width), "latent_frames": frames}
        config = trainable.default_adapter(text_width=text, **sizes)
        config = replace(config, prism=replace(config.prism, **prism))
    else:
        config = start[0]
        if config.prism.latent_size != (height, width):
            raise EchoReelError(
                f"The EchoReel adapter takes references of {config.prism.latent_size[1]} x "
                f"{config.prism.latent_size[0]} latents, but [reference] gives {width} x {height}: leave [reference] "
                "out, and they get the right size."
            )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        adapter = EchoReelAdapter(config)
    if start is not None:
        adapter.load_state_dict(start[1])
    return adapter

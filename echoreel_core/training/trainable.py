"""What the trainer knows about the frozen video model it trains an adapter for."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from ..action.action import Role
from ..action.injection import AnySite
from .data.conditioning import Conditioning

Prediction = Literal["noise", "velocity", "flow"]
"""What a model predicts: ε;  signal · ε - noise · x_0;  or ε - x_0 (flow matching)."""

Attach = Callable[[Role], AbstractContextManager[None]]
"""Inside the `with`, the model runs with the added layers and the action of this role."""


@dataclass(frozen=True)
class NoiseLevel:
    """How noisy each sample is: x_t = signal · x_0 + noise · ε. All are [B]; `time` is what the model is given."""

    signal: Tensor
    noise: Tensor
    time: Tensor

    def time_on(self, device: torch.device | str) -> Tensor:
        """`time` on a device, in float32 where it is no whole number: not every device has float64."""
        return (self.time.float() if self.time.is_floating_point() else self.time).to(device)


class TrainableModel(ABC):
    """A video model as the trainer sees it. Subclasses bring it; the trainer never changes its weights.

    Attributes:
        family: the model family, as in `AdapterConfig.host`.
        prediction: what `predict` returns.
        model: everything that stays frozen.
        sigma_data: the latents' standard deviation, by which they are divided before noise is added (EDM).
        micro_batch_limit: samples that the model takes at once, or None for as many as there are.
        boundary: of two experts, the least noise of the high-noise one's; None for a single model.
    """

    family: str
    prediction: Prediction
    model: nn.Module
    sigma_data: float = 1.0
    micro_batch_limit: int | None = None
    boundary: float | None = None

    @property
    def experts(self) -> Sequence[TrainableModel]:
        """The models that share the noise levels between them: this one alone, unless it is made of several."""
        return (self,)

    def expert_of(self, level: NoiseLevel) -> Tensor:
        """Which of `experts` each level [B] belongs to, by number."""
        return torch.zeros(level.noise.shape, dtype=torch.long)

    def at(self, level: NoiseLevel) -> TrainableModel:
        """The expert that all these levels belong to, on its device, to call `predict` of."""
        return self

    def load(self) -> None:  # noqa: B027  most models are where they belong
        """Brings the model onto its device, if it is not there."""

    def unload(self) -> None:  # noqa: B027
        """Makes room on the device while another expert is called."""

    @abstractmethod
    def sites(self) -> Sequence[AnySite]:
        """Where added layers go, in the order of the forward pass."""

    @abstractmethod
    def noise_level(self, u: Tensor) -> NoiseLevel:
        """The noise level at u [B], from 0 (clean) to 1 (the noisiest the model knows), spread as it was trained.

        A flow model's shift is in it. All on the CPU, in float64.
        """

    @abstractmethod
    def predict(self, noisy: Tensor, time: Tensor, text: Tensor, conditioning: Sequence[Conditioning]) -> Tensor:
        """One pass of the model: noisy [B, C, T, H, W], time [B], text [B, L, W] → as noisy, of any dtype.

        `conditioning` is that of each sample, its text tokens included.
        """

    def sample(
        self,
        noise: Tensor,
        positive: Conditioning,
        negative: Conditioning,
        *,
        steps: int,
        guidance: float,
        attach: Attach,
    ) -> Tensor:
        """Generates latents from noise [1, C, T, H, W], with guidance; each half of it runs in its `attach(role)`.

        Needed for sample videos only.
        """
        raise NotImplementedError

    def tokens(self, hidden: Tensor, batch: int, frames: int) -> Tensor | None:
        """The clip's tokens at a site as [B, T, P, dim], or None where the hidden state holds none.

        The default is right if the tokens run over batch, time and place and there are no others.
        """
        return hidden.reshape(batch, frames, -1, hidden.shape[-1])

    def hidden(self, tokens: Tensor, like: Tensor) -> Tensor:
        """Back from `tokens` to the layout of the hidden state `like`, zero where that is not the clip's."""
        return tokens.reshape(like.shape)

    def token_frames(self, latent_frames: int) -> int:
        """Frames T of `tokens` for a clip of `latent_frames` latent frames."""
        return latent_frames

    def gradient_context(self) -> AbstractContextManager[object]:
        """What a forward pass and the backward pass after it run in: a model that changes hidden states in place needs
        saved-tensor hooks that keep copies."""
        return nullcontext()

    def checkpointed_modules(self) -> Iterable[nn.Module]:
        """What gradient checkpointing runs again in the backward pass in place of keeping its activations."""
        return [site.block for site in self.sites()]


class Encoders(Protocol):
    """The frozen VAE and text encoder of the model; needed only for the cache and for sample videos.

    Attributes:
        identity: names the weights and what else decides the results, for the keys of the cache.
    """

    identity: str

    def encode_video(self, frames: Tensor) -> Tensor:
        """Frames [T, H, W, 3], 0 to 1 → latents [C, T', H', W'], scaled as the model takes them."""

    def decode_video(self, latents: Tensor) -> Tensor:
        """The way back."""

    def encode_text(self, texts: Sequence[str]) -> Tensor | Sequence[Conditioning]:
        """The tokens of each text, together [N, L, W], or its whole conditioning; "" is the empty prompt."""

    def image_conditioning(self, frames: Tensor, fps: float) -> Conditioning:
        """The image conditioning that the model gets for a target clip: frames [T, H, W, 3], 0 to 1."""

"""The released base model (LVDM UNet) as a trainable model, with its VAE and text encoder."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from ...action.injection import Site
from ...lvdm.autoencoder import Autoencoder
from ...lvdm.ddim import alphas_cumprod, ddim_sample, guided
from ...lvdm.text_encoder import CLIPTextEncoder
from ...lvdm.unet import LVDMUNet, ResBlock, SpatialTemporalTransformer
from ..data.conditioning import TOKENS, Conditioning
from ..trainable import Attach, NoiseLevel, Prediction, TrainableModel

LATENT_SCALE = 0.18215
"""Of the released model's latents."""

FRAMES_AT_ONCE = 4
"""Through the VAE, which takes far more memory per frame than all else."""


class TrainableLVDM(TrainableModel):
    """Noise prediction over 1000 timesteps; u is the timestep's share of them."""

    family = "lvdm"
    prediction: Prediction = "noise"

    def __init__(self, unet: LVDMUNet) -> None:
        self.model = unet
        self._schedule = alphas_cumprod()

    def sites(self) -> Sequence[Site]:
        """See `TrainableModel`."""
        return self.model.sites()

    def noise_level(self, u: Tensor) -> NoiseLevel:
        """See `TrainableModel`."""
        time = (u * len(self._schedule)).long().clamp(0, len(self._schedule) - 1)
        alpha = self._schedule.to(u.device)[time]
        return NoiseLevel(alpha.sqrt(), (1 - alpha).sqrt(), time)

    def predict(self, noisy: Tensor, time: Tensor, text: Tensor, conditioning: Sequence[Conditioning] = ()) -> Tensor:
        """See `TrainableModel`."""
        dtype = self.model.out[2].weight.dtype
        return self.model(noisy.to(dtype), time, text.to(dtype))

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
        """See `TrainableModel`."""

        def half(role: str, conditioning: Conditioning) -> Callable[[Tensor, Tensor], Tensor]:
            def predict(x: Tensor, time: Tensor) -> Tensor:
                with attach(role):
                    return self.predict(x, time, conditioning[TOKENS][None]).float()

            return predict

        return ddim_sample(guided(half("positive", positive), half("negative", negative), guidance), noise, steps)

    def checkpointed_modules(self) -> list[nn.Module]:
        """See `TrainableModel`."""
        return [module for module in self.model.modules() if isinstance(module, (ResBlock, SpatialTemporalTransformer))]


class LVDMEncoders:
    """The checkpoint's VAE and CLIP text encoder; implements `training.trainable.Encoders`.

    Args:
        tokenize: texts → ids [N, L].
        scale: of the latents the model was trained on.
    """

    def __init__(
        self,
        vae: Autoencoder,
        text: CLIPTextEncoder,
        tokenize: Callable[[Sequence[str]], Tensor],
        identity: str,
        scale: float = LATENT_SCALE,
    ) -> None:
        self.vae, self.text, self.tokenize, self.identity, self.scale = vae, text, tokenize, identity, scale

    @torch.no_grad()
    def encode_video(self, frames: Tensor) -> Tensor:
        """See `Encoders`."""
        pictures = frames.movedim(-1, 1) * 2 - 1
        like = self.vae.quant_conv.weight
        latents = [self.vae.encode(some.to(like)) for some in pictures.split(FRAMES_AT_ONCE)]
        return (torch.cat(latents) * self.scale).transpose(0, 1).float().cpu()

    @torch.no_grad()
    def decode_video(self, latents: Tensor) -> Tensor:
        """See `Encoders`."""
        like = self.vae.quant_conv.weight
        frames = latents.transpose(0, 1).split(FRAMES_AT_ONCE)
        pictures = [self.vae.decode(some.to(like) / self.scale) for some in frames]
        return (torch.cat(pictures).movedim(1, -1).float().cpu() / 2 + 0.5).clamp(0, 1)

    @torch.no_grad()
    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """See `Encoders`."""
        weight = self.text.text_model["final_layer_norm"].weight
        return self.text(self.tokenize(texts).to(weight.device)).float().cpu()

    def image_conditioning(self, frames: Tensor, fps: float) -> Conditioning:
        """See `Encoders`: nothing, because the model's only conditioning is the prompt."""
        return {}

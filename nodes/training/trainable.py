"""Whatever MODEL is wired in, as the trainer sees it."""

from __future__ import annotations

import copy
import math
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, TypeVar

import comfy.model_management
import comfy.model_sampling
import comfy.nested_tensor
import comfy.sampler_helpers
import comfy.samplers
import comfy.utils
import torch
from torch import Tensor

from ...echoreel_core.action.adapter import AdapterConfig
from ...echoreel_core.action.compiled import uncompiled
from ...echoreel_core.action.injection import AnySite
from ...echoreel_core.errors import EchoReelError
from ...echoreel_core.training.data.conditioning import TOKENS, Conditioning, map_tensors
from ...echoreel_core.training.default_sizes import AdapterInputs
from ...echoreel_core.training.loss import prediction_of, seed_of
from ...echoreel_core.training.trainable import Attach, NoiseLevel, Prediction, TrainableModel
from ..families import find_family
from ..families.base import TokenGrid
from ..families.clip_conditioning import KNOWN, KNOWN_MASK, LEADING
from .encoders import model_kind
from .image_conditioning import as_the_host_has_it
from .kernels import kernels_with_gradients

Result = TypeVar("Result")

PREDICTIONS: dict[str, Prediction] = {
    "EPS": "noise",
    "V_PREDICTION": "velocity",
    "V_PREDICTION_DDPM": "velocity",
    "EDM": "velocity",
    "CONST": "flow",
    "COSMOS_RFLOW": "flow",
}
"""What a model predicts, by the class of the host that turns it into clean latents."""


class TrainableHostModel(TrainableModel):
    """A MODEL of the host, called as the host's samplers call it.

    Args:
        patcher: the MODEL; to train on, a copy of its own (`own_copy`), inside of `sampling_run`.

    Raises: EchoReelError where EchoReel does not know the model, cannot be trained on it, or it predicts something the
        trainer does not know.
    """

    def __init__(self, patcher: Any) -> None:
        self._patcher, self._base = patcher, patcher.model
        self.model = uncompiled(patcher.get_model_object("diffusion_model"))
        self._family = find_family(self.model)
        self.family, self.frames_per_latent = self._family.name, self._family.frames_per_latent
        self._family.check_trainable(self._base)
        self._sampling = sampling = patcher.get_model_object("model_sampling")
        kind = next(cls.__name__ for cls in type(sampling).__mro__ if "calculate_denoised" in vars(cls))
        if kind not in PREDICTIONS:
            raise EchoReelError(f"EchoReel cannot be trained on a model with {kind} prediction: use the plain model.")
        self.prediction = PREDICTIONS[kind]
        self._rectified = kind == "COSMOS_RFLOW"
        if self.prediction != "flow":
            self.sigma_data = float(sampling.sigma_data)
        # a batch of frames is one clip
        self.micro_batch_limit = 1 if self._family.frames_in_batch or self._family.one_sample else None
        self._inside: tuple[Any, dict[str, Any]] | None = None
        self._grid: TokenGrid | None = None

    def sites(self) -> Sequence[AnySite]:
        """See `TrainableModel`."""
        return self._family.sites(self.model)

    def default_adapter(self, **sizes: Any) -> AdapterConfig:
        """The adapter to train on this model where none is given.

        Args:
            sizes: fields of `AdapterInputs` that follow from VAE, text encoder and clips.
        """
        sites = [(site.name, site.dim) for site in self.sites()]
        return self._family.default_adapter(self.model, AdapterInputs(host=self.family, sites=sites, **sizes))

    def sampling_run(self, latents: Tensor, work: Callable[[], Result]) -> Result:
        """Calls `work` in the midst of a sampling run of the host, where `predict` can be called.

        The model is loaded and patched there as for every sampler, other packs' wrappers and motion modules included.

        Args:
            latents: of the size that the model is to make, [1, C, T, H, W].
        """
        guider = comfy.samplers.CFGGuider(self._patcher)
        guider.inner_set_conds({"positive": []})
        inside = TrainingSampler(self, work)
        self.load()
        empty = self._as_host(torch.zeros_like(latents))
        if self._family.silence is not None:
            empty = comfy.nested_tensor.NestedTensor((empty, self._family.silence(empty)))
        try:
            guider.sample(empty, empty, inside, torch.tensor([1.0, 0.0]), disable_pbar=True, seed=0)
        finally:
            self._inside = None
        return inside.result

    @property
    def expert_boundary(self) -> float | None:
        """The noise level at which such a model's low-noise expert takes over, where the family knows of any."""
        return None if self._family.expert_boundary is None else self._family.expert_boundary(self._base)

    @property
    def kind(self) -> tuple[str, str]:
        """What the model is, apart from its weights."""
        return model_kind(self._base)

    def load(self) -> None:
        """See `TrainableModel`: moves the model back onto its device, if another model pushed it out."""
        patchers = [self._patcher, *self._patcher.get_nested_additional_models()]
        # with room reserved by --reserve-vram, what does not fit beside it stays in the computer's memory
        whole = comfy.model_management.args.reserve_vram is None
        comfy.model_management.load_models_gpu(patchers, force_full_load=whole)

    def unload(self) -> None:
        """See `TrainableModel`: moves all of it into the computer's memory, with what the host loads beside it."""
        comfy.model_management.unload_model_and_clones(self._patcher)

    def noise_level(self, u: Tensor) -> NoiseLevel:
        """The host's own sigma at u of its schedule."""
        sampling = self._sampling
        sigmas = [float(sampling.percent_to_sigma(1.0 - share)) for share in u.tolist()]
        sigma = torch.tensor(sigmas, dtype=torch.float64)
        return self._level(sigma.clamp(float(sampling.sigma_min), float(sampling.sigma_max)))

    def _level(self, sigma: Tensor) -> NoiseLevel:
        if self.prediction == "flow":
            noise = sigma / (sigma + 1) if self._rectified else sigma
            return NoiseLevel(1 - noise, noise, sigma)
        scale = (sigma**2 + self.sigma_data**2).rsqrt()
        return NoiseLevel(self.sigma_data * scale, sigma * scale, sigma)

    def predict(self, noisy: Tensor, time: Tensor, text: Tensor, conditioning: Sequence[Conditioning]) -> Tensor:
        """See `TrainableModel`; time is the host's sigma. What a sampler would replace by what it knows is replaced."""
        sigma = time.float()
        # in the samplers' scale, of which the host makes the model's
        scale = self._sampling.calculate_input(sigma, torch.ones_like(noisy))
        clean = self._denoised(noisy / scale, sigma, conditioning) / self.sigma_data
        return prediction_of(self.prediction, clean, noisy, self._level(sigma))

    def _denoised(self, x: Tensor, sigma: Tensor, conditioning: Sequence[Conditioning]) -> Tensor:
        """x [B, C, T, H, W] in the samplers' scale, sigma [B] → the clean latents that the model sees in it."""
        comfy.model_management.throw_exception_if_processing_interrupted()
        guider, options = self._inside
        conditioning = [
            map_tensors(as_the_host_has_it(one), lambda tensor: tensor.clone()) for one in conditioning
        ]  # hosts write into them
        before = 0
        if LEADING in conditioning[0]:
            leading = torch.cat([self._base.process_latent_in(one.pop(LEADING)) for one in conditioning])
            x, before = torch.cat((self._noised(leading, sigma, x), x), dim=2), leading.shape[2]
        known = mask = None
        if KNOWN in conditioning[0]:
            known = torch.cat([self._base.process_latent_in(one.pop(KNOWN)) for one in conditioning])
            mask = torch.cat([one.pop(KNOWN_MASK) for one in conditioning])
            mask = comfy.sampler_helpers.prepare_mask(mask, x.shape, x.device)
            given = self._base.scale_latent_inpaint(
                x=x, sigma=sigma, noise=torch.zeros_like(x), latent_image=known, denoise_mask=mask
            )
            x = x * mask + given * (1 - mask)
        with torch.no_grad():
            conds = [
                self._conds(one, x[:1], *(None if part is None else part[i : i + 1] for part in (known, mask)))
                for i, one in enumerate(conditioning)
            ]
        first, *others = conds
        together = {name: cond._copy_with(cond.concat([o[name] for o in others])) for name, cond in first.items()}
        guider.conds = {"positive": [{"model_conds": together, "uuid": uuid.uuid4()}]}
        clean = self._called(guider, options, x, sigma)
        if mask is not None:
            clean = clean * mask + known * (1 - mask)
        return clean[:, :, before:]

    def _called(self, guider: Any, options: dict[str, Any], x: Tensor, sigma: Tensor) -> Tensor:
        """One call of the model in the layout that the host has the latents in."""

        def enter(module: torch.nn.Module, args: tuple, kwargs: dict) -> None:
            self._grid = self._family.grid(uncompiled(module), args[0], kwargs)

        handle = self._base.diffusion_model.register_forward_pre_hook(torch.compiler.disable(enter), with_kwargs=True)
        try:
            if self._family.silence is not None:
                sound = self._noised(self._family.silence(x), sigma, x)
                packed, shapes = comfy.utils.pack_latents([x, sound])
                return comfy.utils.unpack_latents(guider(packed, sigma, model_options=options, seed=0), shapes)[0]
            rows = self._as_host(x)
            clean = guider(rows, sigma.repeat_interleave(len(rows) // len(x)), model_options=options, seed=0)
        finally:
            handle.remove()
        return clean.transpose(0, 1)[None] if self._family.frames_in_batch else clean

    def _as_host(self, latents: Tensor) -> Tensor:
        return latents[0].transpose(0, 1) if self._family.frames_in_batch else latents

    def _noised(self, latents: Tensor, sigma: Tensor, clip: Tensor) -> Tensor:
        """Other latents as noisy as the clips, with noise that follows from the clips' own: runs can be repeated."""
        noise = []
        for one, own in zip(latents, clip, strict=True):
            generator = torch.Generator().manual_seed(seed_of(own.flatten()[:8].tolist()))
            noise.append(torch.randn(one.shape, generator=generator))
        return self._sampling.noise_scaling(sigma, torch.stack(noise).to(latents), latents)

    def _conds(
        self, conditioning: dict[str, Any], x: Tensor, known: Tensor | None, mask: Tensor | None
    ) -> dict[str, Any]:
        """What the host makes of one sample's conditioning for its model, by name."""
        empty = self._as_host(torch.zeros_like(x))
        shapes = [empty.shape]
        if self._family.silence is not None:
            empty, shapes = comfy.utils.pack_latents([empty, self._family.silence(empty)])
        cond = {**conditioning, TOKENS: conditioning[TOKENS][None], "model_conds": {}}
        try:
            (encoded,) = comfy.samplers.encode_model_conds(
                self._base.extra_conds,
                [cond],
                empty,
                empty.device,
                "positive",
                latent_image=empty if known is None else known,
                denoise_mask=mask,
                seed=0,
                latent_shapes=shapes,
            )
        except KeyError as error:
            raise EchoReelError(
                f"{self._family.title} needs {error}, which the text encoder does not provide: connect the text "
                "encoder that belongs to the model."
            ) from None
        conds = encoded["model_conds"].items()
        return {name: cond.process_cond(batch_size=empty.shape[0], area=None) for name, cond in conds}

    def sample(
        self,
        noise: Tensor,
        positive: Conditioning,
        negative: Conditioning,
        *,
        steps: int,
        guidance: float,
        attach: Attach,
        at: Callable[[NoiseLevel], TrainableHostModel] | None = None,
    ) -> Tensor:
        """See `TrainableModel`: DDIM over the host's "simple" schedule, which for flow models is Euler's method.

        Args:
            at: gives the model to call at a noise level, where that is not always this one.
        """
        sigmas = comfy.samplers.calculate_sigmas(self._sampling, "simple", steps)
        levels = [self._level(sigma.double()[None]) for sigma in sigmas[:-1]]
        latents = noise.float()
        for level, after in zip(levels, [*levels[1:], None], strict=True):
            model = self if at is None else at(level)
            x = latents / self._sampling.calculate_input(
                level.time.float().to(latents.device), torch.ones_like(latents)
            )
            halves = []
            for role, conditioning in (("negative", negative), ("positive", positive)):
                with attach(role):
                    halves.append(model._denoised(x, level.time.float().to(latents.device), [conditioning]).float())
            unguided, guided = halves
            clean = (unguided + guidance * (guided - unguided)) / self.sigma_data
            if after is None:
                break
            rest = (latents - float(level.signal) * clean) / float(level.noise)
            latents = float(after.signal) * clean + float(after.noise) * rest
        return clean * self.sigma_data

    def token_frames(self, latent_frames: int) -> int:
        """See `TrainableModel`."""
        if self._family.frames_in_batch:
            return latent_frames
        probe = torch.empty(1, 1, latent_frames, 2, 2, device="meta")
        return math.ceil(latent_frames / self._family.grid(self.model, probe, {}).patch_frames)

    def tokens(self, hidden: Tensor, batch: int, frames: int) -> Tensor | None:
        """See `TrainableModel`. Raises: EchoReelError where the model is run on a part of the clip."""
        found = self._family.to_frames(hidden, self._grid)
        if found is not None and found.shape[1] != frames:
            raise EchoReelError(
                f"The model runs on {found.shape[1]} of the clip's {frames} frames at a time: train without context "
                "windows."
            )
        return found

    def hidden(self, tokens: Tensor, like: Tensor) -> Tensor:
        """See `TrainableModel`."""
        return self._family.from_frames(tokens, like, self._grid)

    def checkpointed_modules(self) -> Sequence[torch.nn.Module]:
        """See `TrainableModel`. What changes its own input cannot be run on it again."""
        return [] if self._family.changes_in_place else [site.block for site in self.sites()]

    @contextmanager
    def gradient_context(self) -> Iterator[None]:
        """The host's models are written for sampling: some change hidden states in place, some kernels know no
        gradient unless the host is told that it trains.

        Raises: EchoReelError where one knows none even then.
        """
        management = comfy.model_management
        before = getattr(management, "in_training", False), management.NUM_STREAMS
        # offloaded weights that come in by streams share buffers, but the backward pass needs them as they were
        management.in_training, management.NUM_STREAMS = True, 0
        try:
            # torch's own allow_mutation_on_saved_tensors() mixes tensors up whose memory is reused: wrong gradients
            kernels = kernels_with_gradients(self._family.kernels_without_gradient)
            copies = torch.autograd.graph.saved_tensors_hooks(_kept, lambda saved: saved)
            with kernels, copies if self._family.changes_in_place else nullcontext():
                yield
        except RuntimeError as error:
            if "autograd" not in str(error):
                raise
            raise EchoReelError(
                f"{self._family.title} cannot be trained in this version of ComfyUI: a kernel that it uses has no "
                "gradient."
            ) from error
        finally:
            management.in_training, management.NUM_STREAMS = before


class TrainingSampler(comfy.samplers.Sampler):
    """Stands where a sampler is called, and does some other work there."""

    def __init__(self, trainable: TrainableHostModel, work: Callable[[], Result]) -> None:
        self._trainable, self._work = trainable, work
        self.result: Any = None

    def sample(self, model_wrap: Any, _sigmas: Tensor, extra_args: dict, _callback: Any, noise: Tensor, *_: Any) -> Any:
        """See the host's `Sampler`."""
        options = {name: value for name, value in extra_args["model_options"].items() if name != "context_handler"}
        self._trainable._inside = model_wrap, options
        self.result = self._work()
        return torch.zeros_like(noise)


def own_copy(model: Any) -> Any:
    """A MODEL with weights of its own, not made in inference mode; call it outside of that.

    Raises: EchoReelError where whoever loaded it does not say how to load it again.
    """
    if getattr(model, "cached_patcher_init", None) is None:
        raise EchoReelError(
            "Train EchoReel works on a copy of the model, but the node that loaded it cannot make one: load it with "
            "one of ComfyUI's own loaders."
        )
    copied = model.clone(force_deepcopy=True)
    for beside in copied.additional_models.values():  # motion modules and the like
        for patcher in beside:
            patcher.model = copy.deepcopy(patcher.model)
            patcher.model.requires_grad_(False)
    return copied


def _kept(saved: Tensor) -> Tensor:
    """What autograd keeps of a tensor: a copy, as it may change in place; of weights, which do not, themselves."""
    owner = saved if saved._base is None else saved._base
    return saved if isinstance(owner, torch.nn.Parameter) else saved.clone()

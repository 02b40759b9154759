"""Guidance by a reference clip inside a sampling run of any video model.

The sampler's own x is never touched, nor what the model predicts: see `echoreel_core.guide.course`. What a run keeps
lies in the run's model options; the patch itself never changes.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import comfy.model_sampling
import torch
import torch.nn.functional as F
from torch import Tensor

from ...echoreel_core.errors import EchoReelError
from ...echoreel_core.guide.course import Course, Fade
from ...echoreel_core.guide.gradient import MotionLoss, moving_region
from ...echoreel_core.video.frames import fit
from ..families import find_family
from ..families.base import ModelFamily
from .patch import uncompiled

_PLACES = 256  # of the table from noise levels to places of the model's schedule
_NEAR_NOISE = 0.11  # of the schedule: what ddim_uniform leaves out with 10 steps is 0.1


@dataclass(frozen=True)
class ClipLayout:
    """Where the clip lies in what the sampler holds.

    Attributes:
        held: shape of what the sampler holds.
        video: [B, C, T, H, W], or [T, C, H, W] with the frames in the batch; sound may lie packed behind it.
        frames: the latent frames that are the clip's own.
    """

    held: torch.Size
    video: tuple[int, ...]
    frames: slice

    def read(self, held: Tensor) -> Tensor:
        """The clip [B, C, T, H, W]."""
        return self._as_video(held)[:, :, self.frames]

    def write(self, held: Tensor, clip: Tensor) -> Tensor:
        """A copy with the clip in its place."""
        held = held.clone(memory_format=torch.contiguous_format)
        self._as_video(held)[:, :, self.frames] = clip
        return held

    def _as_video(self, held: Tensor) -> Tensor:
        if held.shape[1:] != self.video[1:]:
            size = math.prod(self.video[1:])
            held = held.flatten(1)[:, :size].unflatten(1, self.video[1:])
        return held.transpose(0, 1)[None] if len(self.video) == 4 else held


@dataclass
class GuidedRun:
    """One run's state, and its noise levels from the moment the sampler starts."""

    course: Course
    layout: ClipLayout
    sigmas: list[float] = field(default_factory=list)
    _step: int = field(default=-1, init=False)

    def begins_step(self, sigma: float) -> bool:
        """Whether the next step of the schedule begins there, once for each: some samplers look in between, some begin
        a little lower, some look twice."""
        for step, level in enumerate(self.sigmas[:-1]):
            if step > self._step and math.isclose(sigma, level, rel_tol=1e-3):
                self._step = step
                return True
        return False


@dataclass(frozen=True, eq=False)
class GuidancePatch:
    """One Follow Motion.

    Attributes:
        key: unique per node, so that several add up.
        frames: the reference [S, H, W, 3 or 4], 0 to 1.
        mask: [F, H, W], 0 to 1: where in the video the motion applies; frames are spread over the clip.
        moving_only: whether only places at which the reference moves are guided.
    """

    key: str
    vae: Any
    frames: Tensor
    loss: MotionLoss
    strength: float
    fade: Fade
    moving_only: bool
    mask: Tensor | None = None

    def outer_sample(
        self, executor: Any, noise: Tensor, latents: Tensor, sampler: Any, sigmas: Tensor, *args, **kwargs
    ):
        """OUTER_SAMPLE wrapper: encodes the reference at the size that is sampled, before the model is loaded."""
        guider = executor.class_obj
        place = run_places(guider.model_patcher.get_model_object("model_sampling"), float(sigmas[0]))
        if place(float(sigmas[0])) < self.fade.end:
            guider.model_options[self.key] = self._run(guider, noise, kwargs.get("latent_shapes"), place)
        try:
            return executor(noise, latents, sampler, sigmas, *args, **kwargs)
        finally:
            guider.model_options.pop(self.key, None)

    def sampler_sample(
        self,
        executor: Any,
        guider: Any,
        sigmas: Tensor,
        extra_args: dict,
        callback: Any,
        noise: Tensor,
        latent_image: Tensor | None = None,
        denoise_mask: Tensor | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """SAMPLER_SAMPLE wrapper: what only the sampler is told, and what a run that ends early still lacks."""
        run: GuidedRun | None = extra_args["model_options"].get(self.key)
        if run is not None:
            run.sigmas = sigmas.tolist()
            if denoise_mask is not None:
                kept = run.layout.read(denoise_mask.expand(run.layout.held)).clamp(0, 1)
                run.course.region = kept if run.course.region is None else run.course.region.to(kept) * kept
        samples = executor(guider, sigmas, extra_args, callback, noise, latent_image, denoise_mask, *args, **kwargs)
        rest = run.course.rest(run.sigmas[-1]) if run is not None else None
        if rest is not None:
            scaled = guider.inner_model.model_sampling.inverse_noise_scaling(sigmas[-1], rest)
            samples = run.layout.write(samples, run.layout.read(samples) + scaled)
        return samples

    def predict_noise(self, executor: Any, x: Tensor, timestep: Tensor, model_options: dict | None = None, seed=None):
        """PREDICT_NOISE wrapper: shows the model the moved latents and learns from what it makes of them."""
        options = {} if model_options is None else model_options
        run: GuidedRun | None = options.get(self.key)
        if run is None or x.shape != run.layout.held:  # a model that goes frame by frame sees parts of the clip
            return executor(x, timestep, options, seed)
        sigma = float(timestep.max())
        clip = run.layout.read(x)
        moved = run.course.moved(clip, sigma)
        clean = executor(x if moved is clip else run.layout.write(x, moved), timestep, options, seed)
        if run.begins_step(sigma):
            run.course.observe(run.layout.read(clean), sigma)
        return clean

    def _run(self, guider: Any, noise: Tensor, shapes: list | None, place: Any) -> GuidedRun:
        patcher = guider.model_patcher
        layout = clip_layout(uncompiled(patcher.get_model_object("diffusion_model")), guider.conds, noise, shapes)
        clip = layout.read(torch.empty(noise.shape, device="meta"))
        if clip.shape[2] < 2:
            raise EchoReelError(
                "Follow Motion needs a clip, the latents hold a single frame: use an empty latent video of more."
            )
        device = patcher.load_device
        reference = self._reference(patcher, clip.shape).to(device, torch.float32)
        sampling = patcher.get_model_object("model_sampling")
        course = Course(reference, self.loss, self.strength, self.fade, place, partial(deviation, sampling))
        regions = [
            moving_region(reference) if self.moving_only else None,
            _spread(self.mask, clip.shape),
            _spread(_given(guider.conds), clip.shape, layout.frames),
        ]
        for region in regions:
            if region is not None:
                region = region.to(reference)
                course.region = region if course.region is None else course.region * region
        return GuidedRun(course, layout)

    def _reference(self, patcher: Any, shape: torch.Size) -> Tensor:
        """The reference's latents [1, C, T, H, W], stretched over the clip, in the model's own scale."""
        _, channels, length, height, width = shape
        factor = self.vae.spacial_compression_encode()
        per_latent = self.vae.temporal_compression_decode() or 1
        wanted = (length - 1) * per_latent + 1
        at = torch.linspace(0, len(self.frames) - 1, wanted).round().long()
        fitted = {i: fit(self.frames[i, ..., :3], width * factor, height * factor, "center") for i in set(at.tolist())}
        latents = self.vae.encode(torch.stack([fitted[i] for i in at.tolist()]))
        if latents.dim() == 4:
            latents = latents.movedim(0, 1)[None]
        if latents.shape[1] != channels:
            raise EchoReelError(
                f"The VAE makes latents of {latents.shape[1]} channels, the model takes {channels}: "
                "connect the VAE that belongs to the model."
            )
        if latents.shape[2:] != shape[2:]:
            latents = F.interpolate(latents.float(), tuple(shape[2:]), mode="nearest-exact")
        return patcher.get_model_object("latent_format").process_in(latents)


def deviation(sampling: Any, sigma: float) -> float:
    """The deviation of x at a noise level, for clean latents of deviation 1."""
    if isinstance(sampling, comfy.model_sampling.CONST):
        return 1.0  # flow matching: (1 − σ) · clean + σ · noise
    if isinstance(sampling, comfy.model_sampling.COSMOS_RFLOW):
        return 1.0 + sigma  # the same, divided by its share of the clip
    return math.sqrt(1.0 + sigma**2)


def schedule_places(sampling: Any) -> Any:
    """Noise level → how far a model's whole schedule is there: 0 at pure noise, 1 at the end."""
    table = [float(sampling.percent_to_sigma(i / _PLACES)) for i in range(1, _PLACES + 1)]
    table.insert(0, max(float(sampling.sigma_max), table[0]))

    def place(sigma: float) -> float:
        after = bisect_left(table, -sigma, key=lambda value: -value)
        if after in (0, len(table)):
            return float(after > 0)
        above, below = table[after - 1], table[after]
        return (after - (sigma - below) / (above - below)) / _PLACES

    return place


def run_places(sampling: Any, first: float) -> Any:
    """The same for a run that begins at the noise level `first`.

    Some schedules, such as ddim_uniform, leave out the noisiest steps. What begins that near to pure noise is at 0, so
    that it is followed as firmly as any other run. A run that begins later goes on where another has left off.
    """
    place = schedule_places(sampling)
    begin = place(first)
    if not 0 < begin < _NEAR_NOISE:
        return place
    return lambda sigma: (place(sigma) - begin) / (1 - begin)


def clip_layout(diffusion_model: Any, conds: dict, noise: Tensor, shapes: list | None) -> ClipLayout:
    """Where the clip lies in latents of this model.

    Args:
        conds: the guider's conditionings by name.
        shapes: of what is packed in `noise`, the video first; None where nothing is.

    Raises: EchoReelError where the latents are a picture's.
    """
    video = tuple((shapes or [noise.shape])[0])
    family = _family(diffusion_model)
    if len(video) != 5 and (family is None or not family.frames_in_batch):
        raise EchoReelError(
            f"Follow Motion needs video latents, the sampler got latents of the shape {list(video)}: "
            "use a video model and an empty latent video."
        )
    frames = slice(None)
    if family is not None and not family.frames_in_batch:
        like = torch.empty(video, device="meta")
        grid = family.grid(diffusion_model, [like] if len(shapes or ()) > 1 else like, _first_conditioning(conds))
        frames = slice(grid.leading, grid.latent_frames)
    return ClipLayout(noise.shape, video, frames)


def _family(diffusion_model: Any) -> ModelFamily | None:
    try:
        return find_family(diffusion_model)
    except EchoReelError:
        return None  # guidance needs to know nothing of a model but its latents


def _first_conditioning(conds: dict) -> dict:
    entries = conds.get("positive") or next((found for found in conds.values() if found), [{}])
    return entries[0]


def _given(conds: dict) -> Tensor | None:
    """[F, H, W]: 0 where an image-to-video model is given the frames, as the host's nodes mark them."""
    mask = _first_conditioning(conds).get("concat_mask")
    return None if mask is None or mask.dim() != 5 else mask[0].amin(0)


def _spread(mask: Tensor | None, shape: torch.Size, frames: slice = slice(None)) -> Tensor | None:
    """A mask [F, H, W] over a clip of latents of that shape: [1, 1, T, H, W]."""
    if mask is None:
        return None
    mask = mask.float().reshape(-1, *mask.shape[-2:])[frames]
    at = torch.linspace(0, len(mask) - 1, shape[2]).round().long()
    return F.interpolate(mask[at][:, None], shape[-2:], mode="area").transpose(0, 1)[None]

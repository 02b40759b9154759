"""A plain reference for Apply EchoReel: the added layers written into the model's own forward, one row at a time.

Nothing of the patch is used here, only the trained form of the layer (`ActionAttention.forward`), with distances and
weights worked out anew from what the node's inputs mean.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import comfy.ldm.wan.model
import numpy
import torch
from comfy.patcher_extension import WrappersMP
from comfy.samplers import get_area_and_mult

ROLES = ("positive", "negative")
SCHEDULE_POINTS = 64  # so finely the strength follows the schedule


@dataclass(frozen=True)
class View:
    """What one call sees of the clip: latent frames by their number in the run, and a rectangle of the latents."""

    frames: list[int]
    total: int
    top: int
    left: int
    height: int
    width: int
    full: tuple[int, int]


@dataclass(frozen=True)
class Applied:
    """One Apply EchoReel: its adapter, its action and what its inputs were set to.

    Attributes:
        parts: [(tokens by role [B, S, dim], weights of the references by key, share, (start, end))], the groups of the
            action: their keys and where in the action they play, in fractions.
        blocks, steps: the numbers of the curves.
    """

    echoreel: Any
    parts: list[tuple[dict[str, torch.Tensor], list[tuple[int, float]], float, tuple[float, float]]]
    inputs: dict[str, Any]
    blocks: tuple[float, ...]
    steps: tuple[float, ...]
    fps: float
    frames_per_latent: int

    def strength(self, sampling: Any, sigma: float) -> float:
        start, end = self.inputs["start_percent"], self.inputs["end_percent"]
        if start >= end:
            return 0.0
        if start > 0 or end < 1:
            first, last = (float(sampling.percent_to_sigma(percent)) for percent in (start, end))
            if not last <= sigma <= first:
                return 0.0
        percents = numpy.linspace(0, 1, SCHEDULE_POINTS + 1)
        inner = [float(sampling.percent_to_sigma(percent)) for percent in percents[1:-1]]
        sigmas = numpy.array([float(sampling.sigma_max), *inner, 0.0])
        percent = numpy.interp(-sigma, -sigmas, percents)
        return self.inputs["strength"] * float(
            numpy.interp(percent, numpy.linspace(0, 1, len(self.steps)), self.steps)
            if len(self.steps) > 1
            else self.steps[0]
        )

    def block_factor(self, index: int) -> float:
        count = len(self.echoreel.config.sites)
        place = index / (count - 1) if count > 1 else 0.0
        return float(numpy.interp(place * (len(self.blocks) - 1), range(len(self.blocks)), self.blocks))

    def delta(self, index: int, x: torch.Tensor, role: str, view: View) -> torch.Tensor:
        """What layer `index` adds to x [B, T, P, dim], at a strength of 1."""
        from echoreel_pack.echoreel_core.action.attention import ActionContext

        at, total = self._place_in_clip(view)
        total_delta = torch.zeros_like(x)
        for tokens, references, share, (begin, finish) in self.parts:
            start, end = self._span(total)
            start, end = start + begin * (end - start), start + finish * (end - start)
            pace = self._pace()
            last = end if pace is None else min(end, start + max(keys for keys, _ in references) / pace)
            distance, bias = [], []
            for keys, weight in references:
                rate = pace if pace is not None else (keys - 1) / (end - start - 1) if end - start > 1 else 0.0
                position = [min(max((t - start) * rate, 0), keys - 1) for t in at]
                distance.append(torch.tensor([[key - p for key in range(keys)] for p in position]))
                bias.append(torch.full((len(at), keys), math.log(weight)))
            plays = torch.tensor([max(0.0, min(t + 1, last) - max(t, start)) for t in at])
            if begin == 0.0 and finish == 1.0 and pace is None and self._whole():
                plays = torch.ones(len(at))
            context = ActionContext(tokens[role], torch.cat(distance, 1), torch.cat(bias, 1))
            attention = self.echoreel.attentions.model[index]
            total_delta += share * plays[:, None, None] * attention(x, context)
        return total_delta * self.block_factor(index) * self._mask(x, view, at, total)

    def _whole(self) -> bool:
        return not (self.inputs.get("start_second") or self.inputs.get("end_second"))

    def _rate(self) -> float:
        return self.inputs.get("fps") or self.fps

    def _frame(self, second: float) -> float:
        frame = second * self._rate()
        return frame if frame < 1 else (frame - 1) / self.frames_per_latent + 1

    def _pace(self) -> float | None:
        if self.inputs.get("timing") != "at its own pace":
            return None
        return (self.inputs.get("reference_fps") or self._rate()) / self._rate()

    def _place_in_clip(self, view: View) -> tuple[list[float], int]:
        length = self.inputs.get("clip_seconds", 0.0)
        if not length:
            return [float(frame) for frame in view.frames], view.total
        start = self.inputs["clip_start_second"] * self._rate() / self.frames_per_latent
        total = max(math.ceil(self._frame(length)), math.ceil(start) + view.total)
        return [frame + start for frame in view.frames], total

    def _span(self, total: int) -> tuple[float, float]:
        if self._whole():
            return 0.0, float(total)
        end = self.inputs.get("end_second", 0.0)
        return self._frame(self.inputs.get("start_second", 0.0)), min(self._frame(end), total) if end else float(total)

    def _mask(self, x: torch.Tensor, view: View, at: list[float], total: int) -> torch.Tensor | float:
        """[T, P, 1]. Masks are drawn in whole multiples of the latents, so every token is a plain mean."""
        mask = self.inputs.get("mask")
        if mask is None:
            return 1.0
        scale = mask.shape[1] // view.full[0]
        mask = mask[
            :,
            view.top * scale : (view.top + view.height) * scale,
            view.left * scale : (view.left + view.width) * scale,
        ]
        cell = round((mask.shape[1] * mask.shape[2] / x.shape[2]) ** 0.5)
        tokens = mask.unflatten(2, (-1, cell)).mean(3).unflatten(1, (-1, cell)).mean(2).flatten(1)
        places = [min(max(t / max(total - 1, 1), 0.0), 1.0) * (len(tokens) - 1) for t in at]
        lower = [int(place) for place in places]
        upper = [min(place + 1, len(tokens) - 1) for place in lower]
        share = torch.tensor([place - below for place, below in zip(places, lower, strict=True)])[:, None]
        return (tokens[lower] * (1 - share) + tokens[upper] * share)[..., None]


AddLayers = Callable[[int, torch.Tensor], torch.Tensor]
"""(site, hidden state [B, T, P, dim]) → what all Applies make of it."""


def wan_forward(
    model: Any, x: torch.Tensor, t: torch.Tensor, text: torch.Tensor, add: AddLayers, patches: dict[str, float]
) -> torch.Tensor:
    """Wan's text-to-video forward, [B, C, T, H, W] → as x."""
    size = x.shape[-3:]
    freqs = model.rope_encode(*size, device=x.device, dtype=x.dtype)
    x = model.patch_embedding(x)
    grid = x.shape[2:]
    x = x.flatten(2).transpose(1, 2)
    sinusoid = comfy.ldm.wan.model.sinusoidal_embedding_1d(model.freq_dim, t.flatten()).to(x.dtype)
    time = model.time_embedding(sinusoid)
    per_block = model.time_projection(time).unflatten(1, (6, -1))
    text = model.text_embedding(text)
    for index, block in enumerate(model.blocks):
        before = (block.modulation + per_block).unsqueeze(2).unbind(1)
        attended = block.self_attn(block.norm1(x) * (1 + before[1]) + before[0], freqs)
        x = x + attended * before[2]
        x = x + block.cross_attn(block.norm3(x), text, context_img_len=None)
        x = x * patches.get("after text", 1.0)
        x = add(index, x.unflatten(1, (grid[0], -1))).flatten(1, 2)
        x = x + block.ffn(block.norm2(x) * (1 + before[4]) + before[3]) * before[5]
        if index == 0:
            x = x * patches.get("first block", 1.0)
    return model.unpatchify(model.head(x, time[:, None]), grid)


def lvdm_forward(
    model: Any, x: torch.Tensor, t: torch.Tensor, text: torch.Tensor, add: AddLayers, _patches: dict[str, float]
) -> torch.Tensor:
    """The released family's UNet on one clip whose frames lie in the batch, its transformer blocks by hand."""
    from echoreel_pack.echoreel_core.lvdm.unet import LVDMUNet

    sites = model.sites()

    def by_hand(index: int, block: Any) -> Callable:
        def forward(x: torch.Tensor, context: torch.Tensor, *_args: Any, **_kwargs: Any) -> torch.Tensor:
            b, frames, places, dim = x.shape
            x = x + block.attn1(block.norm1(x).reshape(b * frames, places, dim)).view(x.shape)
            x = x + block.attn1_tmp(block.norm4(x))
            x = x + block.attn2(block.norm2(x).reshape(b, frames * places, dim), context).view(x.shape)
            x = x + block.attn2_tmp(block.norm5(x))
            x = add(index, x)
            return x + block.ff(block.norm3(x))

        return forward

    try:
        for index, site in enumerate(sites):
            site.block.forward = by_hand(index, site.block)
        out = LVDMUNet.forward(model, x.transpose(0, 1)[None], t[:1], text[:1])
    finally:
        for site in sites:
            del site.block.forward
    return out[0].transpose(0, 1)


@dataclass(frozen=True)
class ByHand:
    """A CALC_COND_BATCH wrapper: every conditioning of every list in a call of its own, the layers by hand.

    Attributes:
        frames: latent frames of the run. frames_axis: of the latents.
        patches: factors that other nodes multiply hidden states by.
        tiles: the picture is run in so many pieces, side by side.
    """

    forward: Callable
    applied: list[Applied]
    frames: int
    frames_axis: int
    patches: dict[str, float]
    tiles: int = 1

    def patch(self, model: Any) -> Any:
        model = model.clone()
        model.add_wrapper_with_key(WrappersMP.CALC_COND_BATCH, "by hand", self)
        return model

    def __call__(self, _executor: Any, model: Any, conds: list, x: torch.Tensor, timestep: Any, model_options: dict):
        return [self._list(model, entries, ROLES[i], x, timestep, model_options) for i, entries in enumerate(conds)]

    def _list(self, model: Any, entries: list | None, role: str, x: torch.Tensor, timestep: Any, options: dict):
        frames = self._frames_of(x, options)
        total, weight = torch.zeros_like(x), torch.full_like(x, 1e-37)
        for entry in entries or ():
            found = get_area_and_mult(entry, x, timestep)
            if found is None:
                continue
            axes = x.dim() - 2
            sizes = list(x.shape[2:]) if found.area is None else found.area[:axes]
            starts = [0] * axes if found.area is None else found.area[axes:]
            cut = (slice(None), slice(None), *(slice(a, a + n) for a, n in zip(starts, sizes, strict=True)))
            seen = frames if axes == 2 else frames[starts[0] : starts[0] + sizes[0]]
            width = sizes[-1] // self.tiles
            pieces = []
            for tile in range(self.tiles):
                piece = found.input_x[..., tile * width : (tile + 1) * width]
                view = View(
                    seen, self.frames, starts[-2], starts[-1] + tile * width, sizes[-2], width, tuple(x.shape[-2:])
                )
                pieces.append(self._denoised(model, piece, timestep, found.conditioning, role, view))
            total[cut] += torch.cat(pieces, -1) * found.mult
            weight[cut] += found.mult
        return total / weight

    def _frames_of(self, x: torch.Tensor, options: dict) -> list[int]:
        count = x.shape[self.frames_axis]
        if count == self.frames:
            return list(range(count))
        window = options["transformer_options"]["context_window"]
        anchor = getattr(window, "causal_anchor_index", None)
        return [*([] if anchor is None or anchor < 0 else [anchor]), *window.index_list]

    def _denoised(self, model: Any, x: torch.Tensor, timestep: Any, conditioning: dict, role: str, view: View):
        sampling, sigma = model.model_sampling, float(timestep.max())
        strengths = [each.strength(sampling, sigma) for each in self.applied]

        def add(index: int, hidden: torch.Tensor) -> torch.Tensor:
            for each, strength in zip(self.applied, strengths, strict=True):
                if strength:
                    hidden = hidden + strength * each.delta(index, hidden, role, view)
            return hidden

        scaled = sampling.calculate_input(timestep, x)
        text = conditioning["c_crossattn"].cond
        out = self.forward(model.diffusion_model, scaled, sampling.timestep(timestep).float(), text, add, self.patches)
        return sampling.calculate_denoised(timestep, out, x)

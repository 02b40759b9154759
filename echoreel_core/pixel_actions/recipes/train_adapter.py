"""Train the embedded adapter on pairs of seen actions: the same motion, by another subject on another background."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from ...action.adapter import EchoReelAdapter
from ...action.attention import ActionContext
from ...lvdm.unet import LVDMUNet
from ..evaluation.tracker import background_of, track, trajectory_correlation
from ..model.adapted_model import AdaptedModel, generate, new_adapter, noise_for
from ..model.latents import decode, encode
from ..world.actions import SEEN, UNSEEN
from ..world.clips import render
from ..world.words import dropped
from .log import Log
from .optimize import Optimizer
from .pairs import Pairs, pair
from .pretrain_prism import PoseReader
from .train_base import averaged, load_base, noise_like, noised, save


@torch.inference_mode()
def probe(model: AdaptedModel, autoencoder: torch.nn.Module, count: int, steps: int = 12) -> dict[str, float]:
    """Trajectory correlation on a few seen and unseen clips that training has not drawn."""
    result = {}
    for name, actions in (("seen", SEEN), ("unseen", UNSEEN)):
        clips, others = pair(900_000, count, tuple(actions))
        latents = generate(
            model,
            clips.captions(),
            noise_for(count, 0),
            (encode(autoencoder, render(others)), others.captions()),
            steps=steps,
        )
        pixels = decode(autoencoder, latents)
        result[name] = trajectory_correlation(track(pixels, background_of(pixels)), clips.track()).nanmean().item()
    return result


class UNetWithAdapter(nn.Module):
    """The UNet with the adapter's layers hooked in permanently, which torch.compile can follow."""

    def __init__(self, unet: LVDMUNet, adapter: EchoReelAdapter) -> None:
        super().__init__()
        self.unet = unet
        self._context: ActionContext | None = None
        for site, layer in zip(unet.sites(), adapter.attentions, strict=True):
            site.attach(lambda hidden, layer=layer: layer(hidden, self._context))

    def forward(self, x: Tensor, timesteps: Tensor, text: Tensor, tokens: Tensor) -> Tensor:
        """As `AdaptedModel.with_tokens`, for one action."""
        self._context = ActionContext.plain(tokens, x.shape[2])
        return self.unet(x, timesteps, text)


def train(
    folder: Path,
    base: Path,
    start: Path,
    pairs: Path,
    autoencoder: torch.nn.Module,
    steps: int,
    batch: int = 16,
    seed: int = 5,
    rate: float = 3e-3,
    reader_weight: float = 0.1,
    offset: float = 0.1,
    lean: float = 1.0,
    turning: float = 3.0,
    probe_every: int = 500,
    fast: bool = True,
    until: int | None = None,
) -> None:
    """Write `adapter.pt` and `adapter.jsonl` into `folder`; goes on from `adapter.pt` where that exists, exactly as if
    it had never stopped. `until` stops it earlier than after all `steps`, from which the learning rate follows.

    `start` is what `pretrain_prism` wrote. Pose prediction continues beside the video model's loss, with weight
    `reader_weight`, so that the prism does not forget it while the layers learn to use the action. `lean`: see
    `_timesteps`; `turning`: see `Pairs.batch`.
    """
    torch.manual_seed(seed)
    frozen = load_base(base)
    adapter = new_adapter(frozen)
    reader = PoseReader(adapter.config.prism.action_dim)
    state = torch.load(start, weights_only=True)
    adapter.prism.load_state_dict(state["prism"])
    reader.load_state_dict(state["reader"])
    average = new_adapter(frozen)
    average.load_state_dict(adapter.state_dict())
    parts = nn.ModuleDict({"adapter": adapter, "reader": reader})
    # At the layers' rate the prism would forget how to read an angle, and relearn it only at the very end.
    optimizer = Optimizer(parts.named_parameters(), rate, slow={"adapter.prism.": 0.1, "reader.": 0.1})
    first = 0
    if (path := folder / "adapter.pt").exists():
        state = torch.load(path, weights_only=True)
        adapter.load_state_dict(state["adapter"])
        average.load_state_dict(state["average"])
        reader.load_state_dict(state["reader"])
        optimizer.load_state_dict(state["optimizer"])
        first = state["step"]
    log, data = Log(folder / "adapter.jsonl"), Pairs(pairs)
    heard = UNetWithAdapter(load_base(base).unet, adapter)
    forward = torch.compile(heard) if fast else heard
    last = steps if until is None else min(until, steps)
    for step in range(first, last):
        factor = min(1.0, (step + 1) / 50, max(0.03, (steps - step) / (0.3 * steps)))  # level, then down
        generator = torch.Generator().manual_seed(seed * 1_000_000 + step)
        (clips, others), (latents, reference) = data.batch(batch, generator, turning)
        with torch.no_grad():
            drop = {"empty": 0.1, "action": 0.4, "words": 0.05}
            text, reference_text = (frozen.text(dropped(which, generator, **drop)) for which in (clips, others))
        timesteps = _timesteps(batch, lean, generator)
        noise = noise_like(latents, offset, generator)
        x, weight = noised(latents, timesteps, noise)
        with torch.autocast("cpu", torch.bfloat16):
            tokens = adapter.prism(reference, torch.cat([text, reference_text], 1))
            predicted = forward(x, timesteps, text, tokens)
        error = (predicted.float() - noise).square().mean((1, 2, 3, 4)) * weight
        told, told_parts = reader.loss(tokens, others)
        loss = error.mean() + reader_weight * told
        norm = optimizer.step(loss, factor)
        averaged(average, adapter, step, decay=0.995)
        if step % 10 == 0:
            low, middle, high = (part.mean().item() for part in error.detach().tensor_split(3))
            log(step=step, loss=error.mean().item(), low=low, middle=middle, high=high, norm=norm, **told_parts)
        if step % 100 == 99 or step == last - 1:
            state = {"adapter": adapter.state_dict(), "average": average.state_dict(), "reader": reader.state_dict()}
            save({**state, "optimizer": optimizer.state_dict(), "step": step + 1}, path)
        if step % probe_every == probe_every - 1:
            log(step=step, **probe(AdaptedModel(frozen, average), autoencoder, 24))


def _timesteps(batch: int, lean: float, generator: torch.Generator) -> Tensor:
    """One from each of `batch` equal parts of a distribution: even at `lean` 1; below, it leans to the noisy end, where
    motion is decided."""
    share = (torch.arange(batch) + torch.rand(batch, generator=generator)) / batch
    return (1000 * share**lean).long().clamp(max=999)

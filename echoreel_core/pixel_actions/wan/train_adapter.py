"""Train an adapter on the second base with the shipped trainer: so many steps, or as many as the time allows."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from ...action.adapter import EchoReelAdapter
from ...action.attention import Position
from ...lvdm.text_encoder import CLIPTextEncoder
from ...training.config import OutputSettings, TrainingSettings
from ...training.optimizer import OptimizerName
from ...training.process_group import ProcessGroup
from ...training.run import TrainingRun
from ...training.trainer import StepResult, Trainer
from .adapter import adapter_config
from .clock import Every
from .latents import FRAMES, RESOLUTION, products
from .model import WanModel
from .pairs import DROP, PairLatents, WanPairs
from .trainable import WanTrainable

TRIAL = 30
"""Steps by which the time of one is told."""


@dataclass(frozen=True)
class AdapterSettings:
    """What is tried out: the adapter's form, and how it is trained."""

    cells: int = 1
    position: Position = "relative_bias"
    prism_rate: float = 0.1
    prism_start: int = 1200
    optimizer: OptimizerName = "adamw"
    rate: float = 2e-3
    batch: int = 64
    seed: int = 5


def _trainer(
    settings: AdapterSettings,
    steps: int,
    start: int,
    model: WanModel,
    pairs: WanPairs,
    device: torch.device,
    compiled: bool = False,
) -> Trainer:
    torch.manual_seed(settings.seed)
    adapter = EchoReelAdapter(adapter_config(model, settings.cells, settings.position))
    training = TrainingSettings(
        steps=steps,
        batch_size=settings.batch,
        optimizer=settings.optimizer,
        learning_rate=settings.rate,
        prism_rate=settings.prism_rate,
        prism_start_steps=start,
        schedule="linear",
        weighting="none",
        text_dropout=0.0,  # the pairs withhold captions, words and all
        average=0.99,
        mixed_precision="bf16" if products(device) == torch.bfloat16 else "no",
        compile="default" if compiled else "no",
        seed=settings.seed,
    )
    return Trainer(WanTrainable(model), adapter, pairs, training, ProcessGroup(device))


def train(
    settings: AdapterSettings,
    minutes: float,
    model: WanModel,
    text: CLIPTextEncoder,
    latents: PairLatents,
    log: Callable[..., None],
) -> EchoReelAdapter:
    """The averaged adapter after `minutes`, of which the trial of the speed and the prism's start are a part."""
    begun, device = time.monotonic(), latents.latents.device
    pairs = WanPairs(latents, text, drop=DROP)
    seconds = _seconds_per_step(_trainer(settings, TRIAL, 0, model, pairs, device))
    trainer = _trainer(settings, 10**9, settings.prism_start, model, pairs, device)
    every = Every(4)
    for number, loss in enumerate(trainer.start_prism()):
        if every() or number == settings.prism_start - 1:
            log(stage="prism start", step=number, untold=loss)
    left = 60 * minutes - (time.monotonic() - begun)
    trainer.settings = replace(trainer.settings, steps=max(8, int(left / seconds)), prism_start_steps=0)
    log(stage="adapter", seconds_per_step=seconds, steps=trainer.settings.steps)
    losses: list[float] = []
    for result in trainer:
        losses.append(result.loss)
        if every() or result.step == trainer.settings.steps:
            log(stage="adapter", step=result.step, loss=sum(losses) / len(losses), norm=result.gradient_norm)
            losses.clear()
        if time.monotonic() - begun > 60 * minutes + 3:
            log(stage="adapter", cut_at=result.step)
            break
    trainer.close()
    trainer.adapter.load_state_dict(trainer.average.weights())
    return trainer.adapter.requires_grad_(False).eval()


def train_steps(
    folder: Path,
    settings: AdapterSettings,
    steps: int,
    model: WanModel,
    text: CLIPTextEncoder,
    latents: PairLatents,
    say: Callable[[str], None],
    compiled: bool = True,
) -> None:
    """Writes adapter.safetensors, checkpoints and metrics.jsonl into `folder`; goes on from the last checkpoint."""
    pairs, device = WanPairs(latents, text, drop=DROP), latents.latents.device
    trainer = _trainer(settings, steps, settings.prism_start, model, pairs, device, compiled)
    output = OutputSettings(folder, name="adapter", stored_as="float32", checkpoint_every=100, held_out_every=0)
    run = TrainingRun(trainer, output, {"frames": FRAMES, "fps": 16, "width": RESOLUTION, "height": RESOLUTION})
    run.resume()

    def on_step(result: StepResult) -> None:
        if result.step % output.log_every == 0:
            say(f"step {result.step}/{steps}  loss {result.loss:.4f}")

    run(on_step)


def _seconds_per_step(trainer: Trainer) -> float:
    times = []
    for _ in trainer:
        times.append(time.monotonic())
    trainer.close()
    half = len(times) // 2
    return (times[-1] - times[half]) / (len(times) - 1 - half)

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
from ...training.process_group import ProcessGroup
from ...training.run import TrainingRun
from ...training.trainer import StepResult, Trainer
from .adapter import adapter_config
from .clock import Every
from .export import MODEL_FILE
from .latents import FRAMES, RESOLUTION, products
from .model import WanModel
from .pairs import DROP, PairLatents, WanPairs
from .trainable import WanTrainable

UNKNOWN = 1_000_000
"""Steps of a training whose speed is not known yet."""
ENOUGH = 30
"""Steps after which the time of one is known."""
FACTS = {"base_model": MODEL_FILE, "frames": FRAMES, "fps": 16, "width": RESOLUTION, "height": RESOLUTION}
"""Of an adapter's description: what it was trained on."""
LEVEL = 0.6
"""Share of the steps before which their number may still change: the learning rate falls in the last 30 %."""


@dataclass(frozen=True)
class AdapterSettings:
    """What is tried out: the adapter's form, see `adapter_config`, and how it is trained, see `TrainingSettings`."""

    cells: int = 4
    position: Position = "relative_bias"
    token_width: int = 256
    prism_start: int = 1200
    prism_rate: float = 0.3
    motion_loss: float = 0.1
    noise_bias: float = 1.0
    rate: float = 3e-3
    batch: int = 16
    seed: int = 5


def _trainer(
    settings: AdapterSettings,
    steps: int,
    model: WanModel,
    pairs: WanPairs,
    device: torch.device,
    compiled: bool = False,
) -> Trainer:
    torch.manual_seed(settings.seed)
    adapter = EchoReelAdapter(adapter_config(model, settings.cells, settings.position, settings.token_width))
    training = TrainingSettings(
        steps=steps,
        batch_size=settings.batch,
        optimizer="muon",
        learning_rate=settings.rate,
        prism_rate=settings.prism_rate,
        prism_start_steps=settings.prism_start,
        motion_loss=settings.motion_loss,
        noise_bias=settings.noise_bias,
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
    """The averaged adapter after `minutes`, whose number of steps is found out on the way."""
    end, device = time.monotonic() + 60 * minutes, latents.latents.device
    trainer = _trainer(settings, UNKNOWN, model, WanPairs(latents, text, drop=DROP), device)
    every = Every(8)
    for number, loss in enumerate(trainer.start_prism()):
        if every() or number == settings.prism_start - 1:
            log(stage="prism start", step=number, untold=loss)
    begun, losses = time.monotonic(), []
    for result in trainer:
        now, done, steps = time.monotonic(), result.step, trainer.settings.steps
        losses.append(result.loss)
        if done % ENOUGH == 0 and done < LEVEL * steps:
            left = max(1, int((end - now) / (now - begun) * done))
            trainer.settings = replace(trainer.settings, steps=done + left)
        if every() or done == steps:
            log(stage="adapter", step=done, steps=trainer.settings.steps, loss=sum(losses) / len(losses))
            losses.clear()
        if now > end:
            log(stage="adapter", cut_at=done, steps=steps)
            break
    trainer.close()
    trainer.adapter.load_state_dict(trainer.average.weights())
    trainer.adapter.config = replace(trainer.adapter.config, training={**FACTS, "steps": trainer.step})
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
    trainer = _trainer(settings, steps, model, pairs, device, compiled)
    output = OutputSettings(folder, name="adapter", stored_as="float32", checkpoint_every=100, held_out_every=0)
    run = TrainingRun(trainer, output, FACTS)
    run.resume()

    def on_step(result: StepResult) -> None:
        if result.step % output.log_every == 0:
            say(f"step {result.step}/{steps}  loss {result.loss:.4f}")

    run(on_step)

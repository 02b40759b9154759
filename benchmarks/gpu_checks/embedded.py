"""Training of the embedded adapter at full speed."""

from __future__ import annotations

import statistics

import timing
import torch

from echoreel_core.action.adapter import EchoReelAdapter
from echoreel_core.lvdm.checkpoint import load_released
from echoreel_core.lvdm.unet import LVDMUNet
from echoreel_core.modules.attention import AttentionFunction, scaled_dot_product
from echoreel_core.pixel_actions.model.base_model import LATENT_SIZE, plain_attention
from echoreel_core.pixel_actions.model.files import EMBEDDED_FILE
from echoreel_core.training.config import MixedPrecision, TrainingSettings
from echoreel_core.training.lvdm.trainable import TrainableLVDM
from echoreel_core.training.process_group import ProcessGroup
from echoreel_core.training.trainer import Trainer

from .pairs import NoisePairs
from .report import Bench

TEXT = (77, 48)

FORMS: dict[str, tuple[MixedPrecision, AttentionFunction]] = {
    "float32, plain attention": ("no", plain_attention),
    "bfloat16, plain attention": ("bf16", plain_attention),
    "bfloat16, torch's attention": ("bf16", scaled_dot_product),
}


def check(bench: Bench) -> None:
    """Rows: steps in each form."""
    batch = 2 if bench.small else 16
    for name, form in FORMS.items():
        line = f"batch {batch}, {name}"
        if bench.enough(line, 2 if bench.small else 8):
            with bench.attempt(line):
                _check_form(bench, line, batch, *form)


def _check_form(bench: Bench, line: str, size: int, precision: MixedPrecision, attention: AttentionFunction) -> None:
    parts = load_released(EMBEDDED_FILE)
    unet, adapter = LVDMUNet(parts.unet_config, attention=attention), EchoReelAdapter(parts.adapter_config)
    for module, weights in ((unet, parts.unet), (adapter, parts.adapter)):
        module.load_state_dict({key: value.float() for key, value in weights.items()})
    latents = (4, 4 if bench.small else 16, LATENT_SIZE, LATENT_SIZE)
    settings = TrainingSettings(batch_size=size, mixed_precision=precision)
    host, pairs = TrainableLVDM(unet.to(bench.device)), NoisePairs(latents, latents, TEXT, 64)
    trainer = Trainer(host, adapter, pairs, settings, ProcessGroup(bench.device))
    (batch,) = trainer._micro_batches(range(size))
    timesteps = trainer.trainable.noise_level(batch.draws.u).time.to(bench.device)

    @torch.no_grad()
    def forward() -> None:
        with trainer.objective.autocast():
            trainer.trainable.predict(batch.target, timesteps, batch.prompt)

    @torch.no_grad()
    def adapted() -> None:
        with trainer.objective.loss(batch):
            pass

    works = {"forward": forward, "adapted": adapted, "step": trainer.train_step}
    seconds = timing.on_device(works, bench.device, 6.0 if not bench.small else 0.1)
    forward_ms, adapted_ms, step_ms = (statistics.median(runs) * 1e3 for runs in seconds.values())
    ratio = timing.median_ratio(seconds["step"], seconds["forward"])
    bench.row(
        line,
        f"{1e3 / step_ms:.1f} steps a second, {ratio:.1f} x the frozen forward pass",
        f"step {step_ms:.1f} ms; forward pass {forward_ms:.1f} ms frozen, {adapted_ms:.1f} ms with prism and layers",
    )

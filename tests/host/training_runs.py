"""Runs of Train EchoReel in the host tests, and how what they made is compared with what is applied."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path

import torch
from conditioning import noise
from video_clips import write_clip


def write_actions(folder: Path, actions=("Hop", "HandStand")) -> None:
    """Two clips of each action, as UCF-101 lays them out, with names of different lengths."""
    for action in actions:
        (folder / action).mkdir(parents=True, exist_ok=True)
        for take in (1, 2):
            write_clip(folder / action / f"v_{action}_g0{take}_c01.mp4", 20 + take, size=(64, 64))


def settings(**changes) -> dict:
    """The node's inputs behind model, vae and clip, but for those that have defaults in Python."""
    return {
        "data": "moves",
        "name": "run",
        "steps": 12,
        "learning_rate": 3e-3,
        "batch_size": 2,
        "frame_count": 4,
        "every_nth": 4,
        "width": 64,
        "height": 64,
        "weighting": "none",
        "gradient_checkpointing": True,
        "seed": 0,
        **changes,
    }


def small_start(folders: Path, tiny, text_width: int):
    """A small fresh adapter for a tiny model, loaded."""
    import adapters
    from echoreel_pack.nodes.families import find_family
    from echoreel_pack.nodes.models.adapter import load_adapter

    model = tiny.model.model.diffusion_model
    path = folders / "models" / "echoreel" / "start.safetensors"
    adapters.fresh_adapter(tiny, find_family(model).sites(model), text_width=text_width).save(path)
    return load_adapter(str(path))


def losses(folders: Path, name: str) -> list[float]:
    """The loss of every step of a run."""
    lines = (folders / "output" / "echoreel_training" / name / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


def assert_applied_as_trained(model, echoreel, target, told) -> tuple[torch.Tensor, torch.Tensor]:
    """Asserts that Apply EchoReel, in a run of the host's sampler, does what the adapter did in training.

    Returns: the model's prediction without the adapter, and with it.
    """
    from echoreel_pack.echoreel_core.action.action import Action, Reference
    from echoreel_pack.echoreel_core.action.adapter import EchoReelAdapter
    from echoreel_pack.echoreel_core.training.config import TrainingSettings
    from echoreel_pack.echoreel_core.training.trainer import Trainer
    from echoreel_pack.nodes.apply_echoreel import apply_action
    from echoreel_pack.nodes.models.adapter import adapter_weights

    adapter = EchoReelAdapter(echoreel.config)
    adapter.load_state_dict(adapter_weights(echoreel))
    tokens = noise(1, 4, adapter.config.prism.action_dim, seed=3)
    action = Action.of(Reference(tokens, tokens), echoreel.id, echoreel.config.host)

    def attached(host):
        return Trainer(host, adapter, [0], TrainingSettings()).objective.attached(tokens, target.shape[2])

    plain, trained = predict(model, target, told), predict(model, target, told, attached)
    applied = predict(apply_action(model, echoreel, action, 1.0), target, told)
    assert (trained - plain).norm() > 1e-6 * plain.norm()
    assert (applied - trained).norm() < 1e-3 * (trained - plain).norm() + 1e-6 * plain.norm()
    return plain, trained


def predict(model, target, told, attached=lambda host: nullcontext()) -> torch.Tensor:
    """What a MODEL predicts in a sampling run for latents that are told of by a conditioning."""
    from echoreel_pack.nodes.training.trainable import TrainableHostModel

    host = TrainableHostModel(model)

    def call():
        with torch.no_grad(), attached(host):
            return host.predict(target, host.noise_level(torch.tensor([0.6])).time, told["cross_attn"][None], [told])

    return host.sampling_run(target, call)

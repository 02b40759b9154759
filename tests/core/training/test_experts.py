"""Two experts under one adapter: one for high noise, one for low noise."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from training_toys import ToyPairs, TrainableFlow, toy_adapter, toy_model

from echoreel_core.errors import EchoReelError
from echoreel_core.training import checkpoints, cost
from echoreel_core.training.config import (
    Config,
    DataSettings,
    ModelFile,
    ModelSettings,
    OutputSettings,
    TrainingSettings,
)
from echoreel_core.training.experts import TrainableExperts
from echoreel_core.training.held_out import LEVELS
from echoreel_core.training.loss import NoiseLevels, drawn_level
from echoreel_core.training.state import state
from echoreel_core.training.trainer import Trainer

BOUNDARY = 0.6
SETTINGS = TrainingSettings(
    steps=6, batch_size=3, accumulation=2, learning_rate=1e-2, prism_start_steps=0, gradient_checkpointing=True
)


class Watched(TrainableFlow):
    """A toy that notes at which levels it is called, and has to be loaded then."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        for weight in self.model.parameters():
            weight.data *= scale
        self.levels, self.loads, self.there = [], 0, False

    def load(self) -> None:
        self.loads, self.there = self.loads + 1, True

    def unload(self) -> None:
        self.there = False

    def predict(self, noisy, time, text, conditioning=()):
        assert self.there
        self.levels += time.tolist()
        return super().predict(noisy, time, text, conditioning)


def experts(low_scale: float = 0.5) -> TrainableExperts:
    return TrainableExperts(Watched(), Watched(low_scale), BOUNDARY)


def fresh(model, settings=SETTINGS, seed: int = 0) -> Trainer:
    return Trainer(model, toy_adapter(model, seed), ToyPairs(6), settings)


def trained(model, settings=SETTINGS) -> Trainer:
    trainer = fresh(model, settings)
    for _ in trainer:
        pass
    return trainer


def equal(one, other) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[key]) for key, value in one.items())


def test_every_noise_level_goes_to_its_expert_and_the_other_one_is_away():
    model = trained(experts()).trainable
    high, low = model.experts
    u = torch.stack([drawn_level(SETTINGS.seed, sample, NoiseLevels(bias=SETTINGS.noise_bias)) for sample in range(36)])
    drawn = model.noise_level(u).time.float()  # the same as a single model gets
    assert sorted(high.levels) == sorted(drawn[drawn >= BOUNDARY].tolist())
    assert sorted(low.levels) == sorted(drawn[drawn < BOUNDARY].tolist())
    assert high.there != low.there
    assert high.loads + low.loads == SETTINGS.steps + 1  # at most one change a step, though each step has both


def test_two_experts_of_the_same_weights_are_one_model():
    settings = replace(SETTINGS, batch_size=1, accumulation=1)
    single = Watched()
    single.load()
    straight = trained(single, settings).adapter.state_dict()
    assert equal(trained(experts(low_scale=1.0), settings).adapter.state_dict(), straight)
    assert not equal(trained(experts(low_scale=0.5), settings).adapter.state_dict(), straight)


def test_continues_exactly_and_says_where_the_boundary_was(tmp_path):
    straight = trained(experts())
    half = trained(experts(), replace(SETTINGS, steps=3))  # an odd number: the next step begins with the other expert
    folder = checkpoints.save_checkpoint(half, tmp_path, {})
    carried_on = fresh(experts(), seed=9)
    assert checkpoints.resume(carried_on, folder) == {"steps": 3}
    for _ in carried_on:
        pass
    assert equal(carried_on.adapter.state_dict(), straight.adapter.state_dict())
    assert equal(state(carried_on)[0], state(straight)[0])
    moved = fresh(TrainableExperts(Watched(), Watched(), 0.5))
    assert checkpoints.resume(moved, folder) == {"steps": 3, "boundary": BOUNDARY}
    assert checkpoints.resume(fresh(Watched()), folder) == {"steps": 3, "boundary": BOUNDARY}


def test_held_out_loss_is_that_of_the_expert_at_each_level():
    trainer = trained(experts())
    model, pairs = trainer.trainable, ToyPairs(8, seed=5)
    adapter, before = trainer.adapter, [expert.loads for expert in model.experts]
    losses = trainer.held_out_loss(pairs, 8)
    assert sum(expert.loads for expert in model.experts) - sum(before) <= 2  # they take turns once
    apart = []
    for expert in model.experts:
        expert.load()
        apart.append(Trainer(expert, adapter, pairs, replace(SETTINGS, average=0)))
    with trainer.average.in_place():
        high, low = (one.held_out_loss(pairs, 8) for one in apart)
    of_expert = [h if u >= BOUNDARY else l_ for u, h, l_ in zip(LEVELS, high, low, strict=True)]
    assert losses == pytest.approx(of_expert, rel=1e-5)
    assert high != pytest.approx(low, rel=1e-2)


def test_what_a_run_will_cost_is_measured_on_both(monkeypatch):
    model = experts()
    source = SimpleNamespace(device="cpu", host=model, adapter=lambda _: toy_adapter(model), run=lambda _, work: work())
    monkeypatch.setattr(cost, "CachedPairs", lambda _: ToyPairs(6))
    nowhere = Path()
    settings = DataSettings(nowhere, nowhere), OutputSettings(nowhere)
    config = Config(ModelSettings(ModelFile("a", nowhere)), *settings, training=replace(SETTINGS, steps=100))
    *_, line = cost.measured_lines(config, source)
    assert "s a step on cpu" in line and "for 100 steps" in line
    assert [len(expert.levels) > 0 for expert in model.experts] == [True, True]
    assert sum(len(expert.levels) for expert in model.experts) == 2 * cost.STEPS * 6


class Shifted(TrainableFlow):
    def noise_level(self, u):
        return super().noise_level(u.sqrt())


class Shorter(TrainableFlow):
    def sites(self):
        return super().sites()[:1]


@pytest.mark.parametrize(
    ("low", "differs"), [(Shifted, r"noise schedule \(shift\)"), (Shorter, "blocks"), (toy_model, "family")]
)
def test_unlike_models_are_refused(low, differs):
    with pytest.raises(EchoReelError, match=f"not two of a kind, they differ in their {differs}: use the two"):
        TrainableExperts(TrainableFlow(), low(), BOUNDARY)


@pytest.mark.parametrize("boundary", [0.0, 1.0, -0.2, float("nan")])
def test_a_boundary_that_is_none_is_refused(boundary):
    with pytest.raises(EchoReelError, match="use a noise level between 0 and 1"):
        TrainableExperts(TrainableFlow(), TrainableFlow(), boundary)

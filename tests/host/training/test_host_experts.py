"""Both experts of Wan 2.2 in one run: two tiny Wans in the host."""

from __future__ import annotations

import comfy.model_base
import comfy.model_management
import pytest
import tiny_models
import torch
from conditioning import untouched
from encoders import Pixels, Words
from tiny_families import build
from training_runs import assert_applied_as_trained, settings, small_start, write_actions

BOUNDARY = 0.875


@pytest.fixture(scope="module", autouse=True)
def data(folders):
    write_actions(folders / "input" / "two experts")


def expert(seed: int):
    """A tiny Wan whose loader can make it again."""

    def made(disable_dynamic=False):
        model = tiny_models.wan()
        tiny_models.randomise(model.model.diffusion_model, seed)
        return model

    model = made()
    model.cached_patcher_init = (made, ())
    return model


@pytest.fixture(scope="module")
def start(folders, pack):
    return small_start(folders, build("wan t2v"), 4096)


class Calls:
    """Notes every call of two Wans: which of them (by a weight), and its noise levels. The other is never loaded."""

    def __init__(self, monkeypatch, *models) -> None:
        experts = [mark(model.model) for model in models]
        self.calls: list[tuple[float, float]] = []
        inner = comfy.model_base.BaseModel._apply_model

        def spy(base, x, t, *rest, **more):
            own = mark(base)
            loaded = [mark(one.model) for one in comfy.model_management.loaded_models() if is_wan(one.model)]
            assert [one for one in loaded if one in experts] == [own]
            self.calls += [(own, float(level)) for level in t]
            return inner(base, x, t, *rest, **more)

        monkeypatch.setattr(comfy.model_base.BaseModel, "_apply_model", spy)


def is_wan(base) -> bool:
    return isinstance(base, comfy.model_base.WAN21)


def mark(base) -> float:
    return float(base.diffusion_model.patch_embedding.bias[0])


def trained(name, start, high, low, **more):
    from echoreel_pack.nodes.train_echoreel import TrainEchoReel

    inputs = settings(data="two experts", name=name, steps=4, frame_count=9, every_nth=2)
    with torch.inference_mode(), untouched(high), untouched(low):
        return TrainEchoReel.execute(
            high, Pixels(16, 8, 4), Words(4096), **{**inputs, **more}, echoreel=start, low_noise_model=low
        ).result[0]


def cancel_after(monkeypatch, number: int) -> None:
    from echoreel_pack.echoreel_core.training.trainer import Trainer

    step = Trainer.train_step

    def train_step(trainer):
        result = step(trainer)
        comfy.model_management.interrupt_current_processing(result.step == number)
        return result

    monkeypatch.setattr(Trainer, "train_step", train_step)


def test_each_expert_trains_measures_and_samples_its_own_noise_levels_alone_on_the_device(
    start, folders, monkeypatch, pack
):
    from echoreel_pack.echoreel_core.training.data.cached_pairs import CachedPairs
    from echoreel_pack.echoreel_core.training.data.conditioning import map_tensors
    from echoreel_pack.nodes.models.adapter import adapter_weights

    with torch.inference_mode():
        high, low = expert(1), expert(2)
    with monkeypatch.context() as patch:
        calls = Calls(patch, high, low).calls
        adapter = trained("both", start, high, low, held_out=0.3, sample_every=4)
    run = folders / "output" / "echoreel_training" / "both"
    assert list((run / "samples").glob("*.mp4"))
    assert {own for own, _ in calls} == {mark(high.model), mark(low.model)}
    assert all((own == mark(high.model)) == (level >= BOUNDARY) for own, level in calls)
    changes = sum(one != other for (one, _), (other, _) in zip(calls, calls[1:], strict=False))
    assert changes < len(calls) / 4

    batch = CachedPairs(run / "cache").batch([0], [0])
    for model in (high, low):
        assert_applied_as_trained(model, adapter, batch.target, map_tensors(batch.conditioning_of(0), torch.clone))

    with monkeypatch.context() as patch, pytest.raises(comfy.model_management.InterruptProcessingException):
        cancel_after(patch, 3)
        trained("in two goes", start, high, low, held_out=0.3)
    resumed = adapter_weights(trained("in two goes", start, high, low, held_out=0.3))
    assert all(torch.equal(weight, resumed[name]) for name, weight in adapter_weights(adapter).items())


def test_the_boundary_is_the_models_own(pack):
    from echoreel_pack.nodes.training.experts import trainable_host

    assert trainable_host(expert(1), expert(2)).boundary == 0.875
    assert trainable_host(expert(1), expert(2), 0.4).boundary == 0.4
    from_image = [tiny_models.wan("i2v", in_channels=36) for _ in range(2)]
    assert trainable_host(*from_image).boundary == 0.9


def test_models_that_do_not_belong_together_are_refused_before_any_clip_is_read(start, pack):
    for low in (tiny_models.wan("i2v", in_channels=36), tiny_models.wan(layers=3)):
        with pytest.raises(ValueError, match="not two of a kind, one of them has other parts or inputs: use the two"):
            trained("unlike", start, expert(1), low, data="two experts")
    with pytest.raises(ValueError, match="not known to come as two: leave low_noise_model empty, or set boundary"):
        trained("no two", start, build("ltxv").model, build("ltxv").model)

"""The training loop: what it changes and what not, that it learns, and that it carries on exactly."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from training_toys import ToyPairs, TrainableFlow, preconditioned_model, toy_adapter, toy_model

from echoreel_core.action.adapter import EchoReelAdapter, read_adapter
from echoreel_core.action.injection import added_layers
from echoreel_core.training import checkpoints, gradient_checkpointing
from echoreel_core.training.config import TrainingSettings
from echoreel_core.training.state import state
from echoreel_core.training.trainer import Trainer, leave_inference_mode

FAST = TrainingSettings(
    steps=6, batch_size=2, learning_rate=1e-3, prism_start_steps=0, text_dropout=0.3, reference_dropout=0.3
)


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def copied(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in weights.items()}


def trained(settings: TrainingSettings, host=None, pairs=None) -> Trainer:
    host = host or toy_model()
    trainer = Trainer(host, toy_adapter(host), pairs or ToyPairs(), settings)
    for _ in trainer:
        pass
    return trainer


@pytest.mark.parametrize(
    ("make_host", "steps", "optimizer"),
    [(preconditioned_model, 25, "adamw"), (TrainableFlow, 100, "muon")],
    ids=["lvdm, noise", "tokens in a row, flow"],
)
def test_learns_a_handful_of_pairs_and_leaves_the_model_as_it_was(make_host, steps, optimizer):
    host, pairs, noisy = make_host(), ToyPairs(2), (0.9, 0.99)
    before = copied(host.model.state_dict())
    settings = TrainingSettings(
        steps=steps,
        batch_size=4,
        optimizer=optimizer,
        learning_rate=3e-3,
        prism_rate=1.0,
        prism_start_steps=0,
        schedule="cosine",
        beta2=0.99,
        weighting="clean",
        noise_bias=5,
        text_dropout=0,
    )
    trainer = Trainer(host, toy_adapter(host), pairs, settings)
    first = sum(trainer.held_out_loss(pairs, 2, noisy))
    for _ in trainer:
        pass
    assert sum(trainer.held_out_loss(pairs, 2, noisy)) < 0.5 * first
    assert equal(host.model.state_dict(), before)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in host.model.modules())
    assert not any("forward" in vars(module) for module in host.model.modules())


def test_continues_exactly(tmp_path):
    straight = trained(FAST)
    half = trained(replace(FAST, steps=3))
    checkpoints.save_checkpoint(half, tmp_path, {})
    host = toy_model()
    carried_on = Trainer(host, toy_adapter(host, seed=9), ToyPairs(), FAST)
    changed = checkpoints.resume(carried_on, checkpoints.list_checkpoints(tmp_path)[-1])
    assert changed == {"steps": 3}
    results = list(carried_on)
    assert [result.step for result in results] == [4, 5, 6]
    assert carried_on.pairs.asked == straight.pairs.asked[3:]
    assert equal(carried_on.adapter.state_dict(), straight.adapter.state_dict())
    assert equal(state(carried_on)[0], state(straight)[0])


def test_saved_adapter_reproduces_the_trained_one(tmp_path):
    trainer = trained(FAST)
    folder = checkpoints.save_checkpoint(trainer, tmp_path, {"frames": 4})
    config, weights = read_adapter(folder / checkpoints.ADAPTER_FILE)
    assert config.training == {"frames": 4, "steps": 6}
    adapter = EchoReelAdapter(config)
    adapter.load_state_dict(weights)
    trainer_2 = Trainer(trainer.trainable, adapter, trainer.pairs, FAST)
    assert trainer_2.held_out_loss(trainer.pairs, 2) == trainer.held_out_loss(trainer.pairs, 2)


@pytest.mark.parametrize("precision", ["no", "bf16"])
@pytest.mark.parametrize("make_host", [toy_model, TrainableFlow])
def test_gradient_checkpointing_changes_nothing(precision, make_host):
    settings = replace(FAST, steps=2, mixed_precision=precision)
    plain = trained(settings, make_host())
    recomputed = trained(replace(settings, gradient_checkpointing=True), make_host())
    assert equal(plain.adapter.state_dict(), recomputed.adapter.state_dict())


@pytest.mark.parametrize("make_host", [toy_model, TrainableFlow])
def test_offloaded_activations_change_nothing_and_are_what_is_left_of_them(make_host, monkeypatch):
    settings = replace(FAST, steps=2, gradient_checkpointing=True)
    plain = trained(settings, make_host())
    offloaded = []

    class Counting(gradient_checkpointing.save_on_cpu):
        def __init__(self, **options):
            super().__init__(**options)
            pack = self.pack_hook
            self.pack_hook = lambda tensor: offloaded.append(tensor.shape) or pack(tensor)

    monkeypatch.setattr(gradient_checkpointing, "save_on_cpu", Counting)
    host = make_host()
    waiting = trained(replace(settings, offload_activations=True), host)
    assert equal(plain.adapter.state_dict(), waiting.adapter.state_dict())
    modules = [*host.checkpointed_modules(), *waiting.adapter.prism.layers]
    hidden = [shape for shape in offloaded if len(shape) >= 3]
    first = 1  # what goes into the model's first block hangs on nothing that is trained, and stays
    assert len(hidden) >= 2 * (len(modules) - first) and len(offloaded) < 4 * len(hidden)


def test_accumulation_is_a_larger_batch():
    one, four = (trained(replace(FAST, batch_size=4 // n, accumulation=n, steps=1)) for n in (1, 4))
    assert sum(four.pairs.asked, []) == one.pairs.asked[0]
    for a, b in zip(one.adapter.parameters(), four.adapter.parameters(), strict=True):
        assert (a.grad - b.grad).norm() <= 1e-4 * a.grad.norm()


def test_a_fresh_adapter_is_the_model_itself():
    host, pairs, plain = toy_model(), ToyPairs(), replace(FAST, weighting="none")
    trainer = Trainer(host, toy_adapter(host), pairs, plain)
    (batch,) = trainer._micro_batches([0, 1])
    with torch.no_grad(), trainer.objective.loss(batch) as (loss, _):
        with_layers = loss
    bare = Trainer(host, toy_adapter(host), pairs, plain)
    for attention in bare.adapter.attentions:
        torch.nn.init.normal_(attention.to_out.bias)
    with torch.no_grad(), bare.objective.loss(batch) as (loss, _):
        assert loss != with_layers
    level = host.noise_level(batch.draws.u)
    noisy = level.signal.float().view(-1, 1, 1, 1, 1) * batch.target
    noisy = noisy + level.noise.float().view(-1, 1, 1, 1, 1) * batch.draws.noise
    with torch.no_grad(), added_layers([], []):
        expected = (host.predict(noisy, level.time, batch.prompt) - batch.draws.noise).square().mean()
    torch.testing.assert_close(with_layers, expected)


def test_trains_from_inside_inference_mode():
    outside = trained(replace(FAST, steps=2))
    with torch.inference_mode():
        host, pairs = toy_model(), ToyPairs()
        assert pairs.target.is_inference() and next(host.model.parameters()).is_inference()
        leave_inference_mode(host.model)
        trainer = Trainer(host, toy_adapter(host), pairs, replace(FAST, steps=2))
        for _ in trainer:
            pass
        held_out = trainer.held_out_loss(pairs, 2, (0.5,))
    assert equal(trainer.adapter.state_dict(), outside.adapter.state_dict())
    assert held_out == outside.held_out_loss(outside.pairs, 2, (0.5,))


def test_a_loss_that_is_not_a_number_stops_before_the_step():
    host, pairs = toy_model(), ToyPairs()
    pairs.target[:] = float("nan")
    trainer = Trainer(host, toy_adapter(host), pairs, FAST)
    before = copied(trainer.adapter.state_dict())
    with pytest.raises(ValueError, match="not a number at step 1 .*lower the learning rate"):
        trainer.train_step()
    assert equal(trainer.adapter.state_dict(), before) and trainer.step == 0


def test_bfloat16_stays_close_and_keeps_its_weights_in_float32():
    plain, mixed = (trained(replace(FAST, steps=2, mixed_precision=p)) for p in ("no", "bf16"))
    assert all(weight.dtype == torch.float32 for weight in mixed.adapter.state_dict().values())
    loss, mixed_loss = plain.held_out_loss(plain.pairs, 4)[4], mixed.held_out_loss(mixed.pairs, 4)[4]
    assert loss != mixed_loss and abs(loss - mixed_loss) < 0.02 * loss


def test_learning_rates():
    settings = replace(FAST, steps=40, optimizer="muon", warmup=3, schedule="cosine", learning_rate=1.0, prism_rate=2.0)
    host = toy_model()
    trainer = Trainer(host, toy_adapter(host), ToyPairs(), settings)
    rates = []
    for trainer.step in (0, 1, 15, 20, 35):
        rates.append(trainer._rate_factor(trainer.step))
        trainer.optimizer.set_rates(rates[-1])
        muon, adam = ([group["lr"] for group in part.param_groups] for part in trainer.optimizer.parts)
        assert muon == [2 * rates[-1], rates[-1]] and adam == pytest.approx([2 / 3 * rates[-1], rates[-1] / 3])
    assert rates == pytest.approx([0.25, 0.5 * 0.9984587, 0.6913417, 0.5, 0.0380602])


def test_refuses_an_adapter_of_another_model():
    host = toy_model()
    with pytest.raises(ValueError, match="has a layer for blocks.0, but the model has input_blocks"):
        Trainer(host, toy_adapter(TrainableFlow()), ToyPairs(), FAST)


def test_checkpoints_are_whole_or_absent(tmp_path, monkeypatch):
    trainer = trained(replace(FAST, steps=1))
    checkpoints.save_checkpoint(trainer, tmp_path, {})
    trainer.train_step()

    def cut_off(_):  # when the adapter is written already
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoints, "state", cut_off)
    with pytest.raises(KeyboardInterrupt):
        checkpoints.save_checkpoint(trainer, tmp_path, {})
    assert [path.name for path in checkpoints.list_checkpoints(tmp_path)] == ["step-0000001"]
    monkeypatch.undo()
    for _ in range(2):  # over the leftover, then over itself
        checkpoints.save_checkpoint(trainer, tmp_path, {}, keep=1)
    assert [path.name for path in tmp_path.iterdir()] == ["step-0000002"]


def test_refuses_the_state_of_another_adapter(tmp_path):
    trainer = trained(replace(FAST, steps=1))
    checkpoints.save_checkpoint(trainer, tmp_path, {})
    flow = TrainableFlow()
    other = Trainer(flow, toy_adapter(flow), ToyPairs(), FAST)
    with pytest.raises(ValueError, match="trains an adapter of different sizes"):
        checkpoints.resume(other, tmp_path / "step-0000001")
    file = tmp_path / "step-0000001" / checkpoints.STATE_FILE
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(ValueError, match=f"{checkpoints.STATE_FILE} cannot be read"):
        checkpoints.resume(trainer, tmp_path / "step-0000001")
    assert json.dumps(state(trainer)[1])

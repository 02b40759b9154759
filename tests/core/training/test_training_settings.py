"""Each setting of the trainer changes what it says, and all of them together carry on exactly."""

from __future__ import annotations

import logging
import sys
from dataclasses import replace

import pytest
import torch
from training_toys import ToyPairs, TrainableFlow, toy_adapter, toy_model

from echoreel_core.action.adapter import EchoReelAdapter, read_adapter
from echoreel_core.action.attention import ActionContext
from echoreel_core.training import checkpoints
from echoreel_core.training.augment import augmented, moved
from echoreel_core.training.config import TrainingSettings
from echoreel_core.training.data.batches import Batch
from echoreel_core.training.loss import NoiseLevels, draw
from echoreel_core.training.optimizer import Optimizer
from echoreel_core.training.prism_start import MotionReader
from echoreel_core.training.process_group import ProcessGroup
from echoreel_core.training.start import look_at_same_frame
from echoreel_core.training.state import load_state, state
from echoreel_core.training.trainer import Trainer
from echoreel_core.video.keypoints import POINTS, with_missing

FAST = TrainingSettings(
    steps=6, batch_size=2, optimizer="muon", learning_rate=1e-2, text_dropout=0.3, reference_dropout=0.3
)
ALL = replace(
    FAST,
    average=0.2,
    prism_rate=0.1,
    prism_start_steps=3,
    motion_loss=0.3,
    schedule="linear",
    noise_spread="logit-normal",
    noise_bias=1.0,
    noise_shift=3.0,
    noise_offset=0.1,
    reference_shift=0.3,
    mirror=0.5,
)


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def copied(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in trainer.adapter.state_dict().items()}


def fresh(settings: TrainingSettings, host=None, seed: int = 0) -> Trainer:
    host = host or TrainableFlow()
    return Trainer(host, toy_adapter(host, seed), ToyPairs(), settings)


def trained(settings: TrainingSettings, host=None) -> Trainer:
    trainer = fresh(settings, host)
    for _ in trainer:
        pass
    return trainer


# ── average of weights


def test_the_average_is_the_one_by_hand_and_is_what_is_saved_and_measured(tmp_path):
    trainer = fresh(replace(FAST, average=0.5))
    by_hand = copied(trainer)
    for step in range(6):
        trainer.train_step()
        decay = min(0.5, (1 + step) / (10 + step))
        by_hand = {key: decay * by_hand[key] + (1 - decay) * now for key, now in trainer.adapter.state_dict().items()}
    weights = copied(trainer)
    assert not equal(weights, trainer.average.weights())
    for key, average in trainer.average.weights().items():
        torch.testing.assert_close(average, by_hand[key])
    folder = checkpoints.save_checkpoint(trainer, tmp_path, {})
    config, saved = read_adapter(folder / checkpoints.ADAPTER_FILE)
    assert equal(saved, trainer.average.weights())
    adapter = EchoReelAdapter(config)
    adapter.load_state_dict(saved)
    plain = Trainer(trainer.trainable, adapter, trainer.pairs, replace(FAST, average=0.0))
    assert plain.held_out_loss(trainer.pairs, 2) == trainer.held_out_loss(trainer.pairs, 2)
    assert equal(copied(trainer), weights)  # in place only while it is measured


def test_without_an_average_the_weights_are_saved():
    trainer = trained(replace(FAST, average=0.0))
    assert equal(trainer.average.weights(), trainer.adapter.state_dict())
    assert not any(key.startswith("weights.") for key in state(trainer)[0])


# ── optimizer


def test_muon_takes_torchs_own_step_for_matrices_and_adamw_the_rest():
    torch.manual_seed(0)
    parts = torch.nn.ModuleDict({"a": torch.nn.Linear(6, 4), "conv": torch.nn.Conv2d(3, 4, 2)})
    parts.position_k = torch.nn.Parameter(torch.randn(5, 4))
    start = {name: p.detach().clone() for name, p in parts.named_parameters()}
    gradients = [{name: torch.randn_like(p) for name, p in start.items()} for _ in range(3)]
    optimizer = Optimizer(parts.named_parameters(), "muon", 1e-2, weight_decay=0.05)
    theirs = {name: torch.nn.Parameter(p.clone().flatten(1) if p.dim() > 2 else p.clone()) for name, p in start.items()}
    matrices = [theirs["a.weight"], theirs["conv.weight"]]
    rest = [theirs[name] for name in ("a.bias", "conv.bias", "position_k")]
    muon = torch.optim.Muon(matrices, 1e-2, weight_decay=0.05, adjust_lr_fn="match_rms_adamw")
    adam = torch.optim.AdamW(rest, 1e-2 / 3, betas=(0.9, 0.99), weight_decay=0.0)
    for gradient in gradients:
        for name, parameter in parts.named_parameters():
            parameter.grad = gradient[name].clone()
            theirs[name].grad = gradient[name].view_as(theirs[name]).clone()
        optimizer.share_gradients()
        optimizer.set_rates(1.0)
        optimizer.step()
        muon.step()
        adam.step()
    for name, parameter in parts.named_parameters():
        assert torch.equal(parameter.flatten(), theirs[name].flatten()), name
        assert not torch.equal(parameter, start[name])


def test_moments_in_8_bits_lead_where_adamws_do():
    pytest.importorskip("bitsandbytes")
    start, eight, full = (
        copied(trained(replace(FAST, optimizer=name, learning_rate=rate)))
        for name, rate in (("adamw", 0.0), ("adamw8bit", 1e-3), ("adamw", 1e-3))
    )
    for key, weight in full.items():
        if weight.numel() >= 4096:  # smaller ones stay in 32 bits
            ways = [(weights[key] - start[key]).flatten() for weights in (eight, full)]
            assert 0.9 < torch.nn.functional.cosine_similarity(*ways, dim=0) < 1.0, key


def test_without_bitsandbytes_the_8_bit_optimizer_says_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", None)
    with pytest.raises(ValueError, match="needs bitsandbytes.*or use 'adamw'"):
        fresh(replace(FAST, optimizer="adamw8bit"))


def test_slow_parameters_learn_at_their_share_of_the_rate_and_the_schedule_keeps_it():
    start = torch.nn.Linear(6, 4).state_dict()
    parts = torch.nn.ModuleDict({name: torch.nn.Linear(6, 4) for name in ("quick", "slow")})
    for part in parts.values():
        part.load_state_dict(start)
    optimizer = Optimizer(parts.named_parameters(), "muon", 1e-2, slow={"slow.": 0.1})
    x = torch.randn(8, 6, generator=torch.Generator().manual_seed(0))
    sum(part(x).square().mean() for part in parts.values()).backward()
    optimizer.share_gradients()
    optimizer.set_rates(0.5)
    optimizer.step()
    for key, before in start.items():
        quick, slow = (parts[name].state_dict()[key] - before for name in ("quick", "slow"))
        assert quick.abs().max() > 1e-4
        torch.testing.assert_close(slow, 0.1 * quick, rtol=1e-3, atol=1e-6)


def test_a_torch_without_muon_says_so_and_takes_adamw_at_its_own_rate(monkeypatch, caplog):
    monkeypatch.delattr(torch.optim, "Muon")
    with caplog.at_level(logging.WARNING):
        trainer = trained(FAST)
    assert trainer.optimizer.name == "adamw" and "no Muon" in caplog.text
    monkeypatch.undo()
    settings = replace(FAST, optimizer="adamw", learning_rate=FAST.learning_rate / 3, average=0.0)
    other = Trainer(trainer.trainable, toy_adapter(trainer.trainable), ToyPairs(), settings)
    for _ in other:
        pass
    assert equal(other.adapter.state_dict(), trainer.adapter.state_dict())


# ── start


@pytest.mark.parametrize("position", ["relative_vectors", "relative_bias"])
def test_fresh_layers_look_at_the_same_frame_and_learned_ones_stay(position):
    torch.manual_seed(0)
    adapter = toy_adapter(TrainableFlow())
    adapter = EchoReelAdapter(replace(adapter.config, position=position))
    learned = adapter.attentions[1]
    torch.nn.init.normal_(learned.to_out.weight)
    before = {key: value.clone() for key, value in learned.state_dict().items()}
    layer, frames = adapter.attentions[0], 4
    x, tokens = torch.randn(2, frames, 3, layer.dim), torch.randn(2, frames, adapter.config.prism.action_dim)

    def same_frame() -> float:
        """Share of the attention on the frame's own: its tokens' values are told apart by where they are."""
        with torch.no_grad():
            q = layer.to_q(layer.norm(x)).unflatten(-1, (layer.heads, layer.head_dim))
            context = ActionContext.plain(tokens, frames)
            k, _ = layer._keys_values(context, q)
            scores = torch.einsum("btphd,btshd->btphs", q, k.expand(-1, frames, -1, -1, -1)) * layer.head_dim**-0.5
            bias = layer._score_bias(context, scores)
            weight = (scores if bias is None else scores + bias[None, :, None]).softmax(-1)
            return weight.diagonal(dim1=1, dim2=4).mean().item()

    assert same_frame() < 0.35
    look_at_same_frame(adapter)
    assert same_frame() > 0.6
    assert equal(dict(learned.state_dict()), before)
    assert not layer(x, ActionContext.plain(tokens, frames)).any()


def test_the_prism_starts_with_telling_what_changes():
    settings = replace(FAST, steps=60, optimizer="adamw", learning_rate=3e-3, prism_start_steps=70, batch_size=4)
    trainer = fresh(replace(settings, text_dropout=0.0, reference_dropout=0.0))
    attentions = {key: value.clone() for key, value in trainer.adapter.attentions.state_dict().items()}
    told = list(trainer.start_prism())
    assert len(told) == 60 and told[0] > 0.9 and told[-1] < 0.7
    assert equal(dict(trainer.adapter.attentions.state_dict()), attentions)
    assert equal(trainer.average.weights(), trainer.adapter.state_dict()) and trainer.step == 0
    assert not list(trainer.start_prism())  # once is enough


def test_the_prisms_start_takes_as_many_pairs_a_step_as_asked_in_batches_that_fit():
    """Angles take many clips, more than fit beside the video model at once."""
    settings = replace(FAST, steps=3, prism_start_steps=3, batch_size=2, accumulation=2)
    asked = {}
    for pairs in (1, 5, 16):
        trainer = fresh(replace(settings, prism_start_pairs=pairs))
        whole, sizes = trainer.objective.action, asked.setdefault(pairs, [])

        def counted(batch, whole=whole, sizes=sizes):
            sizes.append(len(batch.target))
            return whole(batch)

        trainer.objective.action = counted
        list(trainer.start_prism())
    assert asked == {1: 3 * 2 * [2], 5: 3 * 3 * [2], 16: 3 * 8 * [2]}  # never fewer than a training step has


class PosedPairs(ToyPairs):
    """Two points that the brightness of each frame moves about."""

    def batch(self, indices, seeds):
        batch = super().batch(indices, seeds)
        level = batch.reference.mean((-1, -2))[:, :2].movedim(1, -1)  # [B, T, 2]
        points = torch.stack([level + 0.3 * level.flip(-1), level - 0.3 * level.flip(-1)], 2)
        return replace(batch, keypoints=with_missing(points))


def test_the_prism_starts_with_telling_where_the_joints_are_where_that_is_known():
    settings = replace(FAST, steps=120, optimizer="adamw", learning_rate=3e-3, prism_start_steps=120, batch_size=4)
    settings = replace(settings, text_dropout=0.0, reference_dropout=0.0)
    host = TrainableFlow()
    told = list(Trainer(host, toy_adapter(host), PosedPairs(), settings).start_prism())
    assert told[0] > 0.9 and sum(told[-10:]) / 10 < 0.4, told


def test_the_motion_loss_keeps_what_the_tokens_tell_and_is_not_in_the_loss_that_is_told():
    settings = replace(FAST, steps=120, optimizer="adamw", learning_rate=3e-3, batch_size=4, prism_start_steps=0)
    settings = replace(settings, prism_rate=1.0, text_dropout=0.0, reference_dropout=0.0)

    def run(weight):
        host = TrainableFlow()
        trainer = Trainer(host, toy_adapter(host), PosedPairs(), replace(settings, motion_loss=weight))
        return next(iter(trainer)).loss, trainer

    (plain, _), (first, trainer) = run(0.0), run(1.0)
    assert first == plain
    for _ in trainer:
        pass
    (batch,) = trainer._micro_batches(range(4))
    with torch.no_grad():
        assert trainer.reader.loss(trainer.objective.action(batch), batch.reference, batch.keypoints) < 0.4
    assert not any(name.startswith("reader") for name in trainer.average.weights())


def test_references_that_are_left_out_have_no_motion_to_tell():
    settings = replace(FAST, motion_loss=1.0, reference_dropout=0.999, prism_start_steps=0)
    trainer = fresh(settings)
    (batch,) = trainer._micro_batches(range(settings.batch_size))
    assert batch.draws.drop_reference.all()
    trainer.train_step()
    assert all(parameter.grad is None for parameter in trainer.reader.parameters())


def test_processes_average_the_same_gradients_where_one_alone_has_keypoints():
    """Each brings a list of tensors to be averaged, and waits for ever if another's is longer."""

    class OneOfTwo(ProcessGroup):
        count = 2

        def __init__(self):
            super().__init__()
            self.shapes = []

        def mean_(self, tensors):
            self.shapes.append([tuple(tensor.shape) for tensor in tensors])

    settings, brought = replace(FAST, prism_start_steps=1), []
    for pairs in (PosedPairs(), ToyPairs()):
        host, group = TrainableFlow(), OneOfTwo()
        list(Trainer(host, toy_adapter(host), pairs, settings, group).start_prism())
        brought.append(group.shapes)
    assert brought[0] == brought[1]


def test_what_is_not_known_of_a_figure_counts_for_nothing():
    torch.manual_seed(0)
    reference, tokens = torch.randn(3, 4, 5, 8, 8), torch.randn(3, 5, 7)
    reader, points = MotionReader(7, reference), with_missing(torch.randn(3, 5, 6, 2))
    points[1, 2:, 3] = torch.nan
    moved_points = points.clone()
    moved_points[1, 2:, 3, 0] = 7.0  # half known is not known
    torch.testing.assert_close(reader.loss(tokens, reference, moved_points), reader.loss(tokens, reference, points))
    points[2] = torch.nan  # of this clip nothing but its change is told
    change, rest = reader.loss(tokens, reference, None), reader.loss(tokens[:2], reference[:2], points[:2])
    figure = 3 / 2 * rest - 1 / 2 * reader.loss(tokens[:2], reference[:2], None)
    torch.testing.assert_close(reader.loss(tokens, reference, points), (5 * change + 4 * figure) / 9)
    nothing = torch.full_like(points, torch.nan)
    torch.testing.assert_close(reader.loss(tokens, reference, nothing), reader.loss(tokens, reference, None))


@pytest.mark.parametrize("moves", [0.0, 1e-3])
def test_a_figure_that_stands_still_teaches_no_more_than_others(moves):
    """With one pair a step there may be nothing that varies, and a share of nothing would be without limit."""
    torch.manual_seed(0)
    reference, tokens = torch.randn(1, 4, 5, 8, 8), torch.randn(1, 5, 7)
    points = with_missing(torch.zeros(1, 5, 6, 2) + moves * torch.randn(1, 5, 6, 2))
    assert MotionReader(7, reference).loss(tokens, reference, points) < 100


def test_a_prism_whose_layers_have_learned_something_has_no_start():
    trainer = trained(FAST)
    assert not Trainer(trainer.trainable, trainer.adapter, trainer.pairs, FAST).prism_steps


# ── noise levels


@pytest.mark.parametrize("spread", ["uniform", "logit-normal"])
def test_levels_of_consecutive_samples_are_stratified_however_they_are_split(spread):
    levels = NoiseLevels(spread, bias=1.0, shift=3.0)
    whole = draw(3, range(100, 164), (1, 1), levels=levels).u
    for size in (1, 4, 16):
        parts = [draw(3, range(start, start + size), (1, 1), levels=levels).u for start in range(100, 164, size)]
        assert torch.equal(whole, torch.cat(parts))
    edges = levels.of(torch.linspace(0, 1, 9, dtype=torch.float64))  # eight parts of equal probability
    for start in range(0, 48, 5):
        counts = torch.histogram(whole[start : start + 16], bins=edges).hist
        assert counts.min() >= 1 and counts.max() <= 3, counts


def test_shift_and_spread_are_the_published_formulas():
    u = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    torch.testing.assert_close(NoiseLevels(shift=3.0).of(u), 3 * u / (1 + 2 * u))
    normal = torch.distributions.Normal(0.0, 1.0).icdf(u)
    torch.testing.assert_close(NoiseLevels("logit-normal").of(u), normal.sigmoid())
    assert torch.equal(NoiseLevels().of(u), u)


def test_noise_offset_moves_whole_channels_and_only_for_models_that_predict_noise():
    plain, offset = (draw(0, range(400), (2, 4, 4, 4), noise_offset=o).noise for o in (0.0, 0.5))
    added = offset - plain
    assert torch.allclose(added, added.mean((2, 3, 4), keepdim=True).expand_as(added), atol=1e-6)
    assert abs(added[:, :, 0, 0, 0].std() - 0.5) < 0.05
    settings = replace(FAST, noise_offset=0.5)
    for host, moved_by in ((toy_model(), True), (TrainableFlow(), False)):
        (with_offset,) = fresh(settings, host)._micro_batches([0, 1])
        (without,) = fresh(FAST, host)._micro_batches([0, 1])
        assert torch.equal(with_offset.draws.noise, without.draws.noise) is not moved_by


# ── augmentation


def test_references_move_and_pairs_are_mirrored_by_their_number_alone():
    latents = torch.arange(2 * 12.0).view(2, 1, 1, 3, 4).repeat(8, 1, 1, 1, 1)
    batch = Batch(latents, latents + 1, latents, latents)
    assert augmented(batch, range(16), 0) is batch
    changed = augmented(batch, range(16), 0, shift=0.4, mirror=0.5)
    for i in range(0, 16, 4):
        own = Batch(*(latents[i : i + 4] + more for more in (0, 1, 0, 0)))
        part = augmented(own, range(i, i + 4), 0, shift=0.4, mirror=0.5)
        assert torch.equal(changed.reference[i : i + 4], part.reference)
    flipped = [torch.equal(changed.target[i], latents[i].flip(-1)) for i in range(16)]
    assert 0 < sum(flipped) < 16
    assert all(f or torch.equal(changed.target[i], latents[i]) for i, f in enumerate(flipped))
    with_points = replace(batch, keypoints=torch.zeros(16, 1, POINTS, 2))
    shifted = augmented(with_points, range(16), 0, shift=0.4)
    for i, (across, down) in enumerate(shifted.keypoints[:, 0, 0].tolist()):
        assert torch.equal(moved(batch.reference[i], round(down * 3 / 2), round(across * 4 / 2)), shifted.reference[i])
    assert shifted.keypoints.unique().numel() > 2 and not with_points.keypoints.any()
    forgotten = augmented(with_points, range(16), 0, mirror=0.5).keypoints.isnan().flatten(1).all(1)
    assert forgotten.tolist() == flipped
    told = replace(batch, image_conditioning=[{}] * 16)
    assert torch.equal(augmented(told, range(16), 0, mirror=1.0).target, latents)


def test_what_is_moved_in_is_the_edge():
    clip = torch.arange(6.0).view(1, 1, 2, 3)
    assert moved(clip, 1, 0)[0, 0].tolist() == [[0, 1, 2], [0, 1, 2]]
    assert moved(clip, -1, -1)[0, 0].tolist() == [[4, 5, 5], [4, 5, 5]]
    assert moved(clip, 0, 2)[0, 0].tolist() == [[0, 0, 0], [3, 3, 3]]


# ── state


@pytest.mark.parametrize("optimizer", ["muon", "adamw", "adamw8bit"])
def test_continues_exactly_with_everything_on(tmp_path, optimizer):
    if optimizer == "adamw8bit":
        pytest.importorskip("bitsandbytes")
    settings = replace(ALL, optimizer=optimizer)
    straight = trained(settings)
    half = fresh(settings)
    for result in half:
        if result.step == 3:
            break
    checkpoints.save_checkpoint(half, tmp_path, {})
    carried_on = fresh(settings, seed=9)
    assert checkpoints.resume(carried_on, tmp_path / "step-0000003") == {}
    for _ in carried_on:
        pass
    assert equal(carried_on.adapter.state_dict(), straight.adapter.state_dict())
    assert equal(carried_on.average.weights(), straight.average.weights())
    assert equal(state(carried_on)[0], state(straight)[0])
    assert any(kept.dtype == torch.uint8 for kept in state(straight)[0].values()) == (optimizer == "adamw8bit")


def test_every_setting_of_them_matters():
    straight = trained(ALL, toy_model()).average.weights()
    for name in vars(ALL):
        if getattr(ALL, name) != getattr(FAST, name):
            other = trained(replace(ALL, **{name: getattr(FAST, name)}), toy_model())
            assert not equal(other.average.weights(), straight), name


@pytest.mark.parametrize(("before", "after"), [("no", "bf16"), ("bf16", "fp16"), ("fp16", "no")])
def test_goes_on_in_another_precision(before, after):
    first = trained(replace(FAST, mixed_precision=before, steps=2))
    second = fresh(replace(FAST, mixed_precision=after), seed=5)
    load_state(second, first.average.weights(), *state(first))
    assert second.step == 2 and equal(second.adapter.state_dict(), first.adapter.state_dict())
    second.train_step()


@pytest.mark.parametrize(("before", "after"), [(0.0, 0.3), (0.3, 0.0)])
def test_goes_on_with_the_motion_loss_switched_on_or_off(before, after):
    first = trained(replace(FAST, motion_loss=before, steps=2))
    second = fresh(replace(FAST, motion_loss=after), seed=5)
    load_state(second, first.average.weights(), *state(first))
    assert equal(second.adapter.state_dict(), first.adapter.state_dict())
    assert second.train_step().step == 3


def test_goes_on_with_another_optimizer():
    first = trained(replace(FAST, steps=2))
    second = fresh(replace(FAST, optimizer="adamw"), seed=5)
    load_state(second, first.average.weights(), *state(first))
    assert second.train_step().step == 3


def damages():
    def tensor(name, change):
        def damage(weights, tensors, values):
            key = next(key for key in tensors if name in key)
            tensors[key] = change(tensors[key])

        return damage

    def value(name, what):
        return lambda weights, tensors, values: values.update({name: what})

    nan = lambda t: torch.full_like(t, float("nan"))  # noqa: E731
    yield "momentum", tensor("momentum_buffer", nan)
    yield "moments", tensor("exp_avg_sq", nan)
    yield "negative moments", tensor("exp_avg_sq", lambda t: t - 1)
    yield "shape", tensor("momentum_buffer", lambda t: t[:1])
    yield "weights", tensor("weights.", nan)
    yield "reader", tensor("reader_weights.", nan)
    yield "shape of the reader", tensor("reader_weights.", lambda t: t[:1])
    yield "average", lambda weights, tensors, values: weights.update({k: nan(v) for k, v in weights.items()})
    yield "missing", lambda weights, tensors, values: tensors.pop(next(k for k in tensors if k.endswith("exp_avg")))
    yield "strange", lambda weights, tensors, values: tensors.update({"other.exp_avg": torch.zeros(1)})
    yield "negative step", value("step", -5)
    yield "step of another kind", value("step", "7")
    yield "no scaler", value("scaler", [1])


@pytest.mark.parametrize("damage", [pytest.param(damage, id=name) for name, damage in damages()])
def test_a_damaged_state_is_refused_and_changes_nothing(damage):
    settings = replace(FAST, motion_loss=0.3)
    first, second = trained(replace(settings, steps=2)), fresh(settings, seed=5)
    second.train_step()
    before, kept = copied(second), {key: value.clone() for key, value in state(second)[0].items()}
    tensors, values = state(first)
    weights = first.average.weights()
    damage(weights, tensors, values)
    with pytest.raises(ValueError, match="another adapter, or it is damaged: "):
        load_state(second, weights, tensors, values)
    assert equal(copied(second), before) and equal(state(second)[0], kept) and second.step == 1


# ── passes


def test_the_model_is_never_handed_float64():
    class Watching(TrainableFlow):
        def predict(self, noisy, time, text, conditioning=()):
            assert time.dtype == noisy.dtype == torch.float32
            return super().predict(noisy, time, text, conditioning)

    trainer = trained(replace(FAST, steps=1), Watching())
    trainer.held_out_loss(trainer.pairs, 2)


def test_held_out_makes_each_action_once_and_few_passes():
    trainer = fresh(FAST)
    pairs, calls = ToyPairs(64), {"prism": 0, "model": 0}
    count = lambda name, rows: calls.__setitem__(name, calls[name] + rows)  # noqa: E731
    trainer.adapter.prism.register_forward_hook(lambda _m, args, _o: count("prism", len(args[0])))
    trainer.trainable.model["into"].register_forward_hook(lambda _m, _a, out: count("model", len(out)))
    assert len(trainer.held_out_loss(pairs, 64)) == 9
    assert calls == {"prism": 64, "model": 64}
    calls.update(prism=0, model=0)
    few = trainer.held_out_loss(pairs, 3)
    assert calls == {"prism": 3, "model": 27}
    assert few == trainer.held_out_loss(pairs, 3) and few[0] != few[8]


def test_a_compiled_model_trains_as_the_plain_one_and_is_left_as_it_was():
    pytest.importorskip("torch._inductor")
    plain = trained(replace(FAST, steps=3, text_dropout=0.0))
    try:
        compiled = trained(replace(FAST, steps=3, text_dropout=0.0, compile="default"))
    except Exception as error:
        if "compiler" in str(error).lower():
            pytest.skip("no C++ compiler")
        raise
    held_out = [trainer.held_out_loss(trainer.pairs, 4) for trainer in (plain, compiled)]
    assert held_out[0] == pytest.approx(held_out[1], rel=1e-4)
    assert any(module._forward_hooks for module in compiled.trainable.model.modules())
    compiled.close()
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in compiled.trainable.model.modules())
    assert compiled.trainable.model._compiled_call_impl is None

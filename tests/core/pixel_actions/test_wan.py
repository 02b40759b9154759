"""The second base: its world, its captions, its optimizer and its sampler, each against what it must equal."""

from __future__ import annotations

import contextlib
import itertools
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from echoreel_core.action.adapter import EchoReelAdapter
from echoreel_core.pixel_actions.evaluation.guidance import Guidance
from echoreel_core.pixel_actions.evaluation.guided import BEST, CELLS, evaluate_guided
from echoreel_core.pixel_actions.evaluation.judge import JUDGE_FILE, load_judge
from echoreel_core.pixel_actions.evaluation.table import ARMS, BLEND, MEASURES, balanced, evaluate, evaluate_arm
from echoreel_core.pixel_actions.evaluation.tracker import background_of, track, trajectory_correlation
from echoreel_core.pixel_actions.model.embedded import load_embedded
from echoreel_core.pixel_actions.model.files import EMBEDDED_FILE
from echoreel_core.pixel_actions.wan import by_samples, recipe, train_adapter
from echoreel_core.pixel_actions.wan.adapter import adapter_config, load_adapter
from echoreel_core.pixel_actions.wan.by_samples import ByTheSample, Pieces, make_base
from echoreel_core.pixel_actions.wan.captions import Captions
from echoreel_core.pixel_actions.wan.data import turns
from echoreel_core.pixel_actions.wan.export import (
    ADAPTER_FILE,
    MODEL_FILE,
    UNFINISHED_FILE,
    VAE_FILE,
    read_model,
    read_vae,
)
from echoreel_core.pixel_actions.wan.latents import (
    FRAMES,
    MEAN,
    RESOLUTION,
    SHAPE,
    STD,
    decode,
    encode,
    seen,
    seen_frames,
)
from echoreel_core.pixel_actions.wan.model import WanConfig, WanModel, start
from echoreel_core.pixel_actions.wan.optimize import Optimizer, orthogonalised
from echoreel_core.pixel_actions.wan.pairs import PairLatents, WanPairs
from echoreel_core.pixel_actions.wan.pipeline import WanPipeline
from echoreel_core.pixel_actions.wan.sampling import euler
from echoreel_core.pixel_actions.wan.train_adapter import AdapterSettings, train_steps
from echoreel_core.pixel_actions.wan.train_base import BaseSettings, shifted, train, unshifted
from echoreel_core.pixel_actions.wan.trainable import WanTrainable
from echoreel_core.pixel_actions.wan.vae import WanVAE, standardise
from echoreel_core.pixel_actions.world.actions import SEEN, UNSEEN
from echoreel_core.pixel_actions.world.clips import backgrounds, draw_clips, render
from echoreel_core.pixel_actions.world.words import END_ROW, UNKNOWN, content_rows, ids
from echoreel_core.training.config import TrainingSettings
from echoreel_core.training.default_sizes import AdapterInputs, general_form
from echoreel_core.training.process_group import ProcessGroup
from echoreel_core.training.trainer import Trainer


@pytest.fixture(scope="module")
def clips():
    return draw_clips(40, 5, tuple(SEEN))


def test_larger_and_longer_clips_are_the_same_world(clips):
    some = clips[:12]
    small = torch.nn.functional.avg_pool2d(backgrounds(64), 2)
    assert torch.allclose(small, backgrounds(), atol=1e-6)
    pixels = render(some, RESOLUTION, FRAMES)
    assert pixels.shape == (12, FRAMES, 3, RESOLUTION, RESOLUTION)
    looked_at = seen(pixels)
    assert torch.equal(background_of(looked_at), some.background)
    truth = seen_frames(some.track(FRAMES))
    assert trajectory_correlation(track(looked_at, some.background), truth).nanmean() > 0.985
    ends = render(some)[:, [0, -1]]  # the first and the last frame are the same moment in both
    assert (looked_at[:, [0, -1]] - ends).abs().mean() < 0.01


def dropped(clips, **chances):
    captions = Captions(clips, "cpu", **{"empty": 0.0, "action": 0.0, "words": 0.0, **chances})
    torch.manual_seed(0)
    return captions.dropped(torch.arange(len(clips)))


def test_captions_whole_and_empty(clips):
    assert torch.equal(dropped(clips), ids(clips.captions()))
    assert torch.equal(dropped(clips, empty=1.0), ids([""] * len(clips)))


def test_a_withheld_action_is_one_to_five_unknown_words_in_its_place(clips):
    counts = set()
    for text, line in zip(clips.captions(), dropped(clips, action=1.0), strict=True):
        words, count = text.split(), int((line == UNKNOWN).sum())
        counts.add(count)
        expected = " ".join([*words[:4], *["?"] * count, *words[-4:]])
        assert torch.equal(line, ids([expected])[0])
    assert counts == {1, 2, 3, 4, 5}


def test_withheld_words_are_those_that_mean_something(clips):
    whole, given = ids(clips.captions()), dropped(clips, words=1.0)
    means = torch.isin(whole, torch.tensor(sorted(content_rows())))
    assert torch.equal(given[~means], whole[~means])
    lost = given[means] == UNKNOWN
    assert 0.2 < lost.float().mean() < 0.4
    assert torch.equal(given[means][~lost], whole[means][~lost])
    assert (whole == END_ROW).any()


@pytest.mark.parametrize("shape", [(3, 16, 16), (2, 8, 24), (2, 24, 8)])
def test_orthogonalised_matrices_have_singular_values_near_one(shape):
    values = torch.linalg.svdvals(orthogonalised(torch.randn(shape)).float())
    assert values.min() > 0.3 and values.max() < 1.4


def test_optimizer_takes_the_steps_of_the_librarys_muon():
    torch.manual_seed(0)
    ours = torch.nn.Linear(12, 8, bias=False)
    theirs = torch.nn.Linear(12, 8, bias=False)
    theirs.load_state_dict(ours.state_dict())
    start, bias = ours.weight.detach().clone(), torch.nn.Parameter(torch.zeros(3))
    one = Optimizer([("weight", ours.weight), ("bias", bias)], 1e-2, plain=())
    one.factor.fill_(1.0)
    other = torch.optim.Muon(theirs.parameters(), 1e-2, weight_decay=0.01, adjust_lr_fn="match_rms_adamw")
    for _ in range(3):
        gradient = 0.05 * torch.randn(8, 12)  # too short to be clipped
        one.step([gradient.clone(), torch.zeros(3)])
        theirs.weight.grad = gradient.clone()
        other.step()
    moved, expected = ours.weight - start, theirs.weight - start
    assert (moved - expected).norm() < 0.02 * expected.norm()  # bfloat16 in another order


def test_standardised_latents_show_the_same_pixels():
    torch.manual_seed(0)
    vae = WanVAE(8).requires_grad_(False)
    pixels = torch.rand(4, 3, 5, 16, 16) * 2 - 1
    before, shown = vae.encode(pixels), vae.decode(vae.encode(pixels))
    flat = before.transpose(0, 1).flatten(1)
    standardise(vae, flat.mean(1), flat.std(1), MEAN, STD)
    after = vae.encode(pixels)
    flat = after.transpose(0, 1).flatten(1)
    assert torch.allclose(flat.mean(1), MEAN, atol=1e-3) and torch.allclose(flat.std(1), STD, atol=1e-3)
    assert torch.allclose(vae.decode(after), shown, atol=1e-4)


def test_euler_follows_a_straight_flow_exactly():
    clean, noise = torch.randn(2, 16, 9, 8, 8), torch.randn(2, 16, 9, 8, 8)
    for steps, shift in ((1, 3.0), (4, 8.0)):
        assert torch.allclose(euler(lambda x, level: noise - clean, noise, steps, shift), clean, atol=1e-5)


@pytest.fixture(scope="module")
def pairs():
    torch.manual_seed(0)
    text = load_embedded(EMBEDDED_FILE)[0].base.text
    return WanPairs(PairLatents.make(WanVAE(8).requires_grad_(False), 1, 1, chunk=8), text, turning=2)


def test_a_pair_is_one_motion_by_two_figures(pairs):
    first, second = pairs.clips
    assert torch.equal(first.draws, second.draws) and torch.equal(first.action, second.action)
    assert (first.subject != second.subject).all() and (first.background != second.background).all()
    batch = pairs.batch([0, 1], [0, 0])
    assert torch.equal(batch.target[0], batch.reference[1]) and torch.equal(batch.prompt[0], batch.caption[1])
    assert torch.equal(batch.target[0], pairs.latents[0, 0].float())
    assert len(pairs) == 2 * (8 + int(turns(first).sum()))
    points = [half[:1].keypoints(33)[0, ::4] for half in (second, first)]  # the reference's, at each latent frame
    assert torch.equal(batch.keypoints[:, :, :4], torch.stack(points)) and batch.keypoints[:, :, 4:].isnan().all()


@pytest.fixture(scope="module")
def pipeline():
    """A base and an adapter of random weights, the adapter's layers with something to add."""
    torch.manual_seed(0)
    model = start(WanModel(WanConfig(width=32, depth=2, heads=2, feed_forward=64))).requires_grad_(False)
    torch.nn.init.normal_(model.head.head.weight, std=0.1)
    adapter = EchoReelAdapter(adapter_config(model, cells=4)).requires_grad_(False)
    for layer in adapter.attentions:
        torch.nn.init.normal_(layer.to_out.weight, std=0.1)
    text = load_embedded(EMBEDDED_FILE)[0].base.text
    return WanPipeline(model, text, WanVAE(8).requires_grad_(False), adapter, steps=2)


def test_the_trainer_takes_the_second_base(pairs):
    """One step of the shipped trainer moves the added layers, and nothing of the base."""
    torch.manual_seed(0)
    model = start(WanModel(WanConfig(width=32, depth=2, heads=2, feed_forward=64)))
    torch.nn.init.normal_(model.head.head.weight, std=0.1)
    trainable = WanTrainable(model)
    sites = [(site.name, site.dim) for site in trainable.sites()]
    fit = AdapterInputs("wan", sites, latent_channels=16, latent_size=(8, 8), latent_frames=9, text_width=48)
    config = general_form(fit, width=32, depth=1, heads=2, head_dim=16)
    adapter, before = EchoReelAdapter(config), [weight.clone() for weight in model.parameters()]
    trainer = Trainer(trainable, adapter, pairs, TrainingSettings(steps=1, batch_size=2, mixed_precision="no"))
    result = trainer.train_step()
    assert 0.5 < result.loss < 4 and result.gradient_norm > 0
    assert all(layer.to_out.weight.abs().max() > 0 for layer in adapter.attentions)
    assert all(torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))


def test_a_compiled_base_trains_the_adapter_as_the_plain_one_does(pairs, pipeline, monkeypatch):
    """By the compiler's front end, where layers are taken into the graph or lose their gradients; it needs no other."""
    real = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module, mode: real(module, backend="aot_eager"))

    def steps(compiled):
        adapter = EchoReelAdapter(adapter_config(pipeline.model, cells=4))
        adapter.load_state_dict(pipeline.adapter.state_dict())
        settings = TrainingSettings(steps=2, batch_size=2, compile=compiled)
        trainer = Trainer(WanTrainable(pipeline.model), adapter, pairs, settings)
        results = [(result.loss, result.gradient_norm) for result in trainer]
        trainer.close()
        return results

    for plain, compiled in zip(steps("no"), steps("default"), strict=True):
        assert compiled == pytest.approx(plain, rel=1e-3)


def test_an_adapter_by_steps_is_written_and_goes_on_where_it_was(pairs, pipeline, tmp_path):
    settings, told = AdapterSettings(cells=4, prism_start=1, batch=2), []
    work = pipeline.model, pipeline.text, PairLatents(pairs.clips, pairs.latents)
    train_steps(tmp_path, settings, 1, *work, told.append, compiled=False)
    train_steps(tmp_path, settings, 10, *work, told.append, compiled=False)
    assert len(told) == 1 and told[0].startswith("step 10/10  loss ")
    steps = [path.name for path in sorted((tmp_path / "checkpoints").iterdir())]
    assert steps == ["step-0000000", "step-0000001", "step-0000010"]
    adapter = load_adapter(tmp_path / "adapter.safetensors")
    assert adapter.config.prism.grid == (4, 4) and adapter.attentions[0].to_out.weight.any()


def test_an_adapter_by_minutes_finds_out_how_many_steps_they_are(pairs, pipeline, monkeypatch):
    """A second a step: the rate has to fall over the last of 39 steps, of which the first 30 tell the speed."""
    monkeypatch.setattr(train_adapter, "time", SimpleNamespace(monotonic=itertools.count().__next__))
    settings, told = AdapterSettings(cells=4, prism_start=1, batch=1), []
    work = pipeline.model, pipeline.text, PairLatents(pairs.clips, pairs.latents)
    adapter = train_adapter.train(settings, 40 / 60, *work, lambda **values: told.append(values))
    assert (told[-1]["step"], told[-1]["steps"]) == (39, 39)
    assert not any(weight.requires_grad for weight in adapter.parameters())


SMALL = {"samples": 24, "batch": 4, "motions": 1, "first": 1, "each": 8, "chunks": 2}


def by_the_sample(folder, vae, group=None, **changed):
    text = load_embedded(EMBEDDED_FILE)[0].base.text
    config = WanConfig(width=32, depth=1, heads=2, feed_forward=64)
    return ByTheSample(folder, Pieces(**{**SMALL, **changed}), BaseSettings(batch=4), config, text, vae, 0.0, group)


def trained(work, stop_at=None):
    """The weights after all steps, or left in the middle of a step as a killed process leaves them."""

    class Killed(Exception):
        pass

    def shares():
        for share in work.shares(lambda average: None):
            if work.training.number == stop_at:
                raise Killed
            yield share

    with contextlib.suppress(Killed):
        train(work.training, shares, lambda **values: None, lambda average: None, fast=False)
    return work.training.model.state_dict(), work.training.average.state_dict()


def test_a_base_that_was_stopped_goes_on_as_if_it_had_not_been(tmp_path):
    """Also where the latents grew between the last state that was kept and the end."""
    torch.manual_seed(0)
    vae = WanVAE(8).requires_grad_(False)
    whole = trained(by_the_sample(tmp_path / "whole", vae))
    trained(by_the_sample(tmp_path / "parts", vae), stop_at=3)
    second = by_the_sample(tmp_path / "parts", vae)
    assert second.left_at() == 3
    parts = trained(second)
    assert len(list((tmp_path / "parts").glob("pairs-*"))) == 2
    for one, other in zip(whole, parts, strict=True):
        assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_a_base_may_go_on_for_longer_than_it_was_begun_with(tmp_path):
    torch.manual_seed(0)
    vae = WanVAE(8).requires_grad_(False)
    trained(by_the_sample(tmp_path, vae, chunks=1))
    more = by_the_sample(tmp_path, vae, chunks=1, samples=32)
    assert more.left_at() == 6
    trained(more)
    assert more.left_at() == 8


@pytest.fixture
def small_base(monkeypatch):
    """`make_base`'s own sizes would take hours."""
    torch.manual_seed(0)
    vae = WanVAE(8).requires_grad_(False)
    monkeypatch.setattr(by_samples, "read_vae", lambda _: vae)
    monkeypatch.setattr(by_samples, "WanConfig", lambda: WanConfig(width=32, depth=1, heads=2, feed_forward=64))
    return Pieces(**SMALL, check=8, clips=1, steps=1)


def test_a_base_has_its_name_only_when_it_is_finished(small_base, tmp_path, monkeypatch):
    there = []

    def measured(*_):
        there.append([path.name for path in tmp_path.glob("pixel_actions_wan*")])
        return {}, None

    monkeypatch.setattr(by_samples, "evaluate_arm", measured)
    make_base(tmp_path, small_base, fast=False, say=lambda _: None)
    assert there == [[UNFINISHED_FILE]] * 3
    assert [path.name for path in tmp_path.glob("pixel_actions_wan*")] == [MODEL_FILE]


def test_an_adapter_takes_the_base_that_is_there_and_makes_the_pairs_that_are_missing(tmp_path, monkeypatch):
    monkeypatch.setattr(recipe.Pieces, "motions", 1)
    monkeypatch.setitem(recipe.VARIANTS, "bias", AdapterSettings(prism_start=1))
    PairLatents.kept(tmp_path, WanVAE(8).requires_grad_(False), 1, 1)
    made = (tmp_path / "pairs-00001.safetensors").read_bytes()
    recipe.make_adapter(
        tmp_path, "bias", steps=1, batch=1, seed=7, prism_start=2, chunks=2, plain=True, say=lambda _: None
    )
    assert [path.name for path in sorted(tmp_path.glob("pairs-*"))] == [f"pairs-0000{n}.safetensors" for n in (1, 2)]
    assert (tmp_path / "pairs-00001.safetensors").read_bytes() == made
    adapter = load_adapter(tmp_path / "adapter-bias-7" / "adapter.safetensors")
    assert len(adapter.attentions) == read_model(tmp_path / MODEL_FILE).config.depth


def test_the_table_measures_the_second_base_as_the_first(pipeline):
    judge = load_judge(JUDGE_FILE)
    table = evaluate(pipeline, judge, 8, ("real", "base", "echoreel", "still", "no_reference"))
    guided = evaluate_guided(pipeline, judge, 8, ("unseen/guided", "unseen/guided_moved"))
    for cell in (*table.values(), *guided.values()):
        assert cell["clips"] in (8, 16) and all(len(cell[name]) == 3 for name in MEASURES)
    assert table["unseen/no_reference"]["same_as_base"] == [1.0, 1.0, 1.0]


def test_references_are_blended_in_equal_parts(pipeline, clips):
    captions, noise = clips[:2].captions(), pipeline.noise([1, 2])
    one, other = ((pipeline.encode(pipeline.pixels(part)), part.captions()) for part in (clips[2:4], clips[4:6]))
    alone, blended = pipeline.generate(captions, noise, one), pipeline.generate(captions, noise, one, other)
    assert torch.allclose(pipeline.generate(captions, noise, one, one), alone, atol=1e-5)
    assert not torch.allclose(blended, alone, atol=1e-3)
    assert torch.allclose(pipeline.generate(captions, noise, other, one), blended, atol=1e-5)


def test_a_guided_run_moves_towards_the_reference_and_a_still_one_changes_nothing(pipeline, clips):
    pipeline = WanPipeline(pipeline.model, pipeline.text, pipeline.vae, steps=8)
    captions, noise = clips[:2].captions(), pipeline.noise([1, 2])
    reference = pipeline.encode(pipeline.pixels(clips[2:4]))
    alone = pipeline.base(captions, noise)
    still = reference[:, :, 4:5].expand_as(reference)
    assert torch.equal(pipeline.guided(captions, noise, still, Guidance()), alone)

    def away(latents):
        changes, wanted = (x - x.mean(2, keepdim=True) for x in (latents, reference))
        return (changes - wanted).square().mean()

    assert away(pipeline.guided(captions, noise, reference, Guidance())) < away(alone)


def test_the_shipped_adapter_has_unseen_actions_drawn_by_others_and_needs_its_reference():
    """Eight clips, one of each unseen action, at half the steps of the table."""
    folder = Path(recipe.__file__).parent
    text, model = load_embedded(EMBEDDED_FILE)[0].base.text, read_model(folder / MODEL_FILE)
    pipeline = WanPipeline(model, text, read_vae(folder / VAE_FILE), load_adapter(folder / ADAPTER_FILE), 5)
    clips, judge = balanced(tuple(UNSEEN), 8, 77), load_judge(JUDGE_FILE)
    with_clip, wrong = (evaluate_arm(pipeline, judge, arm, clips)[0] for arm in ("echoreel", "wrong"))
    assert with_clip["trajectory_correlation"][0] > 0.95 and with_clip["action_accuracy"][0] >= 0.6
    assert with_clip["prompt_fidelity"][0] >= 0.85
    assert wrong["trajectory_correlation"][0] < 0.5 and wrong["action_accuracy"][0] <= 0.2


def test_without_an_adapter_only_what_needs_none_is_measured(tmp_path):
    folder, out = Path(recipe.__file__).parent, tmp_path / "wan.json"
    recipe.evaluated(
        folder / MODEL_FILE, None, out, 1, 1, 3.0, ("base", "echoreel", "no_reference", BLEND), "cpu", print
    )
    assert json.loads(out.read_text()).keys() == {"unseen/base", "seen/base"}


def test_results_have_their_intervals():
    results = json.loads((Path(recipe.__file__).parents[1] / "results" / "wan.json").read_text())
    own = {f"{split}/{arm}" for split in ("seen", "unseen") for arm in ARMS}
    blends = {f"blend/{name}" for name in ("first", "half", "second")}
    assert results.keys() == own | blends | {*CELLS, BEST}
    assert results["unseen/no_reference"]["same_as_base"] == results["seen/no_reference"]["same_as_base"] == [1, 1, 1]
    for name, cell in results.items():
        assert cell["clips"] >= 200, name
        for measure, value in cell.items():
            if measure != "clips":
                mean, low, high = value
                assert low <= mean <= high, (name, measure)


def test_noise_levels_go_both_ways():
    u = torch.linspace(0, 1, 9)
    assert [unshifted(level, 5.0) for level in shifted(u, 5.0).tolist()] == pytest.approx(u.tolist(), abs=1e-6)


class OneOfTwo(ProcessGroup):
    """One of two processes of which the other does nothing."""

    count = 2

    def __init__(self, rank):
        super().__init__()
        self.rank = rank


def test_processes_share_a_batch_and_draw_the_same_chances(tmp_path):
    torch.manual_seed(0)
    vae = WanVAE(8).requires_grad_(False)
    whole, *halves = (
        by_the_sample(tmp_path, vae, chunks=1, group=group).training.draw()
        for group in (ProcessGroup(), OneOfTwo(0), OneOfTwo(1))
    )
    for all_of_it, *parts in zip(whole, *halves, strict=True):
        assert torch.equal(torch.stack(parts, 1).flatten(0, 1), all_of_it)


@pytest.mark.heavy
def test_the_vae_that_is_there_keeps_what_a_clip_shows():
    vae = read_vae(Path(recipe.__file__).with_name(VAE_FILE))
    pixels = render(draw_clips(2, 905, ("cartwheel", "figure_eight")), RESOLUTION, FRAMES)
    latents = encode(vae, pixels)
    assert latents.shape == (2, *SHAPE)
    assert latents.mean().abs() < 0.2 and 0.8 < latents.std() < 1.2  # as the family's models take them
    error = (decode(vae, latents) - pixels).square().mean()
    assert -10 * error.log10() > 25  # dB

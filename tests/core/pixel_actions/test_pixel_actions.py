"""The embedded world: what is drawn is what is told, measured and split."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from echoreel_core.action.adapter import read_adapter
from echoreel_core.lvdm.autoencoder import Autoencoder, AutoencoderConfig, load_autoencoder, standardise
from echoreel_core.lvdm.text_encoder import CLIPTextEncoder
from echoreel_core.pixel_actions.evaluation.table import balanced, interval, references
from echoreel_core.pixel_actions.evaluation.tracker import background_of, colour_of, track, trajectory_correlation
from echoreel_core.pixel_actions.model.adapted_model import AdaptedModel, new_adapter
from echoreel_core.pixel_actions.model.base_model import TEXT, BaseModel
from echoreel_core.pixel_actions.model.embedded import load_embedded
from echoreel_core.pixel_actions.recipes import train_adapter, train_base
from echoreel_core.pixel_actions.recipes.export import export
from echoreel_core.pixel_actions.recipes.pairs import CHUNK, Pairs, pair
from echoreel_core.pixel_actions.recipes.pretrain_text import told_kinds
from echoreel_core.pixel_actions.recipes.train_autoencoder import CONFIG
from echoreel_core.pixel_actions.world.actions import ACTIONS, FRAMES, NAMES, SEEN, UNSEEN
from echoreel_core.pixel_actions.world.clips import RESOLUTION, backgrounds, draw_clips, render, with_other_subject
from echoreel_core.pixel_actions.world.words import KNOWN, TOKENS, UNKNOWN, dropped, expand, ids


@pytest.fixture(scope="module")
def clips():
    return balanced(NAMES, 96, seed=11)


@pytest.fixture(scope="module")
def pixels(clips):
    return render(clips)


def test_same_seed_same_clips_and_another_seed_others():
    first, again, other = (draw_clips(6, seed) for seed in (5, 5, 6))
    assert torch.equal(render(first), render(again))
    assert first.captions() == again.captions()
    assert not torch.equal(first.draws, other.draws)


def test_a_clip_does_not_depend_on_the_clips_drawn_with_it(clips, pixels):
    assert torch.allclose(render(clips[17:18]), pixels[17:18], atol=1e-6)


def test_keypoints_frame_the_figure(clips, pixels):
    """The parallelogram whose sides' middles they are holds every pixel of the figure, and little else."""
    top, right, bottom, left = clips.keypoints().unbind(2)
    middle, across, down = (top + right + bottom + left) / 4, (right - left) / 2, (bottom - top) / 2
    scene = backgrounds()[clips.background][:, None]
    figure = (pixels - scene).abs().sum(2) > 0.15
    along = (torch.arange(RESOLUTION) + 0.5) / RESOLUTION * 2 - 1
    x, y = along - middle[..., 0, None, None], along[:, None] - middle[..., 1, None, None]
    across, down = across[..., None, None], down[..., None, None]
    size = across[:, :, 0] * down[:, :, 1] - across[:, :, 1] * down[:, :, 0]
    u, v = (x * down[:, :, 1] - y * down[:, :, 0]) / size, (y * across[:, :, 0] - x * across[:, :, 1]) / size
    near = (u.abs() < 1.35) & (v.abs() < 1.35)  # the figure hangs by its centre of mass, not by the sprite's middle
    assert not (figure & ~near).any()
    assert (figure.sum((2, 3)) > 0.2 * near.sum((2, 3))).float().mean() > 0.95


def test_pixels_are_within_range_and_of_the_documented_shape(pixels):
    assert pixels.shape == (96, FRAMES, 3, RESOLUTION, RESOLUTION)
    assert pixels.min() >= 0 and pixels.max() <= 1


@pytest.mark.parametrize("name", NAMES)
def test_every_action_moves_something_and_draws_of_its_own(name):
    some = draw_clips(16, 3, (name,))
    poses = some.poses()
    assert (poses.std(1).amax(1) > 0.04).all()
    assert (poses[1:] - poses[:1]).abs().amax((1, 2)).min() > 0.05  # no two clips move alike


def test_tracker_finds_the_truth(clips, pixels):
    assert torch.equal(background_of(pixels), clips.background)
    assert torch.equal(colour_of(pixels, clips.background), clips.colour)
    found, truth = track(pixels, clips.background), clips.track()
    assert (found - truth)[..., :2].abs().mean() < 0.3  # pixels
    correlation = trajectory_correlation(found, truth)
    assert correlation.nanmean() > 0.97
    angle_only = torch.tensor([NAMES.index(name) for name in ("spin", "rock", "sway")])
    assert torch.equal(correlation.isnan(), torch.isin(clips.action, angle_only))


def test_correlation_tells_other_motions_apart(clips, pixels):
    found = track(pixels, clips.background)
    generator = torch.Generator().manual_seed(0)
    orders = [torch.randperm(FRAMES, generator=generator) for _ in range(40)]
    chance = [trajectory_correlation(found[:, order], clips.track()).nanmean() for order in orders]
    # a path against itself in random order correlates by -1 / (frames - 1) on average
    assert abs(torch.stack(chance).mean() + 1 / (FRAMES - 1)) < 0.1
    assert trajectory_correlation(found[:, :1].expand_as(found), clips.track()).nan_to_num().abs().max() < 1e-3


def test_captions_do_not_tell_the_drawn_numbers(clips):
    other = replace(clips, draws=1 - clips.draws)
    assert other.captions() == clips.captions()
    assert not torch.allclose(other.poses(), clips.poses())


def test_recast_keeps_the_motion_and_nothing_else(clips):
    other = with_other_subject(clips, 4)
    assert torch.equal(other.poses(), clips.poses())
    for field in ("subject", "colour", "background"):
        assert (getattr(other, field) != getattr(clips, field)).all()


def test_seen_and_unseen_are_disjoint_down_to_their_words():
    assert len(SEEN) == 16 and len(UNSEEN) == 8 and len(ACTIONS) == 24
    seen_words = {word for phrase, _ in SEEN.values() for word in phrase.split()}
    unseen_words = {word for phrase, _ in UNSEEN.values() for word in phrase.split()}
    assert not seen_words & unseen_words
    assert not unseen_words & set(TOKENS)
    assert {name for half in pair(1, 512) for name in half.action.unique().tolist()} == set(range(16))


def test_unseen_words_are_the_unknown_token_and_seen_ones_are_not():
    seen, unseen = (ids(draw_clips(64, 2, tuple(actions)).captions()) for actions in (SEEN, UNSEEN))
    assert not (seen == UNKNOWN).any()
    assert (unseen == UNKNOWN).any(1).all()
    assert seen.shape == (64, 77)


def test_dropping_withholds_only_what_it_says():
    clips = draw_clips(400, 2, tuple(SEEN))
    whole, generator = ids(clips.captions()), torch.Generator().manual_seed(0)
    assert torch.equal(dropped(clips, generator, empty=0, action=0, words=0), whole)
    action = dropped(clips, generator, empty=0, action=1, words=0)
    assert (action == UNKNOWN).any(1).all()
    assert torch.equal(action[:, :5], whole[:, :5])  # start, a, size, colour, subject
    assert torch.equal(dropped(clips, generator, empty=1, action=0, words=0), ids([""]).expand(400, -1))


def test_what_a_caption_still_tells():
    clips = draw_clips(50, 2, tuple(SEEN))
    whole, generator = ids(clips.captions()), torch.Generator().manual_seed(0)

    def told(**share):
        kinds = told_kinds(whole, dropped(clips, generator, **{"empty": 0, "action": 0, "words": 0} | share))
        return {kind for kind, rows in kinds.items() if rows.all()}, {
            kind for kind, rows in kinds.items() if rows.any()
        }

    everything = {"action", "subject", "colour", "size", "background"}
    assert told() == (everything, everything)
    assert told(action=1) == (everything - {"action"}, everything - {"action"})
    assert told(empty=1) == (set(), set())
    assert told(words=1) == (set(), everything)


def test_expanded_table_gives_every_other_word_the_unknown_row():
    table = torch.randn(UNKNOWN + 1, 4)
    full = expand(table)
    assert full.shape == (49408, 4)
    assert torch.equal(full[KNOWN[3]], table[3])
    assert torch.equal(full[1000], table[UNKNOWN]) and 1000 not in KNOWN


def test_references_of_the_arms():
    clips = balanced(tuple(UNSEEN), 16, seed=1)
    generator = torch.Generator().manual_seed(0)
    right, frames = references("echoreel", clips, generator)
    assert torch.equal(right.poses(), clips.poses())
    wrong, _ = references("wrong", clips, generator)
    assert (wrong.action != clips.action).all() and torch.isin(wrong.action, clips.action).all()
    _, still = references("still", clips, generator)
    assert torch.equal(still[:, 0], still[:, -1])
    _, shuffled = references("shuffled", clips, generator)
    assert torch.allclose(shuffled.sum(1), frames.sum(1), atol=1e-4)
    assert not torch.equal(shuffled, frames)


def test_interval_holds_the_mean_and_leaves_nan_out():
    mean, low, high = interval(torch.tensor([0.0, 1.0, 1.0, 1.0, float("nan")]))
    assert mean == 0.75 and low < 0.75 < high


def test_autoencoder_sizes_are_read_off_its_tensors():
    config = AutoencoderConfig(channels=32, multipliers=(1, 2, 2), blocks=2, latent_channels=6)
    model = Autoencoder(config)
    loaded = load_autoencoder(model.state_dict())
    assert loaded.config == config and config.factor == 4
    picture = torch.rand(1, 3, 16, 24) * 2 - 1
    latents = loaded.encode(picture)
    assert latents.shape == (1, 6, 4, 6)
    assert loaded.decode(latents).shape == picture.shape
    with pytest.raises(ValueError, match="18 × 16"):
        loaded.encode(torch.zeros(1, 3, 16, 18))


def test_standardised_latents_decode_as_before():
    torch.manual_seed(0)
    model, picture = Autoencoder(CONFIG), torch.rand(8, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        before = model.decode(model.encode(picture))
        standardise(model, picture, 5.0)
        latents = model.encode(picture)
        assert torch.allclose(model.decode(latents), before, atol=1e-4)
    assert torch.allclose(latents.mean((0, 2, 3)), torch.zeros(4), atol=1e-3)
    assert torch.allclose(latents.std((0, 2, 3)), torch.full((4,), 5.0), rtol=1e-3)


def test_exported_file_is_a_released_checkpoint_that_gives_the_same_noise(tmp_path):
    torch.manual_seed(0)
    base = BaseModel().eval()
    adapter = new_adapter(base)
    for layer in adapter.attentions:
        torch.nn.init.normal_(layer.to_out.weight, std=0.1)
    for module in (base, adapter):  # rounded, so that the file's half precision costs nothing
        module.load_state_dict({key: value.half().float() for key, value in module.state_dict().items()})
    torch.save({"average": base.state_dict()}, tmp_path / "base.pt")
    adapter.save(tmp_path / "adapter.safetensors")
    save_file(Autoencoder(CONFIG).state_dict(), tmp_path / "autoencoder.safetensors")
    path = tmp_path / "model.safetensors"
    export(path, tmp_path / "base.pt", tmp_path / "adapter.safetensors", tmp_path / "autoencoder.safetensors")
    assert path.stat().st_size < 20e6
    loaded, _ = load_embedded(path)
    x, reference = torch.randn(2, 2, 4, 16, 8, 8)
    words = ids(["a small red knight bouncing on a navy background", ""])
    timesteps = torch.tensor([900, 50])
    with torch.no_grad():
        expected, found = (
            model.with_tokens(x, timesteps, text := model.base.text(words), model.tokens(reference, text, text))
            for model in (AdaptedModel(base, adapter), loaded)
        )
    assert torch.allclose(found, expected, atol=1e-5)


def test_base_training_resumes_exactly(tmp_path):
    """Four steps are two, and two more from the file, bit for bit."""
    pairs = tmp_path / "pairs"
    pairs.mkdir()
    latents = torch.randn(2, CHUNK, 4, 16, 8, 8, generator=torch.Generator().manual_seed(0)).half()
    save_file({"latents": latents}, pairs / "pairs-00001.safetensors")
    torch.save(CLIPTextEncoder(TEXT).state_dict(), tmp_path / "text.pt")
    weights = []
    for name, stops in (("whole", (4,)), ("halves", (2, 4))):
        folder = tmp_path / name
        folder.mkdir()
        for stop in stops:
            train_base.train(folder, tmp_path / "text.pt", pairs, 40, batch=2, fast=False, until=stop)
        weights.append(torch.load(folder / "base.pt", weights_only=True))
    whole, halves = weights
    assert whole["step"] == halves["step"] == 4
    for part in ("model", "average"):
        assert all(torch.equal(value, halves[part][key]) for key, value in whole[part].items())


def test_figures_that_turn_are_drawn_as_much_more_often_as_asked(tmp_path):
    save_file({"latents": torch.zeros(2, CHUNK, 1, 1, 1, 1).half()}, tmp_path / "pairs-00001.safetensors")
    pairs, generator, share = Pairs(tmp_path), torch.Generator().manual_seed(0), {}
    for turning in (1.0, 3.0):
        drawn = [pairs.batch(16, generator, turning)[0][0].poses()[..., 4] for _ in range(200)]
        turns = (torch.cat(drawn) != 0).any(1).float().mean().item()
        share[turning] = turns / (1 - turns)
    assert 2.5 < share[3.0] / share[1.0] < 3.5


def test_adapter_recipe_runs_the_trainer_and_goes_on_exactly(tmp_path):
    """Two steps and two more are four; the last checkpoint is an adapter that export takes."""
    pairs = tmp_path / "pairs"
    pairs.mkdir()
    latents = torch.randn(2, CHUNK, 4, 16, 8, 8, generator=torch.Generator().manual_seed(0)).half()
    save_file({"latents": latents}, pairs / "pairs-00001.safetensors")
    torch.save({"average": BaseModel().state_dict()}, tmp_path / "base.pt")
    settings = replace(train_adapter.SETTINGS, steps=4, batch_size=2, prism_start_steps=2, compile="no")
    made = []
    for name, stops in (("whole", (None,)), ("halves", (2, None))):
        for stop in stops:
            train_adapter.train(tmp_path / name, tmp_path / "base.pt", pairs, settings, until=stop)
        made.append(read_adapter(tmp_path / name / "adapter.safetensors")[1])
    assert all(torch.equal(value, made[1][key]) for key, value in made[0].items())


def test_pairs_are_of_one_motion_and_every_half_is_target_once(tmp_path):
    seeds = torch.arange(2 * CHUNK).view(2, CHUNK, 1, 1, 1, 1).half()
    save_file({"latents": seeds}, tmp_path / "pairs-00001.safetensors")
    source = train_adapter.EmbeddedPairs(Pairs(tmp_path), lambda lines: lines.float(), turning=3)
    turning = Pairs(tmp_path).chunks[0][1].sum()
    assert len(source) == 2 * (CHUNK + 2 * turning)
    batch = source.batch([10, 11, 12], [0, 0, 0])
    assert torch.equal(batch.target[0], batch.reference[1]) and torch.equal(batch.target[1], batch.reference[0])
    assert ((batch.target - batch.reference).abs() == CHUNK).all()
    assert torch.equal(batch.prompt[0], batch.caption[1])
    number = int(batch.reference[0].flatten()[0])  # the latents are the clips' own numbers here
    clips = torch.cat([half.keypoints() for half in Pairs(tmp_path).chunks[0][0]])
    assert torch.equal(batch.keypoints[0, :, :4], clips[number])

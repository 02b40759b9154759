"""From settings and files to batches: TOML, pairs, check, cache."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from released_weights import FIXTURES
from training_toys import CLIP_SIDE, FRAMES, write_actions, write_config
from video_clips import write_clip

from echoreel_core.lvdm.checkpoint import split_released
from echoreel_core.training import config as config_module
from echoreel_core.training.config import DataSettings, VideoSettings, read_config
from echoreel_core.training.data.batches import Batch, micro_batches
from echoreel_core.training.data.cache import build_cache
from echoreel_core.training.data.cache_folder import CacheFolder, request
from echoreel_core.training.data.cached_pairs import CachedPairs
from echoreel_core.training.data.check import check_file, check_files, framings, summary
from echoreel_core.training.data.digests import Digests
from echoreel_core.training.data.pairs import read_pairs
from echoreel_core.training.default_sizes import AdapterInputs, general_form, parameter_count, released_form
from echoreel_core.training.loss import draw
from echoreel_core.video.frames import read_video

VIDEO = VideoSettings(frames=FRAMES, every_nth=3, width=CLIP_SIDE, height=CLIP_SIDE)
EXAMPLE = Path(config_module.__file__).with_name("example.toml")


class CountingEncoders:
    """Latents are the frames' mean colour per quarter; text is its characters. Counts what it is asked for."""

    identity = "counting"

    def __init__(self) -> None:
        self.videos, self.texts = 0, []

    def encode_video(self, frames: torch.Tensor) -> torch.Tensor:
        self.videos += 1
        assert frames.shape == (FRAMES, CLIP_SIDE, CLIP_SIDE, 3)
        return torch.nn.functional.avg_pool2d(frames.movedim(-1, 0), 8)

    def encode_text(self, texts: list[str]) -> torch.Tensor:
        self.texts += texts
        return torch.tensor([[float(ord(letter))] for letter in texts[0] + "."])[None]

    def image_conditioning(self, frames: torch.Tensor, fps: float) -> dict:
        return {}


# ── settings


def test_the_example_holds_every_setting_and_its_default(tmp_path):
    required = "checkpoint", "pairs", "cache", "folder"
    text = EXAMPLE.read_text(encoding="utf-8").replace("# [reference]\n# width", "[reference]\nwidth")
    path = tmp_path / "example.toml"
    path.write_text(text, encoding="utf-8")
    config = read_config(path)
    minimal = tmp_path / "minimal.toml"
    lines = [line for line in text.splitlines() if line.startswith("[") or line.split(" ")[0] in required]
    minimal.write_text("\n".join(lines), encoding="utf-8")
    assert config == read_config(minimal)
    for section in ("model", "data", "video", "buckets", "adapter", "training", "output"):
        for name in vars(getattr(config, section)):
            assert f"\n{name} = " in text or f"\n# {name} = " in text, f"[{section}] {name} is not explained"


def test_what_a_model_that_comfyui_loads_needs(tmp_path):
    def error(**model) -> str:
        lines = [f"{name} = {value!r}" for name, value in model.items()]
        path = tmp_path / "run.toml"
        rest = ["[data]", "pairs = 'a'", "cache = 'b'", "[output]", "folder = 'c'"]
        path.write_text("\n".join(["[model]", *lines, *rest]), encoding="utf-8")
        try:
            read_config(path)
        except ValueError as error:
            return str(error)
        return ""

    assert "checkpoint is missing" in error()
    assert "set comfyui, its folder" in error(diffusion_model="wan.safetensors")
    assert "either diffusion_model or checkpoint" in error(comfyui="c")
    assert "either diffusion_model or checkpoint" in error(comfyui="c", checkpoint="a", diffusion_model="b")
    assert "vae is missing" in error(comfyui="c", diffusion_model="b", text_encoders=["t"])
    assert "text_encoders is missing" in error(comfyui="c", diffusion_model="b", vae="v")
    whole = {"comfyui": "c", "diffusion_model": "b", "vae": "v", "text_encoders": ["t"]}
    assert error(**whole) == error(**whole, low_noise_model="l", boundary=0.9) == ""
    assert "boundary goes with a low_noise_model" in error(**whole, boundary=0.9)
    assert "low_noise_model goes with a diffusion_model" in error(comfyui="c", checkpoint="b", low_noise_model="l")
    assert error(comfyui="c", checkpoint="b") == ""


@pytest.mark.skipif(os.name == "nt", reason="there they are everyday")
def test_paths_of_windows_are_read_elsewhere(tmp_path):
    path = write_config(tmp_path, model={"checkpoint": r"models\toy.safetensors"})
    assert read_config(path).model.checkpoint.path == tmp_path / "models" / "toy.safetensors"
    pairs = tmp_path / "pairs.json"
    entry = {"input_text": "", "gt_video_path": r"a\b.mp4", "reference_text": "", "reference_video_path": r"c\d.mp4"}
    pairs.write_text(json.dumps([entry]))
    (pair,) = read_pairs(DataSettings(pairs, tmp_path))
    assert (pair.target.path, pair.references[0].path) == (tmp_path / "a" / "b.mp4", tmp_path / "c" / "d.mp4")


def test_paths_are_relative_to_the_file_and_reference_takes_over_video(tmp_path):
    path = write_config(tmp_path, reference={"width": 32}, training={"weighting": "clean", "clip_gradient": 2})
    config = read_config(path)
    assert config.model.checkpoint.path == tmp_path / "toy.safetensors"
    assert config.video == VIDEO and config.reference == replace(VIDEO, width=32)
    assert config.training.weighting == "clean" and config.training.clip_gradient == 2.0


@pytest.mark.parametrize(
    ("section", "name", "value", "message"),
    [
        (
            "training",
            "batchsize",
            2,
            r"config.toml, \[training\]: there is no setting batchsize; did you mean batch_size",
        ),
        ("trainin", "steps", 2, r"there is no section \[trainin\]; did you mean \[training\]"),
        ("training", "batch_size", 2.5, r"batch_size is 2.5: use a whole number."),
        ("training", "batch_size", True, r"batch_size is True: use a whole number."),
        ("training", "batch_size", 0, r"batch_size is 0: use 1 or more."),
        ("training", "text_dropout", 1.0, r"text_dropout is 1.0: use 0 or more, and less than 1."),
        ("training", "weighting", "snr", r"weighting is 'snr': use one of 'none', 'clean', 'velocity', 'min-snr'."),
        ("video", "fps", 0, r"\[video\]: The frame rate is 0.0 fps"),
        ("data", "held_out_actions", "Swing", r"held_out_actions is 'Swing': use a list"),
        ("model", "checkpoint", 1, r"checkpoint is 1: use a path in quotes."),
        ("training", "steps", 10**400, r"steps is a number of 401 digits: use one of at most 18."),
        ("training", "learning_rate", 10**400, r"learning_rate is a number of 401 digits"),
        ("training", "steps", [[]], r"steps is \[\[\]\]: use a whole number."),
        ("video", "width", 5000, r"width is 5000: use 1 or more, and less than 4097."),
    ],
)
def test_wrong_settings(tmp_path, section, name, value, message):
    with pytest.raises(ValueError, match=message):
        read_config(write_config(tmp_path, **{section: {name: value}}))


def test_a_file_nested_too_deeply(tmp_path):
    path = tmp_path / "config.toml"
    path.write_text(f"steps = {'[' * 5000}{']' * 5000}", encoding="utf-8")
    with pytest.raises(ValueError, match="config.toml is (nested too deeply|not valid TOML)"):
        read_config(path)


def test_missing_settings(tmp_path):
    path = tmp_path / "config.toml"
    with pytest.raises(ValueError, match=r"config.toml cannot be read: No such file"):
        read_config(path)
    path.write_text("[data]\npairs = 'x'\ncache = 'y'\n")
    with pytest.raises(ValueError, match=r"config.toml, \[model\]: checkpoint is missing."):
        read_config(path)
    path.write_text("a b")
    with pytest.raises(ValueError, match="config.toml is not valid TOML"):
        read_config(path)
    path.write_text("model = 3")
    with pytest.raises(ValueError, match=r"\[model\] is 3: it must be a section."):
        read_config(path)


def test_settings_as_windows_writes_them(tmp_path):
    """With a byte-order mark; and a path in double quotes is told how to write it."""
    path = write_config(tmp_path)
    text = path.read_text()
    path.write_text("\ufeff" + text, encoding="utf-8")
    assert read_config(path).video == VIDEO
    for folder in (r"C:\clips", r"C:\temp", r"C:\Users"):
        path.write_text(text.replace('"actions"', f'"{folder}"'))
        with pytest.raises(ValueError, match=r"paths of Windows in single quotes, 'C:\\clips'"):
            read_config(path)


# ── pairs


@pytest.mark.parametrize("last", [("reference_text", "reference_video_path"), ("inject_text", "inject_video_path")])
@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
def test_both_spellings_as_json_and_lines(tmp_path, last, suffix):
    keys = ("input_text", "gt_video_path", *last)
    entries = [dict(zip(keys, (f"a {n}", f"{n}.mp4", f"b {n}", f"sub/{n}.mp4"), strict=True)) for n in range(3)]
    path = tmp_path / f"pairs{suffix}"
    path.write_text(json.dumps(entries) if suffix == ".json" else "\n".join(map(json.dumps, entries)) + "\n\n")
    pairs = read_pairs(DataSettings(path, tmp_path))
    assert [(p.target.path, p.target.caption) for p in pairs] == [(tmp_path / f"{n}.mp4", f"a {n}") for n in range(3)]
    assert [(c.path, c.caption) for p in pairs for c in p.references] == [
        (tmp_path / "sub" / f"{n}.mp4", f"b {n}") for n in range(3)
    ]
    elsewhere = read_pairs(DataSettings(path, tmp_path, root=tmp_path / "videos"))
    assert elsewhere[0].target.path == tmp_path / "videos" / "0.mp4"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[{"input_text": "a", "gt_video_path": "b"}]', "entry 1 lacks reference_text, reference_video_path"),
        (
            '[{"input_text": "a", "gt_video_path": 1, "inject_text": "c", "inject_video_path": "d"}]',
            "gt_video_path is 1",
        ),
        ("[3]", "entry 1 is not an object"),
        ('{"a": 1}', "has no list of pairs in it"),
        ("[", "is not valid JSON"),
        ("[]", "has no pairs in it"),
    ],
)
def test_wrong_lists(tmp_path, text, message):
    path = tmp_path / "pairs.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_pairs(DataSettings(path, tmp_path))


def names_of(clips) -> list[str]:
    return [clip.path.stem for clip in clips]


def test_folder_of_actions(tmp_path):
    for name in ("v_TaiChi_g01_c01.avi", "v_TaiChi_g01_c02.avi", "v_TaiChi_g02_c01.avi", "notes.md"):
        (tmp_path / "TaiChi").mkdir(exist_ok=True)
        (tmp_path / "TaiChi" / name).touch()
    (tmp_path / "Alone").mkdir()
    (tmp_path / "Alone" / "one.mp4").touch()
    (tmp_path / "Wave").mkdir()
    for name in ("a.MP4", "b.webm"):
        (tmp_path / "Wave" / name).touch()
    (tmp_path / "Wave" / "a.txt").write_text("a robot waves\n")
    pairs = {pair.target.path.stem: pair for pair in read_pairs(DataSettings(tmp_path, tmp_path))}
    assert sorted(pairs) == ["a", "b", "v_TaiChi_g01_c01", "v_TaiChi_g01_c02", "v_TaiChi_g02_c01"]
    assert names_of(pairs["v_TaiChi_g01_c01"].references) == ["v_TaiChi_g02_c01"]  # never of its own recording
    assert names_of(pairs["v_TaiChi_g02_c01"].references) == ["v_TaiChi_g01_c01", "v_TaiChi_g01_c02"]
    assert pairs["a"].target.caption == "a robot waves" and pairs["b"].target.caption == "wave"
    assert pairs["b"].references[0].caption == "a robot waves"
    (tmp_path / "TaiChi" / "v_TaiChi_g02_c01.avi").unlink()
    pairs = {pair.target.path.stem: pair for pair in read_pairs(DataSettings(tmp_path, tmp_path))}
    assert names_of(pairs["v_TaiChi_g01_c01"].references) == ["v_TaiChi_g01_c02"]  # there is no other


def test_held_out_pairs(tmp_path):
    for action in ("Jump", "Swing"):
        (tmp_path / action).mkdir()
        for number in range(50):
            (tmp_path / action / f"{number}.mp4").touch()
    by_action = read_pairs(DataSettings(tmp_path, tmp_path, held_out_actions=("Swing",)))
    assert {pair.target.caption for pair in by_action if pair.held_out} == {"swing"}
    assert {pair.target.caption for pair in by_action if not pair.held_out} == {"jump"}
    chosen = {p.target.path for p in read_pairs(DataSettings(tmp_path, tmp_path, held_out=0.2)) if p.held_out}
    assert 10 <= len(chosen) <= 30
    (tmp_path / "Jump" / "more.mp4").touch()
    again = {p.target.path for p in read_pairs(DataSettings(tmp_path, tmp_path, held_out=0.2)) if p.held_out}
    assert again - {tmp_path / "Jump" / "more.mp4"} == chosen
    with pytest.raises(ValueError, match="names Swng, but .* did you mean Swing"):
        read_pairs(DataSettings(tmp_path, tmp_path, held_out_actions=("Swng",)))


def test_what_is_held_out_is_trained_on_in_no_role(tmp_path):
    for number in range(40):
        path = tmp_path / "videos" / "Jump" / f"{number}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    keys = ("input_text", "gt_video_path", "reference_text", "reference_video_path")
    entries = [dict(zip(keys, ("a", f"{n}.mp4", "b", f"{(n + 1) % 40}.mp4"), strict=True)) for n in range(40)]
    (tmp_path / "pairs.json").write_text(json.dumps(entries))
    for source in (tmp_path / "videos", tmp_path / "pairs.json"):
        pairs = read_pairs(DataSettings(source, tmp_path, held_out=0.3))
        measured = {pair.target.path for pair in pairs if pair.held_out}
        trained = {clip.path for pair in pairs if not pair.held_out for clip in (pair.target, *pair.references)}
        assert measured and trained and not measured & trained
    with pytest.raises(ValueError, match="no pair left to train on"):
        read_pairs(DataSettings(tmp_path / "videos", tmp_path, held_out_actions=("Jump",)))


def test_what_editors_and_archivers_leave_is_not_trained_on(tmp_path):
    names = ("a.mp4", "b.mp4", "._a.mp4", ".ipynb_checkpoints/a-checkpoint.mp4", "__MACOSX/a.mp4")
    for action in ("Jump", "__MACOSX", ".hidden"):
        for name in names:
            path = tmp_path / action / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    pairs = read_pairs(DataSettings(tmp_path, tmp_path))
    assert [pair.target.path for pair in pairs] == [tmp_path / "Jump" / "a.mp4", tmp_path / "Jump" / "b.mp4"]
    assert names_of(pairs[0].references) == ["b"]


def test_lines_end_at_line_feeds_alone(tmp_path):
    entry = {"input_text": "a\u2028b\u0085c", "gt_video_path": "1.mp4", "inject_text": "", "inject_video_path": "2.mp4"}
    path = tmp_path / "pairs.jsonl"
    path.write_bytes(b"\r\n".join([json.dumps(entry, ensure_ascii=False).encode()] * 2))
    pairs = read_pairs(DataSettings(path, tmp_path))
    assert [pair.target.caption for pair in pairs] == ["a\u2028b\u0085c"] * 2


@pytest.mark.parametrize("outside", ["../secret.mp4", "/etc/secret.mp4", "sub/../../secret.mp4"])
def test_a_list_names_clips_of_the_permitted_folder_only(tmp_path, outside):
    entry = {"input_text": "a", "gt_video_path": "1.mp4", "inject_text": "b", "inject_video_path": outside}
    path = tmp_path / "input" / "pairs.json"
    path.parent.mkdir()
    path.write_text(json.dumps([entry]))
    assert len(read_pairs(DataSettings(path, tmp_path))) == 1  # on the command line it is the user's own
    with pytest.raises(ValueError, match=r"pairs.json, entry 1: .*secret.mp4 lies outside .*: move or link"):
        read_pairs(DataSettings(path, tmp_path), within=tmp_path / "input")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_captions_are_read_in_the_encoding_they_are_in(tmp_path, encoding):
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / "Jump").mkdir(exist_ok=True)
        (tmp_path / "Jump" / name).touch()
    (tmp_path / "Jump" / "a.txt").write_text("ein Hund hüpft", encoding=encoding)
    pairs = read_pairs(DataSettings(tmp_path, tmp_path))
    assert pairs[0].target.caption == "ein Hund hüpft"
    (tmp_path / "Jump" / "a.txt").write_text("ein Hund hüpft", encoding="latin-1")
    with pytest.raises(ValueError, match="a.txt is not UTF-8 text: save it as UTF-8"):
        read_pairs(DataSettings(tmp_path, tmp_path))


# ── check


def test_check_reports_every_file_and_survives_bad_ones(tmp_path):
    write_actions(tmp_path / "actions", ("Swing",), clips=2)
    (tmp_path / "actions" / "Swing" / "torn.mp4").write_bytes(b"\0" * 200)
    (tmp_path / "actions" / "Swing" / "empty.mp4").touch()
    write_clip(tmp_path / "actions" / "Swing" / "brief.mp4", 5, size=(32, 32))
    pairs = read_pairs(DataSettings(tmp_path / "actions", tmp_path))
    reports = list(check_files(framings(pairs, VIDEO, None)))
    lines = {report.path.name: report.line for report in reports}
    assert len(reports) == len(lines) == 5
    assert lines["v_Swing_g01_c01.avi"] == (
        "ok     v_Swing_g01_c01.avi: 25 fps, 13 frames, 0.52 s; takes 4 from 0.00 to 0.36 s, as 16 x 16"
    )
    assert lines["brief.mp4"].startswith(
        "short  brief.mp4: 25 fps, 5 frames, 0.20 s; takes 2 from 0.00 to 0.12 s, as 16 x 16, "
    )
    assert lines["brief.mp4"].endswith("2 of 4 are repeats")
    assert lines["torn.mp4"].startswith("bad    torn.mp4: ") and "can" in lines["torn.mp4"]
    assert lines["empty.mp4"].startswith("bad    empty.mp4: ")
    assert summary(reports, pairs, Digests()) == [
        "5 files: 2 ok, 1 too short (frames repeated), 2 bad (left out).",
        "3 of 5 pairs can be used, 0 of them held out for measuring.",
    ]


@pytest.mark.parametrize("mode", ["every_nth", "even", "fps"])
def test_a_clip_of_fewer_frames_than_are_taken_is_short(tmp_path, mode):
    write_clip(tmp_path / "two.mp4", 2, size=(32, 32))
    report = check_file(tmp_path / "two.mp4", replace(VIDEO, frames=16, sampling=mode))
    assert report.verdict == "short"


# ── cache


@pytest.fixture
def actions(tmp_path):
    return read_pairs(DataSettings(write_actions(tmp_path / "actions"), tmp_path))


def test_cache_holds_what_the_encoders_make_of_the_frames(tmp_path, actions):
    encoders = CountingEncoders()
    result = build_cache(tmp_path / "cache", actions, encoders, VIDEO)
    assert (result.made, result.found, result.pairs, result.bad) == (4 + 3, 0, 4, [])
    assert sorted(encoders.texts) == ["", "jump rope", "swing"]
    pairs = CachedPairs(tmp_path / "cache")
    batch = pairs.batch([0, 2], [5, 6])
    clips = [read_video(actions[i].target.path, VIDEO.choice(), width=CLIP_SIDE, height=CLIP_SIDE) for i in (0, 2)]
    assert torch.equal(batch.target, torch.stack([CountingEncoders().encode_video(clip.frames) for clip in clips]))
    assert torch.equal(batch.reference[0], pairs.batch([1], [0]).target[0])
    assert "".join(map(chr, batch.prompt[0]["cross_attn"].flatten().int())) == "jump rope."
    assert "".join(map(chr, batch.caption[1].flatten().int())) == "swing."
    assert pairs.empty_text["cross_attn"].tolist() == [[ord(".")]]
    assert pairs.fps == pytest.approx(25 / 3)


def test_cache_keeps_all_that_the_model_is_told(tmp_path, actions):
    class Telling(CountingEncoders):
        def encode_text(self, texts):
            tokens = super().encode_text(texts)[0]
            return [{"cross_attn": tokens, "pooled_output": tokens.mean(0), "layers": [tokens[:1], None], "words": 3}]

        def image_conditioning(self, frames, fps):
            return {"start": frames[:1], "frame_rate": fps, "known": {"mask": torch.ones(2, dtype=torch.int64)}}

    build_cache(tmp_path / "cache", actions, Telling(), VIDEO)
    batch = CachedPairs(tmp_path / "cache").batch([0, 2], [0, 0])
    told, tokens = batch.prompt[1], Telling().encode_text(["swing"])[0]["cross_attn"]
    assert torch.equal(told["pooled_output"], tokens.mean(0)) and torch.equal(told["layers"][0], tokens[:1])
    assert told["layers"][1] is None and told["words"] == 3
    clip = read_video(actions[2].target.path, VIDEO.choice(), width=CLIP_SIDE, height=CLIP_SIDE)
    assert torch.equal(batch.image_conditioning[1]["start"], clip.frames[:1])
    assert batch.image_conditioning[1]["frame_rate"] == clip.fps
    assert batch.image_conditioning[1]["known"]["mask"].tolist() == [1, 1]


def test_a_conditioning_that_no_file_can_hold_is_named(tmp_path, actions):
    class Strange(CountingEncoders):
        def image_conditioning(self, frames, fps):
            return {"models": [object()]}

    with pytest.raises(ValueError, match=r"holds told\.models\.0, a object, which the cache cannot store"):
        build_cache(tmp_path / "cache", actions, Strange(), VIDEO)


def test_samples_go_through_the_model_together_where_what_they_are_told_is_alike():
    """Nothing is padded; dropped prompts and captions become the empty one, and a pass takes no more than it may."""
    tokens = [torch.full((length, 2), float(length)) for length in (3, 5, 3, 3, 3, 3)]
    prompt = [{"cross_attn": t, "mask": torch.ones(1, len(t), dtype=torch.int64)} for t in tokens]
    prompt[3]["mask"] = torch.tensor([[1, 1, 0]])
    latents = torch.arange(6.0).view(6, 1, 1, 1, 1) + 1
    batch = Batch(latents, latents, prompt, tokens, [{"rate": 8.0}] * 5 + [{"rate": 9.0}])
    nothing = torch.zeros(6, dtype=torch.bool)
    draws = replace(draw(0, range(6), (1, 1, 1, 1)), drop_text=nothing, drop_reference=nothing)
    empty = {"cross_attn": torch.zeros(1, 2), "mask": torch.ones(1, 1, dtype=torch.int64)}

    def rows(draws=draws, **options):
        made = list(micro_batches(batch, draws, empty, "cpu", **options))
        for each in made:
            assert each.prompt.shape[0] == len(each.conditionings) == len(each.draws.u) == len(each.target)
        return [(each.target.flatten() - 1).int().tolist() for each in made]

    assert rows() == [[0, 2, 4], [1], [3], [5]]
    assert rows(limit=2) == [[0, 2], [4], [1], [3], [5]]
    dropped = replace(draws, drop_text=torch.arange(6) == 2, drop_reference=torch.arange(6) == 4)
    assert rows(dropped) == [[0], [1], [2], [3], [4], [5]]
    third, fifth = (list(micro_batches(batch, dropped, empty, "cpu"))[i] for i in (2, 4))
    assert third.prompt.shape == (1, 1, 2) and third.conditionings[0]["rate"] == 8.0 and third.reference.item() == 3
    assert fifth.caption.shape == (1, 1, 2) and fifth.reference.item() == 0 and fifth.prompt.shape == (1, 3, 2)


def test_cache_goes_on_where_it_was_interrupted(tmp_path, actions):
    class Breaking(CountingEncoders):
        def encode_video(self, frames):
            if self.videos == 2:
                raise KeyboardInterrupt
            return super().encode_video(frames)

    with pytest.raises(KeyboardInterrupt):
        build_cache(tmp_path / "cache", actions, Breaking(), VIDEO)
    with pytest.raises(ValueError, match="no finished cache .* run `cache` first"):
        CachedPairs(tmp_path / "cache")
    encoders = CountingEncoders()
    result = build_cache(tmp_path / "cache", actions, encoders, VIDEO)
    assert encoders.videos == 2 and (result.made, result.found) == (2 + 3, 2)
    assert not list((tmp_path / "cache").rglob("*.part"))
    assert build_cache(tmp_path / "cache", actions, CountingEncoders(), VIDEO).made == 0


def test_cache_is_keyed_by_content_settings_and_encoders(tmp_path, actions):
    def made(pairs=actions, encoders=None, **changed) -> int:
        encoders = encoders or CountingEncoders()
        build_cache(tmp_path / "cache", pairs, encoders, replace(VIDEO, **changed))
        return encoders.videos

    assert made() == 4 and made() == 0
    assert made(every_nth=2) == 4
    other = CountingEncoders()
    other.identity = "other"
    assert made(encoders=other) == 4
    shutil.copyfile(actions[0].target.path, actions[3].target.path)  # new content, seen before
    assert made() == 0
    write_clip(actions[3].target.path, 20, codec="mpeg4", size=(32, 32))
    assert made() == 1
    moved = [replace(p, target=replace(p.target, caption="new words")) for p in actions]
    assert made(pairs=moved) == 0


def write_poses(clip, x: float) -> None:
    poses = [{"people": [{"pose_keypoints_2d": [x, 0.5, 1.0]}]}]
    clip.with_suffix(".pose.json").write_text(json.dumps(poses))


def test_cache_keeps_the_keypoints_beside_clips(tmp_path, actions):
    write_poses(actions[0].target.path, 0.25)
    encoders = CountingEncoders()
    build_cache(tmp_path / "cache", actions, encoders, VIDEO)
    keypoints = CachedPairs(tmp_path / "cache").batch([1, 2], [0, 0]).keypoints  # the second has a clip without
    assert keypoints[0, :, 0].tolist() == [[-0.5, 0.0]] * FRAMES
    assert keypoints[0, :, 1:].isnan().all() and keypoints[1].isnan().all()
    assert CachedPairs(tmp_path / "cache").batch([2], [0]).keypoints is None

    write_poses(actions[0].target.path, 0.75)
    assert build_cache(tmp_path / "cache", actions, encoders, VIDEO).made == 1
    assert CachedPairs(tmp_path / "cache").batch([1], [0]).keypoints[0, 0, 0].tolist() == [0.5, 0.0]


def test_a_cache_whose_keypoints_came_later_is_not_the_one_that_was_asked_for(tmp_path, actions):
    before = request(actions, VIDEO, None, "encoders")
    write_poses(actions[3].target.path, 0.5)
    assert request(actions, VIDEO, None, "encoders") != before


def test_keypoints_that_cannot_be_read_leave_their_clip_out(tmp_path, actions):
    actions[0].target.path.with_suffix(".pose.json").write_text("{")
    result = build_cache(tmp_path / "cache", actions, CountingEncoders(), VIDEO)
    assert result.pairs == 2 and len(result.bad) == 1
    assert result.bad[0].startswith("v_JumpRope_g01_c01.avi: v_JumpRope_g01_c01.pose.json is not valid JSON")
    assert check_file(actions[0].target.path, VIDEO).verdict == "bad"


def test_check_says_which_clips_have_keypoints(tmp_path, actions):
    write_poses(actions[0].target.path, 0.5)
    lines = [report.line.endswith(", with keypoints") for report in check_files(framings(actions, VIDEO, None))]
    assert lines == [True, False, False, False]


def test_references_may_be_framed_otherwise(tmp_path, actions):
    class AnySize(CountingEncoders):
        def encode_video(self, frames):
            return torch.nn.functional.avg_pool2d(frames.movedim(-1, 0), 8)

    build_cache(tmp_path / "cache", actions, AnySize(), VIDEO, replace(VIDEO, width=32, frames=2))
    batch = CachedPairs(tmp_path / "cache").batch([0], [0])
    assert batch.target.shape == (1, 3, FRAMES, 2, 2) and batch.reference.shape == (1, 3, 2, 2, 4)


def test_cache_leaves_bad_files_out(tmp_path, actions):
    actions[0].target.path.write_bytes(b"nothing")
    actions[2].target.path.unlink()
    lines = []
    with pytest.raises(ValueError, match="No pair is left to train on: v_JumpRope_g01_c01.avi"):
        build_cache(tmp_path / "cache", actions, CountingEncoders(), VIDEO, progress=lambda *x: lines.append(x))
    assert [line for line in lines if line[2].startswith("bad")][1][2].startswith("bad     v_Swing_g01_c01.avi: it can")
    assert lines[-1][:2] == (7, 7)


def test_damaged_cache_files_are_named_and_made_anew(tmp_path, actions):
    folder = tmp_path / "cache"
    build_cache(folder, actions, CountingEncoders(), VIDEO)
    pairs = CachedPairs(folder)
    clip, text = (folder / kind / f"{pairs.clips[0][i]}.safetensors" for i, kind in enumerate(("latents", "text")))
    before = pairs.batch([0], [0])
    assert CacheFolder(folder).is_whole()
    for broken in (clip, text):
        broken.write_bytes(broken.read_bytes()[:50])
        with pytest.raises(ValueError, match=f"{broken.name} .* again to restore it"):
            pairs.batch([0], [0])
        assert not CacheFolder(folder).is_whole()
        result = build_cache(folder, actions, CountingEncoders(), VIDEO)
        assert (result.made, result.found, result.bad) == (1, 6, [])
    assert torch.equal(pairs.batch([0], [0]).target, before.target)


@pytest.mark.parametrize("name", ["manifest.json", "files.json"])
@pytest.mark.parametrize("content", ["[1]", "3", '{"version": 2}', '{"a": 1, "b": [1, 2]}', "{", "[" * 100_000])
def test_what_is_no_list_of_the_cache_is_made_anew(tmp_path, actions, name, content):
    folder = tmp_path / "cache"
    build_cache(folder, actions, CountingEncoders(), VIDEO)
    (folder / name).write_text(content)
    if name == "manifest.json":
        with pytest.raises(ValueError, match="no finished cache"):
            CachedPairs(folder)
    assert build_cache(folder, actions, CountingEncoders(), VIDEO).made == 0
    assert len(CachedPairs(folder)) == 4


def test_the_same_recording_is_no_reference_of_itself(tmp_path, actions):
    shutil.copyfile(actions[0].target.path, actions[1].target.path)
    told = [f"same   {actions[0].target.path.name} and {actions[1].target.path.name} are the same recording"]
    reports = list(check_files(framings(actions, VIDEO, None)))
    lines = summary(reports, actions, Digests())
    assert len(lines) == 3 and lines[0].startswith(told[0])
    assert lines[2] == "2 of 4 pairs can be used, 0 of them held out for measuring."
    result = build_cache(tmp_path / "cache", actions, CountingEncoders(), VIDEO)
    assert result.pairs == len(CachedPairs(tmp_path / "cache")) == 2
    assert len(result.copies) == 1 and result.copies[0].startswith(told[0])
    itself = [replace(pair, references=(pair.target, *pair.references)) for pair in actions]
    assert build_cache(tmp_path / "other", itself, CountingEncoders(), VIDEO).pairs == 2
    assert all(target not in references for target, references in CachedPairs(tmp_path / "other").pairs)


# ── adapter sizes


def test_default_adapters():
    wan = general_form(
        AdapterInputs(
            host="wan",
            sites=[(f"blocks.{index}", 1536) for index in range(30)],
            latent_channels=16,
            latent_size=(32, 32),
            latent_frames=21,
            text_width=4096,
        )
    )
    assert parameter_count(wan) == 248_754_260
    assert wan.position == "relative_bias" and wan.prism.grid == (16, 16) and wan.prism.action_dim == 1024
    shapes = json.loads((FIXTURES / "released_layout.json").read_text())
    released = split_released({key: torch.empty(shape, device="meta") for key, shape in shapes.items()}, "released")
    inputs = AdapterInputs(
        host="lvdm",
        sites=[(site.name, site.dim) for site in released.adapter_config.sites],
        latent_channels=4,
        latent_size=(32, 32),
        latent_frames=16,
        text_width=768,
    )
    config = released_form(inputs, block_heads=8)
    assert config == replace(released.adapter_config, training={})
    assert parameter_count(config) == 611_602_036
    inputs = AdapterInputs(
        host="lvdm", sites=[("a", 64)], latent_channels=4, latent_size=(8, 8), latent_frames=4, text_width=64
    )
    small = released_form(inputs, block_heads=4, width=32, depth=1)
    assert small.position == "relative_vectors" and small.prism.width == 32
    assert (small.sites[0].heads, small.sites[0].head_dim) == (4, 16)

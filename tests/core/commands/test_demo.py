"""The demo command: what it writes, and what it says where it cannot."""

from __future__ import annotations

import argparse

import pytest
import torch
from PIL import Image

from echoreel_core import __main__ as command
from echoreel_core.commands import demo
from echoreel_core.pixel_actions.model.files import example_clips
from echoreel_core.pixel_actions.world.actions import UNSEEN
from echoreel_core.video.frames import FrameSelection, read_video


def arguments(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    demo.add_arguments(parser)
    return parser.parse_args(words)


def columns(folder) -> list[torch.Tensor]:
    """Reference, without and with, as the film shows them."""
    film = read_video(folder / "demo.mp4", FrameSelection(frames=16, mode="even"), width=784, height=282).frames
    return [film[:, 26:, left : left + 256] for left in (0, 264, 528)]


def test_writes_film_and_contact_sheet(tmp_path):
    said = "\n".join(demo.run(arguments("--steps", "2", "--out", str(tmp_path))))
    assert "never taught: tracing, figure, eights" in said
    reference, without, with_echoreel = columns(tmp_path)
    clip = read_video(
        example_clips()["figure eight"], FrameSelection(frames=16, mode="even"), width=256, height=256
    ).frames
    assert (reference - clip).abs().mean() < 0.01
    assert (without - with_echoreel).abs().mean() > 0.005
    with Image.open(tmp_path / "demo.png") as sheet:
        assert sheet.size == (16 * 96 + 15 * 2, 3 * (96 + 26))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["demo.mp4", "demo.png"]


def test_strength_0_changes_nothing(tmp_path):
    list(demo.run(arguments("--steps", "2", "--strength", "0", "--out", str(tmp_path))))
    _, without, with_echoreel = columns(tmp_path)
    assert (without - with_echoreel).abs().mean() < 0.005  # but for the film's compression


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--strength", "-1"], "The strength is -1.0: use 0"),
        (["--reference", "nowhere.mp4"], "nowhere.mp4"),
        (["--steps", "0"], "The number of sampling steps is 0: choose 1 to 1000."),
    ],
)
def test_bad_input_is_one_sentence_and_writes_nothing(words, said, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(demo, "in_own_environment", lambda argv: None)
    out = tmp_path / "out"
    assert command.main(["demo", *words, "--out", str(out)]) == 1
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
    assert not out.exists()


def test_there_is_an_example_clip_of_every_unseen_action_that_tells_its_caption():
    clips = example_clips()
    assert {name.replace(" ", "_") for name in clips} == set(UNSEEN)
    for name, path in clips.items():
        phrase, _ = UNSEEN[name.replace(" ", "_")]
        assert phrase in read_video(path, FrameSelection(frames=2), width=32, height=32).caption

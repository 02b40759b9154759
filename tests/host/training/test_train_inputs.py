"""What Train EchoReel offers beside the defaults: clips of unlike shapes and lengths, and settings that need less."""

from __future__ import annotations

import pytest
import torch
from encoders import Pixels, Words
from tiny_families import build
from training_runs import settings, small_start
from video_clips import write_clip

MORE = {
    "accumulation": 2,
    "mixed_precision": "bf16",
    "optimizer": "muon",
    "offload_activations": True,
    "average": 0.5,
    "mirror": 0.5,
    "prism_start_steps": 1,
    "motion_loss": 0.1,
}


def test_clips_of_unlike_shapes_and_lengths_with_all_that_needs_less_memory(folders, pack):
    from echoreel_pack.echoreel_core.files import read_description
    from echoreel_pack.echoreel_core.training.checkpoints import STATE_FILE, STATE_KIND, STATE_VERSION
    from echoreel_pack.echoreel_core.training.data.cached_pairs import CachedPairs
    from echoreel_pack.nodes.train_echoreel import TrainEchoReel

    clips = folders / "input" / "unlike" / "hop"
    clips.mkdir(parents=True)
    write_clip(clips / "long.mp4", 40, size=(64, 64))
    write_clip(clips / "short and wide.mp4", 12, size=(96, 48))
    tiny = build("wan t2v")
    tiny.model.cached_patcher_init = (lambda disable_dynamic=False: build("wan t2v").model, ())
    with torch.inference_mode():
        TrainEchoReel.execute(
            tiny.model,
            Pixels(16, 8, 4),
            Words(4096, length=5),
            **settings(data="unlike", name="unlike", steps=2, frame_count=5, every_nth=2),
            **MORE,
            echoreel=small_start(folders, tiny, 4096),
            crop="center",
            keep_aspect=True,
            frame_counts="5, 9",
            spans=2,
        )
    run = folders / "output" / "echoreel_training" / "unlike"
    pairs = CachedPairs(run / "cache")
    shapes = [tuple(pairs.batch([index], [0]).target.shape[2:]) for index in range(len(pairs))]
    assert sorted(shapes) == [(2, 4, 12), (3, 8, 8), (3, 8, 8)]  # the long one gives two spans of 9 frames
    state = run / "checkpoints" / "step-0000002" / STATE_FILE
    then = read_description(state, STATE_KIND, STATE_VERSION)["settings"]
    assert {name: then[name] for name in MORE} == MORE


@pytest.mark.parametrize("counts", ["many", "17; 49", "0", "-4", "1.5", "9999999999999"])
def test_frame_counts_that_are_none_are_named(counts, folders, pack):
    from echoreel_pack.nodes.train_echoreel import TrainEchoReel
    from echoreel_pack.nodes.training.runs import EXAMPLE

    with pytest.raises(ValueError, match=f"frame_counts is '{counts}': use whole numbers from 1 to 1024"):
        TrainEchoReel.execute(None, None, None, **settings(data=EXAMPLE), frame_counts=counts)

"""Clips of unlike sizes and lengths: how each is framed, and that batches hold targets of one shape."""

from __future__ import annotations

from training_toys import write_config, write_toy_checkpoint, write_toy_tokenizer
from video_clips import write_clip

from echoreel_core.training.__main__ import main
from echoreel_core.training.command import frame_lines
from echoreel_core.training.config import BucketSettings, DataSettings, VideoSettings
from echoreel_core.training.data.batches import same_shape
from echoreel_core.training.data.buckets import framed_pairs
from echoreel_core.training.data.cached_pairs import CachedPairs
from echoreel_core.training.data.pairs import read_pairs
from echoreel_core.training.metrics import read_metrics
from echoreel_core.video.frames import read_video

VIDEO = VideoSettings(frames=5, every_nth=1, width=64, height=64)


def test_each_clip_is_framed_as_fits_it_best(tmp_path):
    folder = tmp_path / "actions" / "Hop"
    folder.mkdir(parents=True)
    write_clip(folder / "long.avi", 60, codec="mpeg4", size=(64, 32))
    write_clip(folder / "short.avi", 12, codec="mpeg4", size=(32, 32))
    (folder / "broken.avi").write_bytes(b"")
    pairs = read_pairs(DataSettings(tmp_path / "actions", tmp_path))
    framed = framed_pairs(pairs, VIDEO, BucketSettings(frames=(5, 9, 17), aspect=True, multiple=16, spans=3))
    found = {}
    for pair in framed:
        found.setdefault(pair.target.path.stem, []).append(pair.target.framing)
    shapes = {name: {(f.frames, f.width, f.height) for f in framings} for name, framings in found.items()}
    assert shapes == {"long": {(17, 96, 48)}, "short": {(9, 64, 64)}, "broken": {(5, 64, 64)}}
    starts = [framing.start for framing in found["long"]]
    assert len(starts) == 3 and starts[0] == 0.0
    assert all(b - a >= 17 / 25 for a, b in zip(starts, starts[1:], strict=False)) and starts[-1] <= 43 / 25
    for framing in found["long"]:
        clip = read_video(folder / "long.avi", framing.choice())
        assert not clip.repeated and len(set(clip.times)) == 17
    assert {clip.framing for pair in framed for clip in pair.references} == {None}
    assert framed_pairs(pairs, VIDEO, BucketSettings()) == pairs
    assert frame_lines(framed, VIDEO, 4) == []
    assert frame_lines(framed, VIDEO, 8) == ["5 frames are not 8n + 1, which the model takes: use 1 or 9."]


def test_targets_of_unlike_shapes_are_trained_and_measured_in_batches_of_their_own(tmp_path, capsys):
    folder = tmp_path / "actions" / "Hop"
    folder.mkdir(parents=True)
    for number, size in enumerate([(64, 32), (32, 32)] * 4):
        write_clip(folder / f"{number}.avi", 12 + number, codec="mpeg4", size=size)
    write_toy_checkpoint(tmp_path / "toy.safetensors")
    write_toy_tokenizer(tmp_path / "tokenizer")
    config = write_config(
        tmp_path,
        data={"held_out": 0.4},
        buckets={"aspect": True, "multiple": 8},
        training={"batch_size": 4, "steps": 2, "text_dropout": 0.0},
        output={"held_out_every": 2},
    )
    assert main(["train", str(config)]) == 0, capsys.readouterr().err
    assert main(["check", str(config)]) == 0
    said = capsys.readouterr().out
    assert "as 24 x 8" in said and "as 16 x 16" in said
    pairs = CachedPairs(tmp_path / "cache")
    everything = range(len(pairs))
    shapes = [tuple(pairs.batch([index], [0]).target.shape[-2:]) for index in everything]
    assert set(shapes) == {(4, 12), (8, 8)}
    together = same_shape(pairs, everything)
    assert together == [[i for i in everything if shapes[i] == shape] for shape in dict.fromkeys(shapes)]
    records = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert [record["step"] for record in records if "held_out" in record] == [0, 2]

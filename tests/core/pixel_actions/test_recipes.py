"""The steps of the embedded model's recipe run, each on what the one before it wrote."""

import json

import torch

from echoreel_core.pixel_actions.evaluation.judge import load_judge
from echoreel_core.pixel_actions.recipes import pretrain_text, train_autoencoder, train_judge
from echoreel_core.pixel_actions.recipes.train_judge import PoseReader, pose_code
from echoreel_core.pixel_actions.world.actions import NAMES
from echoreel_core.pixel_actions.world.clips import draw_clips


def test_autoencoder_text_and_judge_are_trained_and_can_be_loaded(tmp_path):
    train_autoencoder.train(tmp_path, 2, batch=4)
    pretrain_text.train(tmp_path, 2, batch=4)
    train_judge.train(tmp_path, tmp_path / "autoencoder.safetensors", 2, batch=12)
    for stage in ("autoencoder", "text", "judge"):
        records = [json.loads(line) for line in (tmp_path / f"{stage}.jsonl").read_text().splitlines()]
        assert [record["step"] for record in records] == [0, 1], stage
    scores, _ = load_judge(tmp_path / "judge.safetensors")(torch.rand(1, 16, 3, 32, 32))
    assert scores.shape == (1, len(NAMES)) and scores.isfinite().all()


def test_the_judge_is_told_the_pose_in_shares_of_what_there_is_to_tell():
    """A guess of the mean tells nothing of anything, and the truth all."""
    torch.manual_seed(0)
    clips, reader = draw_clips(512, 5), PoseReader(4)
    code = pose_code(clips)
    torch.nn.init.zeros_(reader.read.weight)
    with torch.no_grad():
        reader.read.bias.copy_(code.mean((0, 1)))
    _, told = reader.loss(torch.zeros(512, 16, 4), clips)
    assert all(0.5 < share < 2 for share in told.values()), told
    reader.read = torch.nn.Identity()
    loss, told = reader.loss(code, clips)
    assert loss == 0 and not any(told.values())

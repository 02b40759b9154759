"""Whole runs: what they leave in their folder, interruption, the command line, several processes."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import MappingProxyType

try:
    import resource
except ImportError:  # Windows
    resource = None

import av
import pytest
import torch
from PIL import Image
from training_toys import (
    CLIP_SIDE,
    ToyPairs,
    toy_adapter,
    toy_model,
    write_actions,
    write_config,
    write_toy_checkpoint,
    write_toy_tokenizer,
)

from echoreel_core.action.adapter import read_adapter
from echoreel_core.files import read_tensors
from echoreel_core.lvdm.checkpoint import load_released
from echoreel_core.training.__main__ import main
from echoreel_core.training.command import INTERRUPTED
from echoreel_core.training.config import OutputSettings, TrainingSettings
from echoreel_core.training.loss import NoiseLevels, drawn_level
from echoreel_core.training.metrics import MetricsLog, draw_curves, evened, level_powers, read_metrics
from echoreel_core.training.run import TrainingRun
from echoreel_core.training.trainer import Trainer

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    write_toy_checkpoint(folder / "toy.safetensors")
    write_toy_tokenizer(folder / "tokenizer")
    write_actions(folder / "actions")
    return folder


@pytest.fixture
def folder(model, tmp_path):
    for name in ("toy.safetensors", "tokenizer", "actions"):
        (tmp_path / name).symlink_to(model / name)
    return tmp_path


def toy_run(folder: Path, steps: int = 6, settings: dict = MappingProxyType({}), **output) -> TrainingRun:
    host = toy_model()
    settings = TrainingSettings(steps=steps, batch_size=2, learning_rate=1e-3, **settings)
    trainer = Trainer(host, toy_adapter(host), ToyPairs(), settings)
    output = OutputSettings(folder, log_every=2, **{"checkpoint_every": 4, "held_out_every": 3, **output})
    return TrainingRun(trainer, output, {"frames": 4}, ToyPairs(1, seed=1))


def test_a_run_leaves_checkpoints_metrics_curve_and_the_adapter(tmp_path):
    final = toy_run(tmp_path)()
    assert final == tmp_path / "echoreel-adapter.safetensors"
    config, weights = read_adapter(final)
    assert config.training == {"frames": 4, "steps": 6}
    assert {weight.dtype for weight in weights.values()} == {torch.float16}
    kept = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert kept == ["step-0000000", "step-0000004", "step-0000006"]
    records = read_metrics(tmp_path / "metrics.jsonl")
    assert [r["step"] for r in records if "loss" in r] == [2, 4, 6]
    assert [r["step"] for r in records if "held_out" in r] == [0, 3, 6]
    assert list(records[0]["held_out_levels"]) == [f"0.{n}" for n in range(1, 10)]
    with Image.open(tmp_path / "loss.png") as picture:
        assert picture.size == (960, 540) and len(picture.getcolors(1 << 20)) > 4


@pytest.mark.parametrize("how", ["stop", "raise"])
def test_an_interrupted_run_keeps_its_last_step_and_carries_on_exactly(tmp_path, how):
    class Interrupted(Exception):
        pass

    whole = toy_run(tmp_path / "whole")
    whole()
    first = toy_run(tmp_path / "cut")
    if how == "stop":
        assert first(stop=lambda: first.trainer.step == 3) is None
    else:

        def interrupt(result) -> None:
            if result.step == 3:
                raise Interrupted

        with pytest.raises(Interrupted):
            first(interrupt)
    second = toy_run(tmp_path / "cut")
    assert second.resume() == {}
    assert second.trainer.step == 3
    second()
    for name in ("adapter", "state"):
        ours, theirs = (
            read_tensors(tmp_path / run / "checkpoints" / "step-0000006" / f"{name}.safetensors")
            for run in ("cut", "whole")
        )
        assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)
    records = [
        [(r["step"], r["held_out"]) for r in read_metrics(tmp_path / run / "metrics.jsonl") if "held_out" in r]
        for run in ("cut", "whole")
    ]
    assert [step for step, _ in records[1]] == [0, 3, 6]
    assert records[0] == [record for record in records[1] if record[0] != 3]


def test_a_run_that_is_stopped_in_the_prisms_start_begins_anew(tmp_path):
    told = []
    whole = toy_run(tmp_path / "whole")(on_start=lambda *line: told.append(line[:2]))
    assert told == [(step, 6) for step in range(1, 7)]
    told.clear()
    cut = toy_run(tmp_path / "cut")
    assert cut(stop=lambda: len(told) == 3, on_start=lambda *line: told.append(line)) is None
    assert len(told) == 3 and not (tmp_path / "cut" / "checkpoints").exists()
    again = toy_run(tmp_path / "cut")
    assert again.resume() is None
    assert_same_weights(again(), whole)
    records = read_metrics(tmp_path / "cut" / "metrics.jsonl")
    assert [record["step"] for record in records if "held_out" in record] == [0, 3, 6]


@pytest.mark.parametrize("more", [{}, {"motion_loss": 0.5, "average": 0.0}])
def test_a_run_that_is_killed_after_the_prisms_start_goes_on_from_there(tmp_path, more):
    whole = toy_run(tmp_path / "whole", settings=more)()
    cut, told = toy_run(tmp_path / "cut", settings=more), []

    def no_step():
        assert (tmp_path / "cut" / "checkpoints" / "step-0000000").exists()  # so that a kill may come now
        raise KeyboardInterrupt

    cut.trainer.train_step = no_step
    with pytest.raises(KeyboardInterrupt):
        cut()
    again = toy_run(tmp_path / "cut", settings=more)
    assert again.resume() == {} and again.trainer.step == 0
    assert_same_weights(again(on_start=lambda *line: told.append(line)), whole)
    assert not told


def test_an_error_within_a_step_keeps_the_steps_before(tmp_path):
    class Gone(BaseException):
        pass

    run = toy_run(tmp_path)
    predict = run.trainer.trainable.predict

    def fails(*arguments):
        if run.trainer.step == 2:
            raise Gone
        return predict(*arguments)

    run.trainer.trainable.predict = fails
    with pytest.raises(Gone):
        run()
    again = toy_run(tmp_path)
    assert again.resume() == {} and again.trainer.step == 2


@pytest.mark.skipif(resource is None, reason="this system sets no limit on the size of files")
def test_where_a_checkpoint_does_not_fit_the_adapter_is_kept(tmp_path):
    toy_run(tmp_path / "measured")()
    sizes = [
        path.stat().st_size
        for path in (
            tmp_path / "measured" / "echoreel-adapter.safetensors",
            tmp_path / "measured" / "checkpoints" / "step-0000006" / "state.safetensors",
        )
    ]
    assert sizes[0] < sizes[1] / 3
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (sizes[1] // 2, limits[1]))  # as a disk that is full beyond that
    try:
        with pytest.raises(ValueError, match="learned in 4 steps is in echoreel-adapter.safetensors; .* make room"):
            toy_run(tmp_path / "full")()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    config, _ = read_adapter(tmp_path / "full" / "echoreel-adapter.safetensors")
    assert config.training["steps"] == 4
    assert [path.name for path in (tmp_path / "full" / "checkpoints").iterdir()] == ["step-0000000"]  # still small


def test_the_frozen_model_runs_as_it_does_when_it_samples():
    """Not in train mode, in which it would drop activations at random."""
    host = toy_model()
    host.model.train()
    trainer = Trainer(host, toy_adapter(host), ToyPairs(), TrainingSettings(steps=1))
    modes = []
    predict = host.predict
    host.predict = lambda *a: modes.append([module.training for module in host.model.modules()]) or predict(*a)
    trainer.train_step()
    assert modes and not any(modes[0])


def test_the_gradient_is_scaled_down_to_the_limit_and_no_further():
    def step(limit: float) -> tuple[float, list[torch.Tensor]]:
        torch.manual_seed(0)
        host = toy_model()
        trainer = Trainer(host, toy_adapter(host), ToyPairs(), TrainingSettings(steps=1, clip_gradient=limit))
        gradients = []
        for part in trainer.optimizer.parts:
            part.register_step_pre_hook(
                lambda optimizer, *_: gradients.extend(
                    parameter.grad.clone()
                    for group in optimizer.param_groups
                    for parameter in group["params"]
                    if parameter.grad is not None
                )
            )
        return trainer.train_step().gradient_norm, gradients

    norm, free = step(0.0)
    assert norm == pytest.approx(float(torch.stack([g.norm() for g in free]).norm()))
    for limit in (norm / 2, norm * 2):
        told, clipped = step(limit)
        assert told == pytest.approx(norm)  # before clipping
        share = min(1.0, limit / norm)
        for one, other in zip(clipped, free, strict=True):
            torch.testing.assert_close(one, share * other, rtol=1e-4, atol=1e-9)


def test_metrics_from_beyond_the_checkpoint_are_dropped_and_torn_lines_passed_over(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "loss": 1.0}\n{"step": 3, "lo')
    log = MetricsLog(path, 1)
    log.append({"step": 2, "loss": 0.5})
    assert read_metrics(path) == [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 0.5}] == log.records
    MetricsLog(path)
    assert read_metrics(path) == []


@pytest.mark.parametrize("line", ["3", "[1]", '{"loss": 1}', '{"step": "a"}', "null"])
def test_lines_of_another_shape_are_passed_over(tmp_path, line):
    path = tmp_path / "metrics.jsonl"
    path.write_text(f'{line}\n{{"step": 1, "loss": 2.0}}\n')
    assert MetricsLog(path, 1).records == [{"step": 1, "loss": 2.0}]


def test_curves_follow_the_values():
    def blue(records) -> list[int]:
        picture = draw_curves(records, (400, 300))
        return [y for y in range(300) for x in (300,) if picture.getpixel((x, y)) == (63, 143, 216, 255)]

    falling = blue([{"step": step, "loss": 100.0 / step} for step in range(1, 101)])
    rising = blue([{"step": step, "loss": 1.0 * step} for step in range(1, 101)])
    assert falling and rising and min(falling) > 150 > max(rising)
    assert draw_curves([]).size == (960, 540)


def test_what_a_step_owes_to_its_noise_levels_is_taken_out_of_the_curve():
    """Losses differ tenfold by level and fall by a tenth: only evened do they fall."""
    records = []
    for step in range(1, 121):
        samples = range(2 * step - 2, 2 * step)
        levels = [drawn_level(3, sample, NoiseLevels()).item() for sample in samples]
        loss = sum(0.2 * 10**-u for u in levels) / 2 * 0.999**step
        records.append({"step": step, "loss": loss, "levels": level_powers(3, samples)})

    def spread(points) -> float:
        values = torch.tensor([value / 0.999**step for step, value in points])
        return (values.std() / values.mean()).item()

    raw = [(record["step"], record["loss"]) for record in records]
    assert spread(raw) > 0.3 and spread(evened(records)) < 0.1
    assert sum(value for _, value in evened(records)) == pytest.approx(sum(value for _, value in raw))
    del records[7]["levels"]  # from a run that an older version began
    assert evened(records) == raw


def test_only_curves_that_are_there_are_named():
    def orange(**more) -> int:
        colours = draw_curves([{"step": step, "loss": 1.0 + step, **more} for step in range(9)]).getcolors(10**6)
        return sum(count for count, colour in colours if colour[:3] == (224, 122, 31))

    assert orange() == 0 < orange(held_out=2.0)


def test_curves_can_be_read_on_a_dark_and_on_a_light_page():
    """The ratio of light that WCAG asks for graphics, 3, is met, or nearly so, by every line on both grounds."""
    records = [{"step": step, "loss": 100.0 / step, "held_out": 120.0 / step} for step in range(1, 101)]
    picture = draw_curves(records)
    assert picture.getpixel((1, 1))[3] == 0  # the page shows through

    def light(colour) -> float:
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (v / 255 for v in colour[:3])]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2] + 0.05

    solid = {colour for count, colour in picture.getcolors(10**6) if colour[3] == 255 and count > 200}
    assert len(solid) == 3  # axes, loss, held-out loss
    for colour in solid:
        assert light(colour) / light((34, 34, 34)) > 2.9 and light((255, 255, 255)) / light(colour) > 2.9


def test_the_command_line_from_check_to_adapter(folder, capsys):
    config = write_config(
        folder,
        data={"held_out_actions": ["Swing"]},
        training={"weighting": "clean", "batch_size": 2},
        output={"held_out_every": 2, "sample_every": 4, "samples": 1, "sample_steps": 2},
    )
    assert main(["check", str(config)]) == 0
    out = capsys.readouterr().out
    assert "4 of 4 pairs can be used, 2 of them held out" in out and "The cache is not complete yet" in out
    assert main(["cache", str(config)]) == 0
    assert "[7/7]" in capsys.readouterr().out
    assert main(["check", str(config)]) == 0
    out = capsys.readouterr().out
    told = re.search(r"0\.2 million parameters .* checkpoint takes (\d\.\d) MB, the run up to \d+\.\d MB", out)
    assert re.search(r"s a step on cpu: \d+ \w+ for 4 steps", out) and not (folder / "run").exists()
    (folder / "actions").unlink()  # training reads neither videos …
    assert main(["train", str(config)]) == 0
    out = capsys.readouterr().out
    assert "on 2 pairs, 2 held out, on 1 x cpu" in out and "step 4 of 4, loss" in out and "filling it" not in out
    adapter, _ = read_adapter(folder / "run" / "echoreel-adapter.safetensors")
    assert dict(adapter.training) == {
        "frames": 4,
        "fps": pytest.approx(8.333),
        "width": CLIP_SIDE,
        "height": CLIP_SIDE,
        "pairs": 2,
        "base_model": "toy.safetensors",
        "weighting": "clean",
        "steps": 4,
    }
    checkpoint = folder / "run" / "checkpoints" / "step-0000004"
    size = sum(file.stat().st_size for file in checkpoint.iterdir()) / 1e6
    assert float(told.group(1)) == pytest.approx(size, rel=0.1)
    with av.open(str(folder / "run" / "samples" / "step-0000004-1.mp4")) as video:
        frames = list(video.decode(video=0))
        assert len(frames) == 4 and (frames[0].width, frames[0].height) == (3 * CLIP_SIDE + 2 * 8, CLIP_SIDE)
    assert (folder / "run" / "config.toml").read_text() == config.read_text()


def test_training_fills_the_cache_and_carries_on_with_more_steps(folder, capsys):
    config = write_config(folder)
    assert main(["train", str(config)]) == 0
    assert "filling it first" in capsys.readouterr().out
    write_config(folder, training={"steps": 6})
    assert main(["train", str(config)]) == 0
    out = capsys.readouterr().out
    assert "Continuing after step 4." in out and "steps was 4 so far, and is 6 from now on." in out
    assert "filling it" not in out and "step 5 of 6" in out
    write_config(folder, adapter={"depth": 2})
    assert main(["train", str(config)]) == 1
    assert "trains an adapter of different sizes" in capsys.readouterr().err


def test_training_needs_no_text_encoder_once_cached(folder, capsys):
    config = write_config(folder)
    assert main(["cache", str(config)]) == 0
    (folder / "tokenizer").unlink()
    assert main(["train", str(config)]) == 0
    (folder / "cache" / "manifest.json").unlink()
    assert main(["train", str(config)]) == 1
    assert "vocab.json and merges.txt are not in" in capsys.readouterr().err


def test_starts_from_an_adapter(folder, capsys):
    assert main(["train", str(write_config(folder))]) == 0
    made = folder / "run" / "echoreel-adapter.safetensors"
    again = {"adapter": {"start": "run/echoreel-adapter.safetensors"}, "output": {"folder": "run2"}}
    config = write_config(folder, **again, training={"learning_rate": 0.0})
    assert main(["train", str(config)]) == 0
    first, second = (read_adapter(path)[1] for path in (made, folder / "run2" / made.name))
    assert all(torch.equal(first[key], second[key]) for key in first)
    write_config(folder, **again, video={"width": 32})
    assert main(["train", str(config)]) == 1
    assert f"takes references of {CLIP_SIDE} x {CLIP_SIDE} pixels" in capsys.readouterr().err


def test_errors_are_one_sentence(folder, capsys):
    config = write_config(folder, training={"stepz": 1})
    assert main(["train", str(config)]) == 1
    assert capsys.readouterr().err == (
        "Error: config.toml, [training]: there is no setting stepz; did you mean steps?\n"
    )
    config = write_config(folder)
    (folder / "toy.safetensors").unlink()
    assert main(["train", str(config)]) == 1
    assert capsys.readouterr().err == f"Error: There is no checkpoint {folder / 'toy.safetensors'}: check the path.\n"


def start(arguments: list[str], **options) -> subprocess.Popen:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", *arguments], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def test_ctrl_c_saves(folder):
    config = write_config(folder, training={"steps": 100_000})
    process = start(["echoreel_core.training", "train", str(config)])
    for line in process.stdout:
        if line.startswith("step 3 of "):
            process.send_signal(signal.SIGINT)
            break
    rest = process.stdout.read()
    assert process.wait(60) == INTERRUPTED
    stopped = int(rest.partition("Stopped after step ")[2].split(",")[0])
    assert (
        f"Stopped after step {stopped}, saved. Run the same command again to continue." in rest
        and "Traceback" not in rest
    )
    assert (folder / "run" / "checkpoints" / f"step-{stopped:07d}" / "state.safetensors").exists()
    assert json.loads((folder / "run" / "metrics.jsonl").read_text().splitlines()[-1])["step"] == stopped


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_run_killed_at_any_moment_ends_with_the_same_weights(folder):
    """ECHOREEL_KILLS=50 kills more often than the usual five times."""
    kills, steps = int(os.environ.get("ECHOREEL_KILLS", 5)), 30
    training, output = {"steps": steps}, {"checkpoint_every": 1, "stored_as": "float32"}
    whole = write_config(folder, training=training, output={**output, "folder": "whole"})
    assert main(["cache", str(whole)]) == 0
    began = time.monotonic()
    assert main(["train", str(whole)]) == 0
    length = time.monotonic() - began
    config, rng = write_config(folder, training=training, output=output), random.Random(0)
    final, killed = folder / "run" / "echoreel-adapter.safetensors", 0
    while killed < kills:
        child = os.fork()
        if not child:
            os._exit(main(["train", str(config)]))
        time.sleep(rng.uniform(0, length / 2))
        os.kill(child, signal.SIGKILL)
        killed += os.waitpid(child, 0)[1] == signal.SIGKILL
        if final.exists():  # the run was over: from the beginning
            assert_same_weights(final, folder / "whole" / final.name)
            shutil.rmtree(folder / "run")
    assert main(["train", str(config)]) == 0
    assert_same_weights(final, folder / "whole" / final.name)
    assert len(list((folder / "run" / "checkpoints").iterdir())) == 3  # nothing half-written is left
    losses = [
        [(r["step"], r["loss"]) for r in read_metrics(folder / run / "metrics.jsonl")] for run in ("run", "whole")
    ]
    assert losses[0] == losses[1] and [step for step, _ in losses[0]] == list(range(1, steps + 1))


def assert_same_weights(one: Path, other: Path) -> None:
    one, other = read_tensors(one), read_tensors(other)
    assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_the_one_program_for_all_models_trains_the_released_family_without_comfyui(folder):
    """On a console that cannot show the name of every file."""
    (folder / "actions").unlink()
    write_actions(folder / "actions", actions=["跳"], clips=2)
    environment = {**os.environ, "PYTHONIOENCODING": "cp1252", "OMP_NUM_THREADS": "1"}
    config = write_config(folder, training={"steps": 1})
    done = subprocess.run([sys.executable, ROOT / "train.py", config], env=environment, capture_output=True)
    assert done.returncode == 0 and b"\\u8df3" in done.stdout and b"Done: " in done.stdout, done.stderr


@pytest.mark.heavy
def test_two_processes_train_what_one_does_with_twice_the_batch(folder):
    data, output = {"held_out": 0.3}, {"held_out_every": 2}
    config = write_config(folder, data=data, training={"text_dropout": 0.0}, output=output)
    # what `accelerate launch` runs for several GPUs; on the CPU it would want MPI
    launch = ["torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "echoreel_core.training"]
    process = start([*launch, "train", str(config)])
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 0, out
    assert "on 2 x cpu" in out and out.count("Done:") == 1
    two = folder / "run" / "checkpoints" / "step-0000004" / "state.safetensors"
    training, output = {"text_dropout": 0.0, "batch_size": 2}, {**output, "folder": "one"}
    write_config(folder, data=data, training=training, output=output)
    assert main(["train", str(config)]) == 0
    one = folder / "one" / "checkpoints" / "step-0000004" / "state.safetensors"
    losses = [
        [record.get("loss", record.get("held_out")) for record in read_metrics(folder / run / "metrics.jsonl")]
        for run in ("run", "one")
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    two, one = read_tensors(two), read_tensors(one)
    kept = ("exp_avg", "momentum_buffer")
    moments = [key for key in one if key.endswith(kept) and one[key].abs().max() > 1e-5]
    assert len(moments) > 20
    for key in moments:
        assert torch.nn.functional.cosine_similarity(two[key].flatten(), one[key].flatten(), dim=0) > 0.999, key


def test_imports_without_the_extras():
    modules = [path.stem for path in (ROOT / "echoreel_core" / "training").glob("[a-z]*.py")]
    assert "trainer" in modules and "sample_videos" in modules
    code = f"""import importlib, sys
for name in {modules}: importlib.import_module("echoreel_core.training." + name)
assert not {{"accelerate", "tokenizers", "tomli", "PIL", "transformers"}} & set(sys.modules)"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_the_toy_checkpoint_is_one(model):
    assert load_released(model / "toy.safetensors").adapter_config is None

"""`python -m echoreel_core convert`."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from released_weights import make_state_dict
from safetensors.torch import load_file

from echoreel_core.__main__ import main
from echoreel_core.action.adapter import content_id, read_adapter
from echoreel_core.lvdm.checkpoint import load_released

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """The toy checkpoint as the authors publish theirs."""
    path = tmp_path_factory.mktemp("published") / "checkpoint.pt"
    weights = {key: value.half() for key, value in make_state_dict("small").items()}
    weights["first_stage_model.decoder.conv_in.weight"] = torch.ones(3, 2)
    content = {"module": {f"_forward_module.{key}": value for key, value in weights.items()}, "ds_version": "0.8"}
    torch.save(content, path)
    return path


def test_all_in_one(source, tmp_path, capsys):
    target = tmp_path / "out.safetensors"
    assert main(["convert", str(source), str(target)]) == 0
    kept = load_released(source).kept
    written = load_file(target)
    assert written.keys() == kept.keys()
    assert all(torch.equal(written[key], kept[key]) and written[key].dtype == kept[key].dtype for key in kept)
    checkpoint = load_released(target)
    assert checkpoint.dropped == {}
    assert content_id(checkpoint.adapter) == content_id(load_released(source).adapter)

    lines = capsys.readouterr().out.splitlines()
    rows = {line[2:34].strip(): line[34:].split() for line in lines[1:7]}
    parameters = sum(tensor.numel() for tensor in kept.values())
    assert rows["in all"][:2] == [str(len(kept)), f"{parameters:,}"]
    assert rows["VAE (first_stage_model)"][:2] == ["1", "6"]
    assert sum(int(row[1].replace(",", "")) for name, row in rows.items() if name != "in all") == parameters
    assert any("never run: 55 " in line for line in lines) and any("ds_version" in line for line in lines)
    assert lines[-1].startswith("Peak memory")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_base_and_adapter_apart(source, tmp_path, dtype):
    base, adapter = tmp_path / "base.safetensors", tmp_path / "adapter.safetensors"
    assert main(["convert", str(source), str(base), "--adapter", str(adapter), "--dtype", dtype]) == 0
    whole, apart = load_released(source), load_released(base)
    assert apart.adapter_config is None and apart.unet.keys() == whole.unet.keys() and len(apart.vae) == 1
    config, weights = read_adapter(adapter)
    assert config == whole.adapter_config and weights.keys() == whole.adapter.keys()
    for written, ours in ((apart.unet, whole.unet), (weights, whole.adapter)):
        for key, tensor in ours.items():
            assert torch.equal(written[key], tensor.to(getattr(torch, dtype))), key
    if dtype == "float32":
        assert content_id(weights) == content_id(whole.adapter)


def fails(capsys, *arguments, message: str) -> None:
    assert main(["convert", *map(str, arguments)]) == 1
    output = capsys.readouterr()
    assert output.err.count("\n") == 1 and message in output.err and "Wrote" not in output.out


def test_what_is_refused(source, tmp_path, capsys):
    target, adapter = tmp_path / "out.safetensors", tmp_path / "adapter.safetensors"
    fails(capsys, tmp_path / "no.pt", target, message="No such file")
    fails(capsys, source, tmp_path / "out.pt", message="ends with .safetensors")
    fails(capsys, source, target, "--adapter", target, message="choose two names")
    (tmp_path / "broken.pt").write_bytes(source.read_bytes()[:5000])
    fails(capsys, tmp_path / "broken.pt", target, message="incomplete or damaged")
    fails(capsys, source, source / "below.safetensors", message="cannot be written")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["broken.pt"]

    base = tmp_path / "base.safetensors"
    assert main(["convert", str(source), str(base), "--adapter", str(adapter)]) == 0
    before = base.read_bytes()
    capsys.readouterr()
    fails(capsys, source, base, message="already exists")
    fails(capsys, source, target, "--adapter", adapter, message="already exists")
    fails(capsys, base, target, "--adapter", tmp_path / "again.safetensors", message="no EchoReel parts")
    assert base.read_bytes() == before and not target.exists()


def run_limited(source, target, limit: str) -> subprocess.CompletedProcess:
    """In a process of its own, the way it is called, below a limit of the shell's."""
    command = f"ulimit {limit}; exec {sys.executable} -m echoreel_core convert {source} {target}"
    return subprocess.run(["sh", "-c", command], cwd=ROOT, capture_output=True, text=True)


@pytest.mark.skipif(sys.platform == "win32", reason="the limit is set with a POSIX shell")
def test_a_disk_that_fills_up_leaves_nothing(source, tmp_path):
    done = run_limited(source, tmp_path / "out.safetensors", "-f 2000")  # blocks of 512 bytes, far below what it takes
    assert done.returncode == 1
    assert done.stderr.startswith("convert: ") and "cannot be written (File too large)" in done.stderr
    assert done.stderr.count("\n") == 1 and list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="the limit is set with a POSIX shell")
def test_the_command_as_it_is_called(source, tmp_path):
    done = run_limited(source, tmp_path / "out.safetensors", "-f unlimited")
    assert done.returncode == 0 and done.stderr == ""
    assert load_released(tmp_path / "out.safetensors").adapter_config is not None

"""Files that are damaged or made to do harm: one sentence at once, nothing run, nothing left behind."""

from __future__ import annotations

import concurrent.futures
import json
import os
import pickle
import struct

import pytest
import torch
from released_weights import make_state_dict
from safetensors.torch import save_file
from torch_files import write_with_globals

from echoreel_core.__main__ import main
from echoreel_core.action.action import Action, Reference
from echoreel_core.action.adapter import read_adapter
from echoreel_core.action.file import load_action, save_action
from echoreel_core.errors import EchoReelError
from echoreel_core.files import read_description, valid_text, write_safetensors
from echoreel_core.lvdm.autoencoder import Autoencoder, AutoencoderConfig, load_autoencoder
from echoreel_core.lvdm.checkpoint import load_released, read_state_dict
from echoreel_core.lvdm.text_encoder import CLIPTextEncoder, TextConfig
from echoreel_core.video.write import write_video


class Trainer:
    """Pickled under a name that only a trainer has."""

    def __reduce_ex__(self, protocol):
        return object.__reduce_ex__(self, protocol)


Trainer.__module__, Trainer.__qualname__ = "deepspeed.runtime", "Trainer"


def test_checkpoints_read_at_once_in_many_threads(tmp_path, monkeypatch):
    """While one thread reads a trainer's file, another's plain `torch.load` still refuses the same names."""
    import sys
    import types

    for name in ("deepspeed", "deepspeed.runtime"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    sys.modules["deepspeed.runtime"].Trainer = Trainer
    weights = {f"model.diffusion_model.{i}": torch.full((4,), float(i)) for i in range(50)}
    path = tmp_path / "a.pt"
    torch.save({"module": weights, "trainer": [Trainer() for _ in range(200)]}, path)

    def ours(_):
        found, left_out = read_state_dict(path)
        return left_out == ["trainer"] and all(torch.equal(found[key], weights[key]) for key in weights)

    def theirs(_):
        try:
            torch.load(path, weights_only=True)
        except pickle.UnpicklingError:
            return True
        return False

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda i: (theirs if i % 4 == 3 else ours)(i), range(60)))
    assert answers == [True] * 60


@pytest.mark.parametrize("claim", [{"prism": {"depth": 10**9}}, {"sites": 10**6}])
def test_an_adapter_is_not_believed_before_its_tensors(tmp_path, claim):
    site = {"name": "a", "dim": 8, "heads": 1, "head_dim": 8}
    description = {"format": "adapter", "version": 1, "host": "wan", "position": "relative_bias", "max_distance": 4}
    description |= {"prism": {"grid": [1, 1], **claim.get("prism", {})}, "sites": [site] * claim.get("sites", 1)}
    save_file({"a": torch.zeros(1)}, tmp_path / "a.safetensors", {"echoreel": json.dumps(description)})
    with pytest.raises(EchoReelError, match="claims"):
        read_adapter(tmp_path / "a.safetensors")


def test_nested_tuples_are_not_hashed(tmp_path):
    """Sixty pairs, each of the one before twice: a hash would visit 2^60."""
    pickled = b"\x80\2}X\6\0\0\0module}" + b")" + b"2\x86" * 60 + b"K\1ss."
    write_with_globals(tmp_path / "a.pt", pickled)
    assert read_state_dict(tmp_path / "a.pt") == ({}, [])


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
@pytest.mark.parametrize("read", [load_released, read_adapter, load_action])
def test_pipes_are_refused(tmp_path, read):
    os.mkfifo(tmp_path / "a.safetensors")
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        answer = pool.submit(read, tmp_path / "a.safetensors")
        with pytest.raises(EchoReelError, match="pipe"):
            answer.result(timeout=10)


def test_a_tensor_is_no_larger_than_what_is_stored_of_it(tmp_path):
    torch.save({"module": {"model.diffusion_model.a": torch.zeros(1).expand(10**12)}}, tmp_path / "a.pt")
    with pytest.raises(EchoReelError, match="larger than what is stored"):
        read_state_dict(tmp_path / "a.pt")


DESCRIPTIONS = {
    "version infinite": '{"format": "adapter", "version": Infinity}',
    "version too large a float": '{"format": "adapter", "version": 1e999}',
    "number of 400 digits": '{"format": "adapter", "version": 1, "x": 1' + "0" * 400 + "}",
    "not a number": '{"format": "adapter", "version": 1, "x": [NaN]}',
    "deep": '{"format": "adapter", "version": 1, "training": ' + "[" * 600 + "]" * 600 + "}",
    "too deep to parse": "[" * 100_000,
    "a list": "[]",
    "no format": '{"version": 1}',
    "a number": "3",
}


@pytest.mark.parametrize("name", DESCRIPTIONS)
def test_descriptions(tmp_path, name):
    save_file({"a": torch.zeros(1)}, tmp_path / "a.safetensors", {"echoreel": DESCRIPTIONS[name]})
    with pytest.raises(EchoReelError, match=r"a\.safetensors cannot be used: its EchoReel description is damaged"):
        read_description(tmp_path / "a.safetensors", "adapter", 1)


@pytest.mark.parametrize("weight", [float("nan"), float("inf"), -1.0])
def test_weights_of_an_action_are_numbers(tmp_path, weight):
    tokens = torch.zeros(1, 2, 3)
    save_action(Action(((Reference(tokens, tokens),),), (weight,), "a", "lvdm"), tmp_path / "a.safetensors")
    with pytest.raises(EchoReelError, match="damaged"):
        load_action(tmp_path / "a.safetensors")


# Writing


def test_kinds_of_tensors(tmp_path):
    path = tmp_path / "a.safetensors"
    stored = {"a": torch.ones(3).to(torch.float8_e4m3fn), "b": torch.ones(2, dtype=torch.complex64)}
    write_safetensors(path, stored)
    from safetensors.torch import load_file

    assert all(torch.equal(load_file(path)[key].float(), stored[key].float()) for key in ("a",))
    assert torch.equal(load_file(path)["b"], stored["b"])
    for tensor in (torch.ones(2, 2).to_sparse(), torch.empty(2, device="meta"), torch.ones(2).to(torch.complex128)):
        with pytest.raises(EchoReelError, match="the tensor x is of a kind"):
            write_safetensors(tmp_path / "b.safetensors", {"x": tensor})
    assert [file.name for file in tmp_path.iterdir()] == ["a.safetensors"]


def test_two_spellings_of_one_path(tmp_path, capsys):
    torch.save({"module": make_state_dict("small")}, tmp_path / "a.pt")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path)
    target = str(tmp_path / "out.safetensors")
    for other in (tmp_path / "folder" / ".." / "out.safetensors", tmp_path / "link" / "out.safetensors"):
        assert main(["convert", str(tmp_path / "a.pt"), target, "--adapter", str(other)]) == 1
        assert "choose two names" in capsys.readouterr().err
    assert not os.path.exists(target)


def test_halves_of_surrogate_pairs(tmp_path):
    assert valid_text("a \ud83d b é") == "a ? b é"
    write_video(tmp_path / "a.mp4", torch.zeros(2, 16, 16, 3), 8, title="half \ud83d")


@pytest.mark.parametrize("arguments", [["--seed", str(1 << 64)], ["--out", "taken"]])
def test_the_demo_asks_before_the_sampling(tmp_path, monkeypatch, capsys, arguments):
    from echoreel_core.commands import demo

    monkeypatch.setattr(demo, "in_own_environment", lambda argv: None)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").touch()
    assert main(["demo", *arguments]) == 1
    output = capsys.readouterr()
    assert output.err.startswith("demo: ") and "Reference" not in output.out


# VAE and text encoder


def test_a_vae_with_a_tensor_missing_or_of_another_shape():
    weights = Autoencoder(AutoencoderConfig(channels=32, multipliers=(1, 2), blocks=1)).state_dict()
    load_autoencoder(dict(weights))
    for key in ("decoder.mid.attn_1.q.weight", "encoder.conv_out.bias", "encoder.conv_in.weight"):
        for wrong in (None, torch.zeros(()), torch.zeros(5, 3)):
            damaged = {**weights, key: wrong} if wrong is not None else {k: t for k, t in weights.items() if k != key}
            with pytest.raises(EchoReelError) as error:
                AutoencoderConfig.from_state_dict(damaged)
            assert "image autoencoder" in str(error.value) and "\n" not in str(error.value)


def test_a_text_encoder_with_a_tensor_missing_or_of_another_shape():
    weights = CLIPTextEncoder(TextConfig(100, 16, 2, 7, 32)).state_dict()
    assert TextConfig.from_state_dict(weights).depth == 2
    for key in ("text_model.encoder.layers.1.mlp.fc2.bias", "text_model.embeddings.token_embedding.weight"):
        for wrong in (None, torch.zeros(()), torch.zeros(5, 3)):
            damaged = {**weights, key: wrong} if wrong is not None else {k: t for k, t in weights.items() if k != key}
            with pytest.raises(EchoReelError) as error:
                TextConfig.from_state_dict(damaged)
            assert "text encoder" in str(error.value) and "\n" not in str(error.value)


def test_a_safetensors_header_without_end(tmp_path):
    (tmp_path / "a.safetensors").write_bytes(struct.pack("<Q", 1 << 60) + b"{}")
    with pytest.raises(EchoReelError, match="cannot be read as safetensors"):
        read_state_dict(tmp_path / "a.safetensors")


def test_a_sentence_stays_short_whatever_the_file_says(tmp_path):
    description = json.dumps({"format": [0] * 5000, "version": 1})
    save_file({"a": torch.zeros(1)}, tmp_path / "a.safetensors", {"echoreel": description})
    with pytest.raises(EchoReelError, match="not an EchoReel adapter") as error:
        read_description(tmp_path / "a.safetensors", "adapter", 1)
    assert len(str(error.value)) < 200

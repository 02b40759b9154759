"""The authors' file and its relatives: read without running what is pickled in them, or refused in one sentence."""

import argparse
import builtins
import collections
import os
import pathlib
import subprocess
import sys
import types
import zipfile

import numpy as np
import pytest
import torch
from released_weights import make_state_dict
from safetensors.torch import save_file
from torch_files import write_with_globals

from echoreel_core.lvdm.checkpoint import load_released, read_state_dict, split_released

UNET = "model.diffusion_model."


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    """The toy checkpoint's tensors in half precision, with a few of the other parts and of what is left out."""
    weights = {key: value.half() for key, value in make_state_dict("small").items()}
    weights["first_stage_model.decoder.conv_in.weight"] = torch.ones(3, 2)
    weights["cond_stage_model.transformer.text_model.final_layer_norm.weight"] = torch.ones(5)
    weights["cond_stage_model.transformer.text_model.embeddings.position_ids"] = torch.arange(77)[None]
    weights["betas"] = torch.ones(10)
    return weights


@pytest.fixture
def trainer():
    """Makes classes as a trainer's packages have them, and takes them away again: the reader has none of them."""
    modules = {}

    def make(module: str, name: str, *bases: type, **body) -> type:
        for i in range(len(module.split("."))):
            path = ".".join(module.split(".")[: i + 1])
            if path not in sys.modules:
                modules[path] = sys.modules[path] = types.ModuleType(path)
        made = type(name, bases, {"__module__": module, **body})
        setattr(sys.modules[module], name, made)
        return made

    def take_away() -> None:
        for path in modules:
            sys.modules.pop(path, None)

    yield make, take_away
    take_away()


def deepspeed_content(weights, **others) -> dict:
    return {
        "module": collections.OrderedDict((f"_forward_module.{key}", value) for key, value in weights.items()),
        "buffer_names": ["a"],
        "optimizer": {"state": {0: {"exp_avg": torch.zeros(4)}}, "param_groups": [{"lr": 1e-4}]},
        "csr_tensor_module_names": set(),
        "global_steps": 2**40,
        "ds_config": {"fp16": {"enabled": True}, "lr": 1e-4, "none": None},
        "ds_version": "0.8.3",
        **others,
    }


def check_whole(checkpoint, weights):
    """Every tensor that belongs to the model is kept, and nothing of it changed."""
    parts = (".video_inject_attn3.", ".video_inject_norm6.", ".latent_to_S.")
    spatial = [key for key in weights if any(part in key for part in parts)]
    assert spatial and sorted(checkpoint.dropped["spatial EchoReel layers, never run"]) == sorted(spatial)
    assert [key[-12:] for key in checkpoint.dropped["constant buffers"]] == ["position_ids"]
    assert checkpoint.dropped["noise schedule and other buffers"] == ["betas"]
    left_out = {*spatial, *checkpoint.dropped["constant buffers"], "betas"}
    assert checkpoint.kept.keys() == weights.keys() - left_out
    for key, tensor in checkpoint.kept.items():
        assert tensor.dtype == weights[key].dtype and torch.equal(tensor, weights[key]), key
    assert checkpoint.vae.keys() == {"decoder.conv_in.weight"}
    assert checkpoint.text.keys() == {"transformer.text_model.final_layer_norm.weight"}
    assert checkpoint.adapter_config.host == "lvdm" and len(checkpoint.adapter_config.sites) == 7
    assert len(checkpoint.unet) + len(checkpoint.adapter) + 2 == len(checkpoint.kept)


def test_deepspeed_file(tmp_path, weights):
    path = tmp_path / "checkpoint.pt"
    torch.save(deepspeed_content(weights), path)
    checkpoint = load_released(path)
    check_whole(checkpoint, weights)
    assert checkpoint.dropped["optimizer and trainer state"] == [
        key for key in deepspeed_content({}) if key != "module"
    ]


def test_deepspeed_file_with_the_trainers_own_classes(tmp_path, weights, trainer):
    """Objects with state, built by a call, classes, dictionaries, numpy scalars: replaced by what does nothing."""
    make, take_away = trainer
    scaler = make("deepspeed.runtime.fp16.loss_scaler", "LossScaler", object)()
    scaler.cur_scale, scaler.history = 4096.0, [torch.zeros(2)]
    called = {"__reduce__": lambda self: (type(self), ("step", 3), {"elapsed": 1.0}), "__init__": lambda self, *_: None}
    timer = make("deepspeed.utils.timer", "Timer", object, **called)()
    config = make("omegaconf.dictconfig", "DictConfig", object)()
    config.__dict__.update(_content={"a": 1}, _type=dict, _kind=int)
    content = deepspeed_content(
        weights,
        loss_scaler=scaler,
        timer=timer,
        hyper_parameters=make("pytorch_lightning.utilities.parsing", "AttributeDict", dict)(lr=1e-4),
        callbacks={make("pytorch_lightning.callbacks.model_checkpoint", "ModelCheckpoint", object): {"best": 0.5}},
        scores=[np.float64(0.5), np.arange(3)],
        config=config,
        arguments=argparse.Namespace(lr=1e-4, folder=pathlib.PurePosixPath("a")),
        counts=collections.defaultdict(int, a=1),
    )
    path = tmp_path / "checkpoint.pt"
    torch.save(content, path)
    take_away()
    check_whole(load_released(path), weights)


@pytest.mark.parametrize("form", ["state_dict", "plain", "legacy", "safetensors", "wrapped safetensors"])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors", ""])
def test_other_forms_whatever_the_files_name_says(tmp_path, weights, form, suffix):
    path = tmp_path / f"checkpoint{suffix}"
    if form == "state_dict":
        torch.save({"state_dict": weights, "epoch": 3}, path)
    elif form == "plain":
        torch.save(weights, path)
    elif form == "legacy":
        torch.save({"state_dict": weights}, path, _use_new_zipfile_serialization=False)
    elif form == "safetensors":
        save_file(weights, path)
    else:
        save_file({f"module.{key}": value for key, value in weights.items()}, path)
    if suffix == ".safetensors" and "safetensors" not in form:  # torch itself goes by this suffix
        refuse(path, "rename it so that it ends with .pt")
    else:
        check_whole(load_released(path), weights)


def test_base_without_echoreel(tmp_path, weights):
    base = {key: value for key, value in weights.items() if "video_inject_" not in key}
    torch.save({"state_dict": base}, tmp_path / "t2v.ckpt")
    checkpoint = load_released(tmp_path / "t2v.ckpt")
    assert checkpoint.adapter == {} and checkpoint.adapter_config is None
    assert checkpoint.unet.keys() == split_released(weights, "whole").unet.keys()


def test_weights_are_memory_mapped(tmp_path, weights):
    """Tensors of the file's own dtype are views of it: reading costs no memory until they are used."""
    path = tmp_path / "checkpoint.pt"
    torch.save(deepspeed_content(weights), path)
    with open("/proc/self/maps") as maps:
        assert str(path) not in maps.read()
    checkpoint = load_released(path)
    with open("/proc/self/maps") as maps:
        regions = [line.split() for line in maps if str(path) in line]
    spans = [tuple(int(end, 16) for end in region[0].split("-")) for region in regions]
    for parts in (checkpoint.unet, checkpoint.adapter):
        for key, tensor in parts.items():
            assert any(low <= tensor.data_ptr() < high for low, high in spans), key


# what is refused


def refuse(path, *words: str) -> None:
    with pytest.raises(ValueError) as error:
        load_released(path)
    message = str(error.value)
    assert message.startswith(path.name) and message.endswith(".") and "\n" not in message, message
    assert len(message) < 400, message
    assert any(word in message for word in words), message


@pytest.mark.parametrize("form", ["zip", "legacy", "safetensors"])
def test_truncated_files(tmp_path, weights, form):
    path = tmp_path / "checkpoint.pt"
    if form == "safetensors":
        save_file(weights, path)
    else:
        torch.save(deepspeed_content(weights), path, _use_new_zipfile_serialization=form == "zip")
    whole = path.read_bytes()
    for share in (0, 1e-6, 1e-4, 0.01, 0.3, 0.9, 0.999999):
        path.write_bytes(whole[: int(len(whole) * share)])
        refuse(path, "damaged", "incomplete", "cannot be read as safetensors")


def test_damaged_bytes_in_the_directory_of_tensors(tmp_path, weights):
    """Flipped bytes in the pickle itself: either it still reads as the model, or it is refused; never another error."""
    small = {key: value for key, value in list(weights.items())[:5]}
    path = tmp_path / "checkpoint.pt"
    torch.save(deepspeed_content(small), path)
    whole = bytearray(path.read_bytes())
    start = whole.index(b"_forward_module.") - 200
    for offset in range(start, start + 1500, 3):
        broken = whole.copy()
        broken[offset] ^= 0x55
        path.write_bytes(broken)
        try:
            read_state_dict(path)
        except ValueError as error:
            assert str(error).startswith("checkpoint.pt")


def test_files_that_are_no_checkpoints(tmp_path):
    path = tmp_path / "other.pt"
    for content in (b"", b"PK\3\4", b"PK\3\4" + b"\0" * 1000, b"\x80\2", b"\x80\4N.", b"<html>" * 50, b"\0" * 1000):
        path.write_bytes(content)
        refuse(path, "damaged")
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", b"\x80\2]q\0.")
    refuse(path, "no dictionary of tensors")
    for content in ([1, 2], torch.zeros(3), 5):
        torch.save(content, path)
        refuse(path, "no dictionary of tensors")
    for content in ({}, {"module": {}}, {"module": {"a": 1}}, {"state_dict": None}, {"module": [1]}):
        torch.save(content, path)
        refuse(path, "a different architecture")
    refuse(tmp_path / "missing.pt", "No such file")
    refuse(tmp_path, "cannot be opened")


def test_other_architectures(tmp_path, weights):
    path = tmp_path / "v1-5.safetensors"
    image_unet = {
        f"{UNET}{key}": torch.zeros(shape)
        for key, shape in {
            "input_blocks.0.0.weight": (320, 4, 3, 3),
            "input_blocks.1.0.in_layers.2.weight": (320, 320, 3, 3),
            "input_blocks.1.1.proj_in.weight": (320, 320, 1, 1),
            "middle_block.1.transformer_blocks.0.attn2.to_k.weight": (1280, 768),
        }.items()
    }
    save_file(image_unet, path)
    refuse(path, "a different architecture (This is not an LVDM video UNet")
    save_file({"blocks.0.self_attn.q.weight": torch.zeros(2, 2)}, path)
    refuse(path, "begins with 'model.diffusion_model.'")


@pytest.mark.parametrize(
    "key",
    [
        "input_blocks.0.0.weight",
        "middle_block.1.transformer_blocks.0.attn1_tmp.relative_position_k.embeddings_table",
        "output_blocks.0.0.emb_layers.1.bias",
        "out.2.weight",
        "video_inject_process.latent_to_T.2.weight",
        "video_inject_process.net.0.attn1_tmp.relative_position_k.embeddings_table",
        "video_inject_process.net.1.ff4.net.2.bias",
        "middle_block.1.transformer_blocks.0.video_inject_attn3_tmp.to_k.weight",
        "middle_block.1.transformer_blocks.0.video_inject_norm7.weight",
    ],
)
def test_a_tensor_missing_or_of_another_shape(weights, key):
    key = UNET + key
    assert key in weights
    with pytest.raises(ValueError, match=r"^file\.pt .*"):
        split_released({name: value for name, value in weights.items() if name != key}, "file.pt")
    wrong = torch.zeros(()), torch.zeros(3), torch.zeros(2, 3), torch.zeros(0, 4), torch.zeros(1, 2, 3, 4)
    for shape in (*wrong, weights[key][..., :-1]):
        with pytest.raises(ValueError, match=r"^file\.pt(:| )"):
            split_released({**weights, key: shape}, "file.pt")


def test_the_missing_tensor_is_named(weights):
    for part, name in (("out.2.bias", "out.2.bias"), ("video_inject_process.video_to_latent.bias", "latent_in.bias")):
        with pytest.raises(ValueError, match=rf"the tensor .*{name} is missing"):
            split_released({key: value for key, value in weights.items() if key != UNET + part}, "file.pt")


# malice


class Calls:
    """Pickled as a call of any function with any arguments."""

    def __init__(self, function, *arguments, state=None) -> None:
        self.parts = (function, arguments, state) if state is not None else (function, arguments)

    def __reduce__(self):
        return self.parts


def malicious_files(weights, mark):
    """Contents that create the file `mark` when anything in them is executed."""
    command = f"touch {mark}"
    code = f"open({str(mark)!r}, 'w').close()"
    first = next(iter(weights))
    system = Calls(os.system, command)
    return {
        "beside the weights": deepspeed_content(weights, extra=system),
        "in the weights": {"module": {**weights, "x": system}},
        "in the place of a tensor": {"module": {**weights, first: system}},
        "in place of everything": system,
        "eval": deepspeed_content(weights, extra=Calls(builtins.eval, code)),
        "exec": deepspeed_content(weights, extra=Calls(builtins.exec, code)),
        "open": deepspeed_content(weights, extra=Calls(builtins.open, str(mark), "w")),
        "import": deepspeed_content(weights, extra=Calls(builtins.__import__, "os")),
        "subprocess": deepspeed_content(weights, extra=Calls(subprocess.Popen, ["touch", str(mark)])),
        "through getattr": deepspeed_content(weights, extra=Calls(getattr, Calls(__import__, "os"), "system")),
        "as a dictionary key": {"module": weights, 1: {"a": [(system,)]}},
        "torch's own loader": deepspeed_content(weights, extra=Calls(torch.hub.load, "someone/repo", "model")),
        "numpy's runner": deepspeed_content(weights, extra=Calls(np.vectorize, Calls(builtins.eval, code))),
        "behind a path": deepspeed_content(weights, extra=Calls(pathlib.Path, Calls(os.system, command))),
        "map over": deepspeed_content(weights, extra=Calls(map, os.system, [command])),
    }


NAMES = list(malicious_files({"a": torch.zeros(1)}, "mark"))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("zipped", [True, False])
def test_malicious_pickles_are_refused_and_do_not_run(tmp_path, weights, name, zipped):
    few = {key: weights[key] for key in list(weights)[:3]}
    mark = tmp_path / "executed"
    path = tmp_path / "checkpoint.pt"
    torch.save(malicious_files(few, mark)[name], path, _use_new_zipfile_serialization=zipped)
    refuse(path, "tries to run code")
    assert not mark.exists()


def test_the_malicious_files_do_run_elsewhere(tmp_path):
    """Proof that the test above would notice: the same content runs in an ordinary unpickler."""
    mark = tmp_path / "executed"
    torch.save(malicious_files({"a": torch.zeros(1)}, mark)["beside the weights"], tmp_path / "a.pt")
    torch.load(tmp_path / "a.pt", weights_only=False)
    assert mark.exists()


STAND_INS = {
    "a trainer's class called with a command": b"cdeepspeed.utils\nrun\n(X\x08\0\0\0touch /xtR",
    "a trainer's name of another package": b"cdeepspeed\nos.system\n(X\x08\0\0\0touch /xtR",
    "state for a stand-in": b"cdeepspeed.a\nB\n)\x81}X\1\0\0\0aK\1sb",
}


@pytest.mark.parametrize("name", STAND_INS)
def test_names_of_the_stand_in_packages_do_nothing(tmp_path, monkeypatch, name):
    """Whatever such a name stands for on this machine is neither imported nor called."""
    called = []
    module = types.ModuleType("deepspeed.utils")
    module.run = called.append
    fake = types.ModuleType("deepspeed")
    fake.os = os
    monkeypatch.setitem(sys.modules, "deepspeed", fake)
    monkeypatch.setitem(sys.modules, "deepspeed.utils", module)
    monkeypatch.setattr(os, "system", called.append)
    path = tmp_path / "checkpoint.pt"
    write_with_globals(path, b"\x80\2}(X\6\0\0\0module}X\5\0\0\0extra" + STAND_INS[name] + b"u.")
    assert read_state_dict(path) == ({}, ["extra"])
    assert called == []


@pytest.mark.parametrize(
    "opcodes",
    [
        b"cposix\nsystem\n(X\7\0\0\0touch atR.",
        b"\x80\4\x8c\5posix\x8c\6system\x93\x8c\7touch a\x85R.",  # names from the stack, protocol 4
        b"(S'touch a'\niposix\nsystem\n.",  # INST
        b"\x80\2ctorch\nTensor\n(X\7\0\0\0touch ad\x81.",
        b"\x80\2cdeepspeed\nA\ncposix\nsystem\nb.",
        b"\x80\2cbuiltins\nstr\ncbuiltins\ngetattr\nb.",
        b"\x80\2" + b"(" * 5000 + b".",
        b"\x80\2",
        b"",
    ],
)
def test_hand_written_pickles_are_refused(tmp_path, opcodes):
    path = tmp_path / "checkpoint.pt"
    write_with_globals(path, opcodes)
    refuse(path, "tries to run code", "damaged")

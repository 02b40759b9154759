"""Models quantised by the pack ComfyUI-GGUF (github.com/city96/ComfyUI-GGUF), where it is installed."""

from __future__ import annotations

import importlib.util
import sys

import comfy.sd
import pytest
import torch
from encoders import encoders_for
from places import COMFYUI
from test_headless import settings as headless_settings
from test_headless import train_here
from tiny_families import build
from training_runs import assert_applied_as_trained, losses, settings, write_actions

FOLDER = COMFYUI / "custom_nodes" / "ComfyUI-GGUF"
ARCHITECTURES = {"wan t2v": "wan", "ltxv": "ltxv"}

if not FOLDER.is_dir():
    pytest.skip("ComfyUI-GGUF is not installed in this ComfyUI", allow_module_level=True)
gguf = pytest.importorskip("gguf", reason="ComfyUI-GGUF's own dependency, gguf, is not installed")


@pytest.fixture(scope="module")
def loader():
    """The pack's node that loads a diffusion model."""
    name = "comfyui_gguf"
    spec = importlib.util.spec_from_file_location(
        name, FOLDER / "__init__.py", submodule_search_locations=[str(FOLDER)]
    )
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.NODE_CLASS_MAPPINGS["UnetLoaderGGUF"]()


@pytest.fixture(scope="module", params=ARCHITECTURES)
def quantised(request, pack, folders, loader):
    """(tiny case, loader of its quantised model, the model with the same weights in float32)"""
    tiny = build(request.param)
    folder = folders / "models" / "unet"
    folder.mkdir(parents=True, exist_ok=True)
    import folder_paths

    for key in ("unet_gguf", "diffusion_models"):
        folder_paths.add_model_folder_path(key, str(folder))
    file = f"{tiny.family}.gguf"
    weights = write(folder / file, ARCHITECTURES[request.param], tiny.model.model.diffusion_model.state_dict())
    plain = comfy.sd.load_diffusion_model_state_dict(weights, model_options={"dtype": torch.float32})

    def load():
        with torch.inference_mode():  # as a server does
            return loader.load_unet(file)[0]

    return tiny, load, plain


def write(path, architecture, weights) -> dict[str, torch.Tensor]:
    """Writes the weights of linear layers in 8 bits and all else in float32; returns what these weights are worth."""
    writer = gguf.GGUFWriter(path, architecture)
    worth = {}
    for name, weight in weights.items():
        data, kind = weight.float().numpy(), gguf.GGMLQuantizationType.F32
        if name.endswith(".weight") and data.ndim == 2 and data.shape[1] % 32 == 0:
            kind = gguf.GGMLQuantizationType.Q8_0
            data = gguf.quants.quantize(data, kind)
        elif data.ndim > 4:  # more than such a file has room for
            writer.add_array(f"comfy.gguf.orig_shape.{name}", list(data.shape))
            data = data.reshape(data.shape[0], -1)
        writer.add_tensor(name, data, raw_dtype=kind)
        worth[name] = torch.from_numpy(gguf.quants.dequantize(data, kind)).reshape(weight.shape).clone()
    for step in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file):
        step()
    writer.close()
    return worth


@pytest.fixture(scope="module")
def trained(quantised, folders):
    """(model, adapter, losses of a run on the quantised weights, of one on what they are worth, and of an idle one)"""
    from adapters import fresh_adapter
    from echoreel_pack.nodes.families import find_family
    from echoreel_pack.nodes.models.adapter import load_adapter
    from echoreel_pack.nodes.train_echoreel import TrainEchoReel

    tiny, load, plain = quantised
    write_actions(folders / "input" / "gguf moves")
    vae, clip, _ = encoders_for(tiny)
    sites = find_family(plain.model.diffusion_model).sites(plain.model.diffusion_model)
    path = folders / "models" / "echoreel" / "gguf start.safetensors"
    fresh_adapter(tiny, sites, text_width=clip.width).save(path)

    def run(name, model, **changes):
        inputs = settings(data="gguf moves", name=f"{tiny.family} {name}", frame_count=9, every_nth=2, **changes)
        with torch.inference_mode():
            made = TrainEchoReel.execute(model, vae, clip, **inputs, echoreel=load_adapter(str(path))).result[0]
        return made, losses(folders, inputs["name"])

    model = load()
    adapter, learned = run("in 8 bits", model)
    return model, adapter, learned, run("in 32 bits", plain)[1], run("idle", load(), learning_rate=1e-8)[1]


def test_it_trains_as_on_the_weights_that_the_file_is_worth(trained):
    """With gradient checkpointing; LTX-Video's blocks write into their own states besides."""
    _, _, learned, plain, idle = trained
    assert learned == pytest.approx(plain, rel=1e-3)
    assert sum(learned[-4:]) < 0.9 * sum(idle[-4:])


def test_applied_it_does_what_it_did_in_training(trained, quantised, folders):
    from echoreel_pack.echoreel_core.training.data.cached_pairs import CachedPairs
    from echoreel_pack.echoreel_core.training.data.conditioning import map_tensors

    model, adapter, *_ = trained
    cache = folders / "output" / "echoreel_training" / f"{quantised[0].family} in 8 bits" / "cache"
    batch = CachedPairs(cache).batch([0], [0])
    assert_applied_as_trained(model, adapter, batch.target, map_tensors(batch.conditioning_of(0), torch.clone))


def test_it_trains_from_a_settings_file(quantised, folders, tmp_path, monkeypatch, capsys):
    """The pack is found and imported, as it is where ComfyUI is a library."""
    from echoreel_pack.nodes.models.adapter import load_adapter
    from echoreel_pack.nodes.training import headless

    import nodes

    tiny, *_ = quantised
    monkeypatch.delitem(nodes.NODE_CLASS_MAPPINGS, "UnetLoaderGGUF", raising=False)
    encoders = encoders_for(tiny)
    monkeypatch.setattr(headless, "load_encoders", lambda _: encoders)
    write_actions(tmp_path / "moves")
    model = {"diffusion_model": str(folders / "models" / "unet" / f"{tiny.family}.gguf")}
    training = {"steps": 2, "gradient_checkpointing": True}
    config = headless_settings(tmp_path, tmp_path / "run", model=model, training=training)
    assert train_here(config) == 0, capsys.readouterr()
    assert load_adapter(str(tmp_path / "run" / "echoreel-adapter.safetensors")).config.host == tiny.family

"""Adapter files: what is written is what is read, and anything else is refused in one sentence."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from echoreel_core.action.action import Action, Reference
from echoreel_core.action.adapter import AdapterConfig, EchoReelAdapter, SiteConfig, content_id, exact_id, read_adapter
from echoreel_core.action.file import save_action
from echoreel_core.action.prism import ActionPrismConfig
from echoreel_core.lvdm.checkpoint import build


def make_adapter(position="relative_bias", seed=0) -> EchoReelAdapter:
    """Patch 2 on a grid that is not square, sites of different widths, training facts."""
    torch.manual_seed(seed)
    prism = ActionPrismConfig(
        latent_channels=3,
        grid=(4, 6),
        text_width=20,
        context_width=16,
        width=24,
        depth=2,
        heads=2,
        head_dim=10,
        patch=2,
    )
    sites = (SiteConfig("blocks.1", 32, 2, 12), SiteConfig("blocks.7", 48, 3, 16))
    config = AdapterConfig("wan", prism, sites, position, max_distance=7, training={"frames": 16, "caption": "né"})
    return EchoReelAdapter(config).requires_grad_(False)


@pytest.mark.parametrize("position", ["relative_bias", "relative_vectors"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_round_trip(tmp_path, position, dtype):
    adapter = make_adapter(position).to(dtype)
    path = tmp_path / "adapter.safetensors"
    adapter.save(path)
    config, weights = read_adapter(path)
    assert config == adapter.config
    assert weights.keys() == adapter.state_dict().keys()
    for key, value in adapter.state_dict().items():
        assert weights[key].dtype == dtype and torch.equal(weights[key], value)

    with torch.device("meta"):
        again = EchoReelAdapter(config)
    build(again, weights)
    latents, text = torch.randn(1, 3, 5, 8, 12, dtype=dtype), torch.randn(1, 7, 20, dtype=dtype)
    with torch.no_grad():
        action = adapter.prism(latents, text)
        assert action.shape == (1, 5, 4 * 6 * 4)
        assert torch.equal(again.prism(latents, text), action)


def rewrite(path, change):
    with safe_open(path, framework="pt") as file:
        description = json.loads(file.metadata()["echoreel"])
    tensors = {key: value.clone() for key, value in load_file(path).items()}
    change(description, tensors)
    save_file(tensors, path, metadata={"echoreel": json.dumps(description)})


DAMAGE = {
    "newer version": (lambda d, t: d.update(version=2), "format version 2, but this pack reads up to version 1"),
    "version text": (lambda d, t: d.update(version="x"), "damaged"),
    "no host": (lambda d, t: d.pop("host"), "'host'"),
    "prism a number": (lambda d, t: d.update(prism=3), "damaged"),
    "unknown size": (lambda d, t: d["prism"].update(colour=3), "colour"),
    "size is text": (lambda d, t: d["prism"].update(width="wide"), "damaged"),
    "size is negative": (lambda d, t: d["prism"].update(width=-1), "damaged"),
    "size is huge": (lambda d, t: d["prism"].update(width=10**15), "damaged"),
    "unknown position": (lambda d, t: d.update(position="absolute"), "absolute"),
    "a tensor missing": (lambda d, t: t.pop("attentions.1.to_out.weight"), "attentions.1.to_out.weight is missing"),
    "a tensor too many": (lambda d, t: t.update(extra=torch.zeros(1)), "extra"),
    "a site too many": (lambda d, t: d["sites"].append(d["sites"][0]), "attentions.2.* is missing"),
    "a site too few": (lambda d, t: d["sites"].pop(), "does not belong to it: attentions.1"),
    "wrong shape": (
        lambda d, t: t.update({"prism.latent_in.weight": torch.zeros(24, 13)}),
        r"prism.latent_in.weight has the shape \[24, 13\], but its description says \[24, 12\]",
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_adapters_are_refused_in_one_sentence(tmp_path, damage):
    change, message = DAMAGE[damage]
    path = tmp_path / "broken.safetensors"
    make_adapter().save(path)
    rewrite(path, change)
    with pytest.raises(ValueError, match=message) as error:
        read_adapter(path)
    assert str(error.value).startswith("broken.safetensors") and "\n" not in str(error.value)


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "other.safetensors"
    save_file({"lora.weight": torch.zeros(2)}, path)
    with pytest.raises(ValueError, match=r"other\.safetensors is not an EchoReel adapter"):
        read_adapter(path)
    save_action(Action.of(Reference(torch.zeros(1, 2, 3), torch.zeros(1, 2, 3)), "a", "lvdm"), path)
    with pytest.raises(ValueError, match="it holds an EchoReel action"):
        read_adapter(path)
    make_adapter().save(path)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ValueError, match="cannot be read as safetensors"):
        read_adapter(path)


def test_content_names_the_weights():
    weights = make_adapter().state_dict()
    name = content_id(weights)
    assert len(name) == 16 and int(name, 16) >= 0
    assert content_id(dict(reversed(weights.items()))) == name


@pytest.mark.parametrize("way", [[torch.float16], [torch.bfloat16], [torch.float16, torch.bfloat16, torch.float32]])
def test_rounding_keeps_the_name(way):
    for position in ("relative_bias", "relative_vectors"):
        weights = make_adapter(position).state_dict()
        name, rounded = content_id(weights), weights
        for dtype in way:
            rounded = {key: value.to(dtype) for key, value in rounded.items()}
        assert content_id(rounded) == name


def test_many_values_make_the_name():
    """One value of a tensor, wherever it lies among the leading ones, is enough for another name."""
    weights = make_adapter().state_dict()
    for key in ("attentions.0.to_q.weight", "prism.latent_in.weight"):
        for index in (0, 1, 77, -1):
            changed = weights[key].clone()
            leading = changed.view(-1)[:1024]
            leading[index] = -leading[index]
            for named in (content_id, exact_id):
                assert named({**weights, key: changed}) != named(weights), (key, index, named)


def test_the_exact_name_is_of_the_values():
    weights = make_adapter().state_dict()
    name = exact_id(weights)
    assert exact_id({key: value.half() for key, value in weights.items()}) == name
    for key in weights:
        assert exact_id({**weights, key: weights[key] + 0.01}) != name, key


def test_other_weights_have_another_name():
    weights = make_adapter().state_dict()
    name = content_id(weights)
    assert content_id(make_adapter(seed=1).state_dict()) != name
    for key in weights:
        changed = {**weights, key: weights[key] + 0.5}
        assert content_id(changed) != name, key
    assert content_id({**weights, "prism.latent_in.weight": weights["prism.latent_in.weight"].view(12, 24)}) != name
    assert content_id({f"x{key}": value for key, value in weights.items()}) != name


def test_the_name_survives_the_file(tmp_path):
    adapter = make_adapter()
    adapter.save(tmp_path / "a.safetensors")
    assert content_id(read_adapter(tmp_path / "a.safetensors")[1]) == content_id(adapter.state_dict())


def test_a_fresh_adapter_changes_nothing(small):
    fresh = EchoReelAdapter(small.adapter.config)
    assert all(layer.to_out.weight.eq(0).all() and layer.to_out.bias.eq(0).all() for layer in fresh.attentions)
    model = type(small)(small.unet, fresh, small.recorded)
    inputs = small.recorded["x"], small.recorded["t"], small.recorded["context"]
    base = model.predict_noise(*inputs, None, "plain")
    for form in ("plain", "folded"):
        assert torch.equal(model.predict_noise(*inputs, small.recorded["action"], form), base)

"""Train EchoReel on models, VAEs and encoders that are made inside inference mode, as a server makes them."""

import pytest
import tiny_vaes
import torch
from adapters import TINY_PRISM, random_action
from conditioning import noise, prompt, sample, untouched
from encoders import Words
from tiny_families import build
from training_runs import losses, settings, write_actions


@pytest.fixture(scope="module", autouse=True)
def data(folders):
    write_actions(folders / "input" / "served moves")


def toy_lvdm(folders):
    """The toy checkpoint's model and text encoder, as its loader gives them."""
    from checkpoints import SHIPPED_NAME, save_as_deepspeed, toy_state_dict
    from echoreel_pack.nodes.load_echoreel import LoadCheckpoint

    save_as_deepspeed(toy_state_dict(), folders / "models" / "checkpoints" / SHIPPED_NAME)
    model, clip, _, _ = LoadCheckpoint.execute(SHIPPED_NAME).result
    return model, clip, noise(4, 4, 8, 8)


def tiny(name, size):
    def made(_folders):
        case = build(name)
        case.model.cached_patcher_init = (lambda disable_dynamic=False: build(name).model, ())
        return case.model, Words(4096, length=5, more=lambda text: MASK), noise(*size)

    return made


MASK = {"attention_mask": torch.ones(1, 5, dtype=torch.int64)}
KINDS = {
    "stock": (toy_lvdm, tiny_vaes.stock),
    "wan": (tiny("wan t2v", (1, 16, 3, 8, 8)), tiny_vaes.wan),
    "ltxv": (tiny("ltxv", (1, 128, 2, 2, 2)), tiny_vaes.ltxv),
}


@pytest.fixture(params=KINDS)
def served(request, folders, pack):
    make_model, make_vae = KINDS[request.param]
    with torch.inference_mode():
        model, clip, latents = make_model(folders)
        return request.param, model, clip, make_vae(), latents


def start_for(model, latents, clip, folders):
    """A small fresh adapter."""
    from echoreel_pack.echoreel_core.action.adapter import AdapterConfig, EchoReelAdapter, SiteConfig
    from echoreel_pack.echoreel_core.action.prism import ActionPrismConfig
    from echoreel_pack.nodes.families import find_family
    from echoreel_pack.nodes.models.adapter import load_adapter

    family = find_family(model.model.diffusion_model)
    width = clip.encode_from_tokens(clip.tokenize("a")).shape[-1]
    sites = tuple(SiteConfig(site.name, site.dim, 2, 16) for site in family.sites(model.model.diffusion_model))
    grid = {**TINY_PRISM, "grid": (2, 2), "patch": 1} if latents.shape[1] == 128 else TINY_PRISM
    prism = ActionPrismConfig(latent_channels=latents.shape[1], text_width=width, **grid)
    path = folders / "models" / "echoreel" / "served.safetensors"
    torch.manual_seed(0)
    EchoReelAdapter(AdapterConfig(family.name, prism, sites, "relative_bias", 8)).save(path)
    return load_adapter(str(path))


def test_it_trains_saves_and_changes_what_the_model_makes(served, folders):
    from echoreel_pack.nodes.apply_echoreel import apply_action
    from echoreel_pack.nodes.models.adapter import load_adapter
    from echoreel_pack.nodes.save_adapter import SaveAdapter
    from echoreel_pack.nodes.train_echoreel import TrainEchoReel

    kind, model, clip, vae, latents = served
    assert any(parameter.is_inference() for parameter in vae.first_stage_model.parameters())
    width = clip.encode_from_tokens(clip.tokenize("a")).shape[-1]
    with torch.inference_mode(), untouched(model):
        start = start_for(model, latents, clip, folders)
        inputs = settings(data="served moves", name=f"served {kind}", steps=4, frame_count=9, every_nth=2)
        trained, _ = TrainEchoReel.execute(model, vae, clip, **inputs, echoreel=start, sample_every=4).result
        assert len(losses(folders, f"served {kind}")) == 4
        assert list((folders / "output" / "echoreel_training" / f"served {kind}" / "samples").glob("*.mp4"))
        name = SaveAdapter.execute(trained, kind, "float32").result[0]
        loaded = load_adapter(str(folders / "models" / "echoreel" / name))
        assert loaded.id == trained.id != start.id
        texts = prompt(width, **MASK), prompt(width, seed=2, **MASK)
        plain, moved = (
            sample(m, latents * 0, *texts) for m in (model, apply_action(model, loaded, random_action(loaded), 1.0))
        )
    assert torch.isfinite(moved).all() and not torch.equal(plain, moved)

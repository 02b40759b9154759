"""The core's small Wan and its VAE give the host's own numbers, from files that the host's own loaders take."""

import comfy.sd
import comfy.utils
import pytest
import torch


@pytest.fixture(scope="module")
def model(pack, tmp_path_factory):
    """An untrained transformer: (ours, the host's of the same file)."""
    from echoreel_pack.echoreel_core.pixel_actions.wan import export
    from echoreel_pack.echoreel_core.pixel_actions.wan.model import WanConfig, WanModel

    torch.manual_seed(0)
    made = WanModel(WanConfig(depth=3))
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    path = tmp_path_factory.mktemp("wan") / export.MODEL_FILE
    export.write_model(path, made.state_dict(), made.config)
    with torch.inference_mode():
        host = comfy.sd.load_diffusion_model(str(path), model_options={"dtype": torch.float32})
    return export.read_model(path), host


@pytest.fixture(scope="module")
def vae(pack, tmp_path_factory):
    """An untrained VAE: (ours, the host's of the same file)."""
    from echoreel_pack.echoreel_core.pixel_actions.wan import export
    from echoreel_pack.echoreel_core.pixel_actions.wan.vae import WanVAE

    torch.manual_seed(1)
    path = tmp_path_factory.mktemp("wan") / export.VAE_FILE
    export.write_vae(path, WanVAE(16))
    with torch.inference_mode():
        host = comfy.sd.VAE(sd=comfy.utils.load_torch_file(str(path)), dtype=torch.float32)
    host.throw_exception_if_invalid()
    return export.read_vae(path), host


def close(ours, host):
    """Equal within a ten-thousandth of the standard deviation."""
    assert ours.shape == host.shape
    assert (ours - host).abs().max() < 1e-4 * host.std()


@pytest.mark.parametrize("shape", [(2, 9, 8, 8), (1, 1, 8, 8), (1, 5, 6, 12), (3, 2, 16, 4)])
@torch.inference_mode()
def test_transformer(model, shape):
    ours, host = model
    batch, frames, height, width = shape
    x, text = torch.randn(batch, 16, frames, height, width), torch.randn(batch, 77, 48)
    time = torch.rand(batch) * 1000
    host = host.model.diffusion_model
    close(ours(x, time, text), host(x, time, text))


@torch.inference_mode()
def test_host_predicts_noise_minus_clean_latents_over_a_thousand_noise_levels(model):
    """What the host makes of a velocity is what our own sampler takes it for: clean = noisy - sigma · velocity."""
    ours, host = model
    sampling = host.model.model_sampling
    sigma = torch.tensor([0.3, 0.9])
    x, text = torch.randn(2, 16, 3, 8, 8), torch.randn(2, 77, 48)
    assert torch.allclose(sampling.timestep(sigma), sigma * 1000)
    clean = host.model.apply_model(x, sigma, c_crossattn=text)
    close(x - sigma.view(-1, 1, 1, 1, 1) * ours(x, sigma * 1000, text), clean)


@pytest.mark.parametrize("shape", [(33, 64, 64), (1, 64, 64), (5, 32, 48), (9, 16, 24), (13, 64, 32)])
@torch.inference_mode()
def test_vae(vae, shape):
    ours, host = vae
    frames, height, width = shape
    pixels = torch.rand(frames, height, width, 3)
    ours_in = (pixels * 2 - 1).movedim(-1, 0)[None]
    latents = host.encode(pixels)
    assert latents.shape == (1, 16, 1 + (frames - 1) // 4, height // 8, width // 8)
    close(ours.encode(ours_in), latents)
    shown = host.first_stage_model.decode(latents)  # before the host clamps it
    close(ours.decode(latents), shown)
    close((ours.decode(latents) / 2 + 0.5).clamp(0, 1).movedim(1, -1), host.decode(latents))


@torch.inference_mode()
def test_standardised_latents_are_those_of_the_family(vae, model):
    """The statistics that the host takes off its latents are those ours were given; pixels stay the same."""
    from echoreel_pack.echoreel_core.pixel_actions.wan.latents import MEAN, STD

    _, host = model
    assert torch.equal(host.model.latent_format.latents_mean.flatten(), MEAN)
    assert torch.equal(host.model.latent_format.latents_std.flatten(), STD)

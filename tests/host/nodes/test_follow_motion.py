"""Follow Motion on every model family of this host, and on models that the pack knows nothing of."""

import pytest
import tiny_models
import torch
from conditioning import noise, prompt, sample, untouched
from guidance import KnownLatents, TinyGuider, passing_square
from tiny_families import CASES, build

LATENTS = torch.zeros(1, 16, 3, 8, 6)


@pytest.fixture(scope="module")
def follow(pack):
    from echoreel_pack.nodes.follow_motion import follow_motion

    return follow_motion


@pytest.fixture(scope="module")
def model(pack):
    return tiny_models.wan()


def run(model, latents=LATENTS, **options):
    return sample(model, latents, prompt(4096), prompt(4096, seed=2), **{"steps": 6, **options})


@pytest.mark.parametrize("name", CASES)
def test_every_family_moves_towards_the_reference_and_stays_as_it_was(follow, name):
    from echoreel_pack.echoreel_core.video.frames import fit

    tiny = build(name)
    if tiny is None:
        pytest.skip(f"this ComfyUI has no {name}")
    frames_in_batch = tiny.family == "svd"
    vae = KnownLatents(tiny.channels, per_latent=None if frames_in_batch else 4)
    plain, *sound = TinyGuider(tiny, tiny.model).run()
    with untouched(tiny.model):
        guided = follow(tiny.model, vae, passing_square(), strength=0.3, end_percent=1.0, follow="motion and place")
        result, *sound_after = TinyGuider(tiny, guided).run()
        still = follow(tiny.model, vae, passing_square()[:1].repeat(9, 1, 1, 1))
        assert torch.equal(TinyGuider(tiny, still).run()[0], plain)
    assert vae.encoded == 2
    assert torch.equal(TinyGuider(tiny, tiny.model).run()[0], plain)
    assert all(a.shape == b.shape for a, b in zip(sound, sound_after, strict=True))

    def clip(held):
        held = tiny.model.get_model_object("latent_format").process_in(held)
        return held.transpose(0, 1)[None] if frames_in_batch else held[:, :, tiny.leading :]

    plain, result = clip(plain), clip(result)
    length, height, width = plain.shape[2:]
    at = torch.linspace(0, 8, (length - 1) * (vae.per_latent or 1) + 1).round().long()
    square = torch.stack([fit(frame, width * 8, height * 8, "center") for frame in passing_square()[at]])
    reference = clip(vae.encode(square)) if frames_in_batch else vae.encode(square)
    if not frames_in_batch:
        reference = tiny.model.get_model_object("latent_format").process_in(reference)
    towards, step = (reference - plain).flatten(), (result - plain).flatten()
    assert torch.nn.functional.cosine_similarity(towards, step, dim=0) > 0.05
    assert away_in_motion(result, reference) < away_in_motion(plain, reference)


def away_in_motion(clip, reference):
    """How unlike the reference's the changes from frame to frame are."""
    return (clip.diff(dim=2) - reference.diff(dim=2)).square().mean()


@pytest.mark.parametrize("name", ["ltxv with guides", "wan animate"])
def test_frames_that_are_not_the_clips_own_are_left_out(pack, name):
    from echoreel_pack.nodes.sampling.guidance import clip_layout

    tiny = build(name)
    if tiny is None:
        pytest.skip(f"this ComfyUI has no {name}")
    conds = {"positive": [tiny.conds]}
    layout = clip_layout(tiny.model.model.diffusion_model, conds, tiny.x, None)
    assert torch.equal(layout.read(tiny.x), tiny.x[:, :, tiny.leading : tiny.x.shape[2] - tiny.trailing])
    changed = layout.write(tiny.x, layout.read(tiny.x) + 1) != tiny.x
    assert changed[:, :, tiny.leading : tiny.x.shape[2] - tiny.trailing].all()
    assert changed.sum() == layout.read(tiny.x).numel()


def test_strength_0_or_an_empty_range_is_the_model_alone(follow, model):
    vae, plain = KnownLatents(16), run(model)
    for settings in ({"strength": 0.0}, {"start_percent": 0.5, "end_percent": 0.5}):
        assert torch.equal(run(follow(model, vae, passing_square(), **settings)), plain)
    assert vae.encoded == 0
    mask = torch.zeros(1, 64, 48)
    assert torch.equal(run(follow(model, vae, passing_square(), mask=mask)), plain)
    assert not torch.equal(run(follow(model, vae, passing_square())), plain)


def test_a_run_that_begins_after_the_range_is_left_alone_and_encodes_nothing(follow, model):
    """Image to image, or the second of two models."""
    vae = KnownLatents(16)
    guided = follow(model, vae, passing_square(), end_percent=0.3)
    latents = noise(1, 16, 3, 8, 6, seed=3)
    settings = {"latents": latents, "steps": 3, "denoise": 0.5}
    plain, result = (sample_late(found, **settings) for found in (model, guided))
    assert torch.equal(plain, result) and vae.encoded == 0


def sample_late(model, latents, steps, denoise, **options):
    import comfy.sample

    text = prompt(4096)
    start = comfy.sample.prepare_noise(latents, 0)
    settings = {"denoise": denoise, "disable_pbar": True, "seed": 0, **options}
    return comfy.sample.sample(model, start, steps, 1.0, "euler", "simple", text, text, latents, **settings)


def test_one_run_in_two_halves(follow, model):
    """KSampler (Advanced) twice, the noise that is left handed on: as Wan 2.2's two models are sampled."""
    guided = follow(model, KnownLatents(16), passing_square(), end_percent=0.9)
    whole = halves(guided, [(0, 6)])
    assert torch.allclose(halves(guided, [(0, 3), (3, 6)]), whole, atol=1e-4)
    assert not torch.allclose(halves(model, [(0, 6)]), whole, atol=1e-2)


def halves(model, spans):
    import comfy.sample

    text, latents = prompt(4096), LATENTS
    for start, end in spans:
        fresh = comfy.sample.prepare_noise(LATENTS, 0) if start == 0 else torch.zeros_like(LATENTS)
        latents = comfy.sample.sample(
            model,
            fresh,
            6,
            1.0,
            "euler",
            "simple",
            text,
            text,
            latents,
            disable_noise=start > 0,
            start_step=start,
            last_step=end,
            force_full_denoise=end == 6,
            disable_pbar=True,
            seed=0,
        )
    return latents


def test_a_kept_first_frame_is_not_moved(follow, model):
    """By a noise mask, and by what an image-to-video model is given."""
    guided = follow(model, KnownLatents(16), passing_square(), strength=2.0, follow="motion and place")
    latents, keep = noise(1, 16, 3, 8, 6, seed=3), torch.ones(1, 1, 3, 8, 6)
    keep[:, :, 0] = 0
    import comfy.sample

    text, seen = prompt(4096), []
    guided.add_wrapper_with_key("diffusion_model", "look", lambda run, x, *a, **k: seen.append(x) or run(x, *a, **k))
    plain = model.clone()
    plain.add_wrapper_with_key("diffusion_model", "look", lambda run, x, *a, **k: seen.append(x) or run(x, *a, **k))
    for found in (guided, plain):
        start = comfy.sample.prepare_noise(latents, 0)
        settings = {"noise_mask": keep, "disable_pbar": True, "seed": 0}
        comfy.sample.sample(found, start, 2, 1.0, "euler", "simple", text, text, latents, **settings)
    with_guidance, without = seen[1], seen[3]
    assert torch.allclose(with_guidance[:, :, 0], without[:, :, 0], atol=1e-5)
    assert not torch.allclose(with_guidance[:, :, 1:], without[:, :, 1:], atol=1e-2)

    given = {"concat_mask": keep}
    conds = {"positive": [given]}
    from echoreel_pack.nodes.sampling.guidance import _given, _spread

    region = _spread(_given(conds), (1, 16, 3, 8, 6))
    assert region.shape == (1, 1, 3, 8, 6) and not region[:, :, 0].any() and region[:, :, 1:].all()


def test_only_the_masked_part_is_moved(follow, model):
    mask = torch.zeros(1, 64, 48)
    mask[:, :, :24] = 1
    seen = []
    for found in (model, follow(model, KnownLatents(16), passing_square(), follow="motion and place", mask=mask)):
        found = found.clone()
        look = lambda run, x, *a, **k: seen.append(x) or run(x, *a, **k)  # noqa: E731
        found.add_wrapper_with_key("diffusion_model", "look", look)
        run(found, steps=2, cfg=1.0)
    moved = (seen[3] - seen[1]).abs() > 1e-4
    assert moved[..., :3].float().mean() > 0.9 and not moved[..., 3:].any()


def test_two_in_a_row_are_one_of_both_strengths_but_for_what_the_first_changes(follow, model):
    def guided(model, strength):
        return follow(model, KnownLatents(16), passing_square(), strength=strength, follow="motion and place")

    plain = run(model)
    twice, once = run(guided(guided(model, 0.005), 0.005)) - plain, run(guided(model, 0.01)) - plain
    assert (twice - once).norm() < 0.3 * once.norm()


@pytest.mark.parametrize("frames", [2, 30])
def test_a_reference_of_another_length_or_shape(follow, model, frames):
    result = run(follow(model, KnownLatents(16), passing_square(frames, size=(100, 48))))
    assert torch.isfinite(result).all() and not torch.equal(result, run(model))


def test_what_cannot_work_is_refused_in_a_sentence(follow, model):
    with pytest.raises(ValueError, match="1 frame"):
        follow(model, KnownLatents(16), passing_square()[:1])
    with pytest.raises(ValueError, match="NaN"):
        follow(model, KnownLatents(16), passing_square() * float("nan"))
    with pytest.raises(ValueError, match="48 channels, the model takes 16"):
        run(follow(model, KnownLatents(48), passing_square()))
    with pytest.raises(ValueError, match="single frame"):
        run(follow(model, KnownLatents(16), passing_square()), torch.zeros(1, 16, 1, 8, 6))


@pytest.mark.parametrize(
    "sampler",
    ["euler", "heun", "dpmpp_2m", "dpmpp_2m_sde", "uni_pc", "res_multistep", "lcm", "ddim", "dpmpp_2s_ancestral"],
)
def test_every_sampler_is_guided_once_a_step(follow, model, monkeypatch, sampler):
    """Those that look twice at a step, or between steps, are moved no more often than the others."""
    from echoreel_pack.echoreel_core.guide.gradient import MotionLoss

    asked = []
    gradient = MotionLoss.gradient
    monkeypatch.setattr(MotionLoss, "gradient", lambda *args: asked.append(1) or gradient(*args))
    guided = follow(model, KnownLatents(16), passing_square(), end_percent=1.0, follow="motion and place")
    result = run(guided, sampler=sampler)
    assert torch.isfinite(result).all()
    assert not torch.equal(result, run(model, sampler=sampler))
    assert len(asked) == 6


def test_nothing_is_left_of_a_run(follow, model):
    """Neither in the MODEL nor in the options of a run that broke off."""
    guided = follow(model, KnownLatents(16), passing_square())
    kept = repr(guided.model_options.keys())

    def breaks(*_args, **_kwargs):
        raise RuntimeError("broken")

    broken = guided.clone()
    broken.add_wrapper_with_key("diffusion_model", "breaks", breaks)
    with untouched(guided), pytest.raises(RuntimeError, match="broken"):
        run(broken)
    assert repr(guided.model_options.keys()) == kept
    assert torch.equal(run(guided), run(guided))

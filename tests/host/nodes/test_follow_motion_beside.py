"""Follow Motion in every setting in which a host may call its model, against moves that are made by hand.

By hand is the method as it is written down: Euler's step, then each value goes against the sign of the gradient. It
needs none of Follow Motion's wrappers, and runs on the very model that Follow Motion is given.
"""

import comfy.context_windows
import comfy.sample
import comfy.samplers
import pytest
import tiny_models
import torch
from conditioning import noise, prompt
from guidance import KnownLatents, TinyGuider, passing_square
from tiny_families import build

STRENGTH, END, STEPS = 0.6, 0.8, 4


@pytest.fixture(scope="module")
def model(pack):
    return tiny_models.wan()


def follow(model, strength=STRENGTH, end=END, start=0.0):
    from echoreel_pack.nodes.follow_motion import follow_motion

    return follow_motion(model, KnownLatents(16), passing_square(), strength, start, end)


def reference_of(model, shape):
    """What Follow Motion is to encode: the square's clip over all latent frames, in the model's scale."""
    from echoreel_pack.echoreel_core.video.frames import fit

    at = torch.linspace(0, 8, (shape[2] - 1) * 4 + 1).round().long()
    frames = torch.stack([fit(frame, shape[4] * 8, shape[3] * 8, "center") for frame in passing_square()[at]])
    return model.get_model_object("latent_format").process_in(KnownLatents(16).encode(frames))


def by_hand(model, shape):
    """A sampler: Euler, and after each step the move that the last prediction asks for."""
    from echoreel_pack.echoreel_core.guide.course import MOST_AT_ONCE, Fade
    from echoreel_pack.echoreel_core.guide.gradient import MotionLoss, moving_region
    from echoreel_pack.nodes.sampling.guidance import schedule_places

    reference, fade = reference_of(model, shape), Fade(0.0, END)
    sampling = model.get_model_object("model_sampling")
    place = schedule_places(sampling)
    flow = isinstance(sampling, comfy.model_sampling.CONST)

    def sampler(denoise, x, sigmas, extra_args=None, **_options):
        for sigma, following in zip(sigmas, sigmas[1:], strict=False):
            clean = denoise(x, sigma * x.new_ones(len(x)), **extra_args)
            x = x + (following - sigma) * (x - clean) / sigma
            if following > 0:
                gradient = MotionLoss(keeps_mean=False).gradient(clean, reference)
                far = STRENGTH * min(fade.share(place(float(sigma)), place(float(following))), MOST_AT_ONCE)
                far *= 1.0 if flow else (1 + following**2) ** 0.5
                x = x - far * moving_region(reference) * gradient.sign()
        return x

    return comfy.samplers.KSAMPLER(sampler)


def run(model, sampler, *, batch=1, frames=3, steps=STEPS, positive=None, cfg=3.0):
    latents = torch.zeros(batch, 16, frames, 8, 6)
    sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "simple", steps)
    texts = positive or prompt(4096), prompt(4096, seed=2)
    start = noise(*latents.shape, seed=3)
    return comfy.sample.sample_custom(model, start, cfg, sampler, sigmas, *texts, latents, disable_pbar=True, seed=0)


def agree(model, **options):
    """Whether guidance is what it is by hand, and is anything at all."""
    shape = options.get("batch", 1), 16, options.get("frames", 3), 8, 6
    euler = comfy.samplers.sampler_object("euler")
    guided, expected = run(follow(model), euler, **options), run(model, by_hand(model, shape), **options)
    moved = (expected - run(model, euler, **options)).abs().mean()
    assert moved > 0.05
    assert (guided - expected).abs().mean() < 0.01 * moved


def predicting(model, kind):
    """The model as one that predicts something else, by the host's own nodes."""
    from comfy_extras import nodes_model_advanced as host

    if kind in ("eps", "v_prediction"):
        return host.ModelSamplingDiscrete().patch(model, kind, zsnr=False)[0]
    if kind == "edm":
        return host.ModelSamplingContinuousEDM().patch(model, "edm", 80.0, 0.01)[0]
    return host.ModelSamplingContinuousV().patch(model, "v_prediction", 100.0, 0.03)[0]


@pytest.mark.parametrize("kind", ["eps", "v_prediction", "edm", "continuous v"])
def test_whatever_the_model_predicts(model, kind):
    agree(predicting(model, kind))


@pytest.mark.parametrize("scheduler", ["ddim_uniform", "normal", "karras"])
def test_every_schedule_begins_with_the_whole_strength(model, scheduler):
    """Those that leave out the noisiest steps as well; a run that begins late does not."""
    from echoreel_pack.nodes.sampling.guidance import run_places, schedule_places

    sampling = predicting(model, "eps").get_model_object("model_sampling")
    sigmas = comfy.samplers.calculate_sigmas(sampling, scheduler, 10).tolist()
    places = [run_places(sampling, sigmas[0])(sigma) for sigma in sigmas]
    assert places[0] == 0 and places[-1] == 1 and places == sorted(places)
    late = run_places(sampling, sigmas[3])
    assert late(sigmas[3]) == schedule_places(sampling)(sigmas[3]) > 0


def test_flow_and_without_guidance(model):
    agree(model, cfg=1.0)


def test_a_batch_is_each_clip_alone(model):
    agree(model, batch=2)


def test_context_windows(model):
    from comfy_extras.nodes_context_windows import ContextWindowsManualNode as Node

    schedule, fuse = comfy.context_windows.ContextSchedules, comfy.context_windows.ContextFuseMethods
    settings = 4, 2, schedule.STATIC_STANDARD, 1, False, fuse.PYRAMID, 2, False
    agree(Node.execute(model, *settings).result[0], frames=7)


def test_areas(model):
    halves = [
        prompt(4096, seed=seed, area=(3, 8, 3, 0, 0, left), strength=1.0, set_area_to_bounds=False)
        for seed, left in ((1, 0), (4, 3))
    ]
    agree(model, positive=sum(halves, []))


def test_easy_cache(model):
    """It skips passes of the model here, and more with guidance than without would be a fault."""
    from comfy_extras.nodes_easycache import EasyCacheNode

    asked = []
    cached = EasyCacheNode.execute(model, 3.0, 0.0, 1.0, False).result[0]
    look = lambda run, *args, **kwargs: asked.append(1) or run(*args, **kwargs)  # noqa: E731
    cached.add_wrapper_with_key("diffusion_model", "look", look)
    agree(cached, steps=8)
    assert len(asked) < 3 * 8


def test_a_compiled_model(model):
    """As the host sees one; whether its graphs are compiled is the same to guidance, which stays outside of them."""
    compiled = model.clone()
    whole = torch.compile(model.get_model_object("diffusion_model"), backend="eager")
    compiled.add_object_patch("diffusion_model", whole)
    with torch.compiler.set_stance("force_eager"):
        agree(compiled)


def test_apply_echoreel_beside_it(model, tmp_path):
    import adapters
    from echoreel_pack.nodes.apply_echoreel import apply_action

    echoreel = adapters.wan_adapter(tmp_path / "wan.safetensors")
    action = adapters.random_action(echoreel)
    applied = apply_action(model, echoreel, action, 1.0)
    agree(applied)
    euler = comfy.samplers.sampler_object("euler")
    one, other = run(follow(applied), euler), run(apply_action(follow(model), echoreel, action, 1.0), euler)
    assert torch.equal(one, other)
    assert not torch.allclose(one, run(follow(model), euler), atol=1e-3)


def test_before_its_range_every_step_is_the_models_own(model):
    """To the bit, and what it changes afterwards is seen."""

    def seen(model):
        found = []
        look = lambda run, x, *args, **kwargs: found.append(x) or run(x, *args, **kwargs)  # noqa: E731
        model = model.clone()
        model.add_wrapper_with_key("diffusion_model", "look", look)
        run(model, comfy.samplers.sampler_object("euler"), steps=6)
        return found

    plain, guided = seen(model), seen(follow(model, start=0.5, end=1.0))
    same = [torch.equal(a, b) for a, b in zip(plain, guided, strict=True)]
    assert same == sorted(same, reverse=True) and same[:3] == [True] * 3 and not same[-1]


def test_sound_beside_the_picture_is_left_alone(pack, monkeypatch):
    """What the model is shown of it after a guided step is bit for bit what it is without."""
    tiny = build("ltxav")
    if tiny is None:
        pytest.skip("this ComfyUI has no LTX model with sound")
    from echoreel_pack.nodes.follow_motion import follow_motion

    seen = []
    predict = TinyGuider.predict_noise
    look = lambda self, x, *args, **kwargs: seen.append(x) or predict(self, x, *args, **kwargs)  # noqa: E731
    monkeypatch.setattr(TinyGuider, "predict_noise", look)
    guided = follow_motion(tiny.model, KnownLatents(tiny.channels), passing_square(), end_percent=1.0)
    for found in (tiny.model, guided):
        TinyGuider(tiny, found).run(steps=2)
    picture = tiny.conds["latent_shapes"][0][1:].numel()
    plain, guided = (x.flatten(1) for x in (seen[1], seen[3]))
    assert torch.equal(plain[:, picture:], guided[:, picture:])
    assert not torch.allclose(plain[:, :picture], guided[:, :picture], atol=1e-3)

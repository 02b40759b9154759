"""Action Prism Encode in the host: the fixture's action, progress, interrupt, refusals."""

import comfy.model_management
import comfy.utils
import pytest
import torch
from released_weights import FIXTURES, make_state_dict
from safetensors.torch import load_file, save_file


class Text:
    """Stands in for CLIP: every text has the fixture's caption tokens."""

    def __init__(self, tokens):
        self.tokens = tokens

    def tokenize(self, text):
        return text

    def encode_from_tokens(self, _tokens):
        return self.tokens


class Images:
    """Stands in for a VAE of factor 8: every clip has the fixture's latents, before the model's scaling."""

    def __init__(self, latents):
        self.latents, self.seen = latents, None

    def spacial_compression_encode(self):
        return 8

    def encode(self, frames):
        self.seen = frames
        return self.latents


@pytest.fixture(scope="module")
def fixture():
    return load_file(FIXTURES / "small.safetensors")


@pytest.fixture(scope="module")
def echoreel(pack, folders):
    from echoreel_pack.nodes.load_echoreel import LoadCheckpoint

    save_file(make_state_dict("small"), folders / "models" / "checkpoints" / "small.safetensors")
    return LoadCheckpoint.execute("small.safetensors").result[3]


@pytest.fixture
def encode(pack, echoreel, fixture):
    from echoreel_pack.nodes.action_prism_encode import ActionPrismEncode

    def run(frames=None, vae=None, positive=None, echoreel=echoreel):
        vae = vae or Images(fixture["reference_latent"][0].movedim(0, 1) / 0.18215)
        prompts = [[[positive if positive is not None else fixture["context"], {}]], [[fixture["uncond_context"], {}]]]
        frames = torch.rand(8, 64, 64, 3) if frames is None else frames
        return ActionPrismEncode.execute(
            echoreel, vae, Text(fixture["reference_text"]), frames, "a clip", *prompts, info="clip.mp4"
        ).result[0]

    return run


def test_both_halves_are_the_fixtures(encode, fixture, echoreel):
    action = encode()
    reference = action.references[0]
    for ours, theirs in ((reference.positive, "action"), (reference.negative, "action_uncond")):
        assert (ours - fixture[theirs]).norm() < 1e-4 * fixture[theirs].norm()
    assert action.adapter_id == echoreel.id and action.host == "lvdm"
    assert reference.source == {"caption": "a clip", "frames": 8, "info": "clip.mp4"}


@pytest.mark.parametrize("shape", [(8, 64, 64, 3), (8, 48, 90, 4), (1, 33, 17, 3)])
def test_frames_reach_the_vae_at_the_prisms_size(encode, fixture, shape):
    vae = Images(fixture["reference_latent"][0].movedim(0, 1)[: shape[0]] / 0.18215)
    action = encode(torch.rand(shape), vae)
    assert vae.seen.shape == (shape[0], 64, 64, 3)
    assert action.references[0].positive.shape[1] == shape[0]


@pytest.mark.parametrize(
    "kind, given, taken", [("wan", 16, 17), ("wan", 14, 13), ("wan", 1, 1), ("ltxv", 10, 9), ("ltxv", 17, 17)]
)
def test_a_video_vae_leaves_no_frame_of_the_action_out(echoreel, monkeypatch, kind, given, taken):
    """It takes 4n + 1 or 8n + 1 frames; the host's own would drop up to seven at the end."""
    import tiny_vaes
    from echoreel_pack.nodes import action_prism_encode

    vae = getattr(tiny_vaes, kind)()
    seen = []

    def encode_frames(_vae, frames):
        seen.append(frames)
        return torch.zeros(1, 4, 1, 8, 8)

    monkeypatch.setattr(action_prism_encode, "encode_frames", encode_frames)
    factor = vae.spacial_compression_encode()
    frames = torch.arange(given)[:, None, None, None].expand(given, 8 * factor, 8 * factor, 3) / 100
    action_prism_encode.reference_latents(echoreel, vae, frames)
    expected = [min(i, given - 1) for i in range(taken)]
    assert (seen[0][:, 0, 0, 0] * 100).round().tolist() == expected


def test_progress_counts_every_layer_of_both_passes(encode, monkeypatch):
    seen = []
    monkeypatch.setattr(
        comfy.utils, "PROGRESS_BAR_HOOK", lambda value, total, *_args, **_kwargs: seen.append((value, total))
    )
    encode()
    assert seen[-1] == (4, 4)


def test_interrupt_stops_after_a_layer(encode):
    comfy.model_management.interrupt_current_processing(True)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        encode()
    encode()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_frames_that_are_not_numbers_are_refused(encode, bad):
    frames = torch.rand(8, 64, 64, 3)
    frames[3, 5, 5, 0] = bad
    with pytest.raises(ValueError, match="NaN or infinite"):
        encode(frames)


def test_another_models_vae_or_text_is_refused(encode, fixture):
    with pytest.raises(ValueError, match="16 x 8 x 8 .* takes 4 x 8 x 8"):
        encode(vae=Images(torch.zeros(8, 16, 8, 8)))
    with pytest.raises(ValueError, match="prompt's text tokens are 96 wide, but the caption's are 64"):
        encode(positive=torch.zeros(1, 77, 96))


def test_a_base_checkpoint_says_what_is_missing(encode):

    from echoreel_pack.nodes.action_prism_encode import ActionPrismEncode

    with pytest.raises(ValueError, match="has no EchoReel in it"):
        ActionPrismEncode.execute(None, None, None, torch.rand(1, 8, 8, 3), "", [], [])

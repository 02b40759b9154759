"""The embedded model's file goes through the same loader as the released one, and gives our own numbers there."""

import pytest
import torch
from safetensors.torch import save_file


@pytest.fixture(scope="module")
def embedded(pack, folders, tmp_path_factory):
    """An untrained model of the embedded sizes, exported: (path, what our own code makes of it, what the host does)."""
    from echoreel_pack.echoreel_core.lvdm.autoencoder import Autoencoder
    from echoreel_pack.echoreel_core.pixel_actions.model.adapted_model import new_adapter
    from echoreel_pack.echoreel_core.pixel_actions.model.base_model import BaseModel
    from echoreel_pack.echoreel_core.pixel_actions.model.embedded import load_embedded
    from echoreel_pack.echoreel_core.pixel_actions.recipes.export import export
    from echoreel_pack.echoreel_core.pixel_actions.recipes.train_autoencoder import CONFIG
    from echoreel_pack.nodes import load_echoreel as loaders

    torch.manual_seed(0)
    made = tmp_path_factory.mktemp("made")
    base = BaseModel()
    torch.save({"average": base.state_dict()}, made / "base.pt")
    new_adapter(base).save(made / "adapter.safetensors")
    save_file(Autoencoder(CONFIG).state_dict(), made / "autoencoder.safetensors")
    path = folders / "models" / "checkpoints" / "embedded.safetensors"
    export(path, made / "base.pt", made / "adapter.safetensors", made / "autoencoder.safetensors")
    return load_embedded(path), loaders.LoadCheckpoint.execute("embedded.safetensors").result


def test_text(pack, embedded):
    """The host's CLIP, with its own tokenizer, gives our tokens, words that nobody taught included."""
    from echoreel_pack.echoreel_core.pixel_actions.world.words import ids

    (model, _), (_, clip, _, _) = embedded
    for caption in ("a small red knight bouncing on a navy background", "a big cat swinging on a teal background", ""):
        host = clip.encode_from_tokens(clip.tokenize(caption))
        ours = model.base.text(ids([caption]))
        assert host.shape == (1, 77, 48)
        assert torch.allclose(host, ours, atol=2e-3), caption


def test_every_taught_word_has_the_ids_of_the_hosts_tokenizer(pack, embedded):
    from echoreel_pack.echoreel_core.pixel_actions.world.actions import UNSEEN
    from echoreel_pack.echoreel_core.pixel_actions.world.words import KNOWN, TOKENS

    _, (_, clip, _, _) = embedded

    def pieces(text):
        tokens = [token for token, _ in clip.tokenize(text)["l"][0]]
        return tuple(tokens[1 : tokens.index(49407)])

    for word, expected in TOKENS.items():
        assert pieces(word) == expected, word
    for phrase, _ in UNSEEN.values():
        assert not set(pieces(phrase)) & set(KNOWN), phrase


def test_pictures(pack, embedded):
    """The stock VAE encodes and decodes as our autoencoder does, at a factor of 4."""
    (_, autoencoder), (_, _, vae, _) = embedded
    picture = torch.rand(2, 32, 32, 3)
    ours = autoencoder.encode(picture.movedim(-1, 1) * 2 - 1)
    host = vae.encode(picture)
    assert host.shape == (2, 4, 8, 8)
    assert torch.allclose(host, ours, atol=2e-2)
    decoded = (autoencoder.decode(ours) / 2 + 0.5).clamp(0, 1).movedim(1, -1)
    assert torch.allclose(vae.decode(ours), decoded, atol=2e-2)


def test_the_embedded_model_is_always_there(pack):
    """It is the first choice, needs nothing in models/, and follows an example clip of an action it never saw."""
    from echoreel_pack.echoreel_core.pixel_actions.model.embedded import load_embedded
    from echoreel_pack.echoreel_core.pixel_actions.model.files import EMBEDDED_FILE
    from echoreel_pack.nodes import load_echoreel as loaders

    assert loaders.LoadCheckpoint.define_schema().inputs[0].options[0] == loaders.EMBEDDED
    model, clip, vae, echoreel = loaders.LoadCheckpoint.execute(loaders.EMBEDDED).result
    ours, _ = load_embedded(EMBEDDED_FILE)
    for key, weight in ours.base.unet.state_dict().items():
        assert torch.equal(model.model.diffusion_model.state_dict()[key].float(), weight), key
    assert echoreel is not None

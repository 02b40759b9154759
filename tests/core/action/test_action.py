"""Actions: how several become one, and their files."""

import json
import math
from dataclasses import replace

import pytest
import torch
from released_model import relative_error
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from echoreel_core.action.action import Action, Reference
from echoreel_core.action.attention import ActionAttention
from echoreel_core.action.combine import combine
from echoreel_core.action.file import load_action, save_action

FRAMES, DIM, ACTION_DIM = 8, 24, 12


def make_action(seed: int, frames: int = FRAMES, batch: int = 1, adapter_id: str = "a" * 16) -> Action:
    generator = torch.Generator().manual_seed(seed)
    positive, negative = (torch.randn(batch, frames, ACTION_DIM, generator=generator) for _ in range(2))
    return Action.of(Reference(positive, negative, source={"file": f"{seed}.mp4", "caption": "né"}), adapter_id, "lvdm")


@pytest.fixture(params=["relative_vectors", "relative_bias"])
def added(request):
    """What a layer adds to one and the same hidden state for an action: a function of action, role and frames."""
    torch.manual_seed(0)
    layer = ActionAttention(DIM, ACTION_DIM, heads=3, head_dim=8, max_distance=5, position=request.param)
    for name, parameter in layer.named_parameters():
        torch.nn.init.normal_(parameter, mean=float(name == "norm.weight"), std=0.5)
    x = torch.randn(1, 32, 5, DIM)

    def delta(action, role="positive", frames=FRAMES):
        context = action.context(role, frames)
        hidden = x[:, :frames]
        with torch.no_grad():
            plain, folded = layer(hidden, context), layer.fold(context, x.dtype, x.device)(hidden)
        assert relative_error(folded, plain) <= 5e-6
        return plain

    return delta


def test_each_role_has_its_own_tokens(added):
    action = make_action(1)
    assert relative_error(added(action, "negative"), added(action, "positive")) > 0.1
    assert torch.equal(action.context("negative", FRAMES).tokens, action.references[0].negative)


def test_blend_of_an_action_with_itself_is_that_action(added):
    action = make_action(1)
    assert relative_error(added(combine([action, action], "blend", [0.5, 0.5])), added(action)) <= 2e-6


def test_blend_adds_up_in_proportion(added):
    first, second = make_action(1), make_action(2, frames=5)
    blended = added(combine([first, second], "blend", [3, 1]))
    assert relative_error(blended, 0.75 * added(first) + 0.25 * added(second)) <= 2e-6


def test_nested_blends_multiply_their_shares(added):
    first, second, third = (make_action(i) for i in (1, 2, 3))
    nested = combine([combine([first, second], "blend", [1, 3]), third], "blend", [1, 1])
    assert nested.mix_weights == (0.125, 0.375, 0.5)
    expected = 0.125 * added(first) + 0.375 * added(second) + 0.5 * added(third)
    assert relative_error(added(nested), expected) <= 2e-6


def test_attending_to_an_action_twice_is_that_action(added):
    action = make_action(1)
    for weights in ([1, 1], [4, 4], [1, 3]):
        assert relative_error(added(combine([action, action], "attend to all", weights)), added(action)) <= 2e-6


def test_attending_to_all_weighs_the_attention(added):
    """A weight multiplies what a reference's frames are attended with: 2 is the same as the reference twice."""
    first, second = make_action(1), make_action(2, frames=5)
    weighted = combine([first, second], "attend to all", [2, 1])
    twice = combine([first, first, second], "attend to all", [1, 1, 1])
    assert relative_error(added(weighted), added(twice)) <= 2e-6
    assert relative_error(added(weighted), added(combine([first, second], "attend to all", [1, 1]))) > 1e-3
    nested = combine([combine([first, second], "attend to all", [2, 1]), first], "attend to all", [1, 2])
    assert [reference.weight for reference in nested.references] == [2, 1, 2]


def test_every_reference_keeps_its_own_positions():
    both = combine([make_action(1), make_action(2)], "attend to all", [1, 1]).context("positive", FRAMES)
    own = make_action(1).context("positive", FRAMES).distance
    assert torch.equal(both.distance, torch.cat((own, own), dim=1))
    assert torch.equal(own, (torch.arange(FRAMES)[None] - torch.arange(FRAMES)[:, None]).float())


@pytest.mark.parametrize(("keys", "frames"), [(8, 15), (8, 4), (1, 8), (8, 1), (16, 16), (16, 81)])
def test_a_reference_is_stretched_over_the_clip(keys, frames):
    distance = make_action(1, frames=keys).context("positive", frames).distance
    assert distance.shape == (frames, keys)
    assert distance[0].tolist() == list(range(keys))
    if frames > 1:
        assert distance[-1].tolist() == pytest.approx([key - (keys - 1) for key in range(keys)], abs=1e-5)


def test_an_action_of_another_length_runs(added):
    for frames in (1, 5, 13):
        assert torch.isfinite(added(make_action(1), frames=frames)).all()


def test_a_blend_may_be_longer_than_it_is_worth_folding(added):
    actions = [make_action(i, frames=16) for i in range(5)]
    expected = sum(added(action) for action in actions) / 5
    assert relative_error(added(combine(actions, "blend", [1] * 5)), expected) <= 2e-6


@pytest.mark.parametrize("how", ["blend", "attend to all"])
def test_weight_zero_leaves_an_action_out(how):
    first, second = make_action(1), make_action(2, adapter_id="b" * 16)
    assert combine([first, second], how, [1, 0]).references == first.references


@pytest.mark.parametrize("how", ["attend to all", "blend", "one after another"])
@pytest.mark.parametrize("order", [1, -1])
def test_an_action_of_before_goes_with_one_of_now(tmp_path, how, order):
    """Its adapter had another name then, which actions of now hold too."""
    now = replace(make_action(1), former_adapter_id="b" * 16)
    save_action(now, tmp_path / "now.safetensors")
    pair = [load_action(tmp_path / "now.safetensors"), make_action(2, adapter_id="b" * 16)][::order]
    assert combine(pair, how, [1, 1]).adapter_ids == {"a" * 16, "b" * 16}
    with pytest.raises(ValueError, match="different EchoReel adapters"):
        combine([now, make_action(2, adapter_id="c" * 16)], how, [1, 1])


def test_what_can_not_be_combined():
    first = make_action(1)
    for weights, message in (
        ([1, -0.5], "-0.5"),
        ([1, math.nan], "nan"),
        ([math.inf, 1], "inf"),
        ([0, 0], "above 0"),
        ([1], "1 weight for 2 actions"),
    ):
        with pytest.raises(ValueError, match=message):
            combine([first, first], "blend", weights)
    with pytest.raises(ValueError, match="connect an action"):
        combine([], "blend", [])
    with pytest.raises(ValueError, match="aaaaaaaaaaaaaaaa and bbbbbbbbbbbbbbbb"):
        combine([first, make_action(2, adapter_id="b" * 16)], "blend", [1, 1])
    with pytest.raises(ValueError, match=r"\(1, 2\)"):
        combine([first, make_action(2, batch=2)], "attend to all", [1, 1])
    with pytest.raises(ValueError, match="then blend"):
        combine([combine([first, first], "blend", [1, 1]), first], "attend to all", [1, 1])


# files


def test_round_trip(tmp_path):
    group = combine([make_action(1), make_action(2, frames=5)], "attend to all", [2, 1])
    action = combine([group, make_action(3)], "blend", [3, 1])
    path = tmp_path / "new folder" / "action.safetensors"
    save_action(action, path)
    loaded = load_action(path)
    assert (loaded.mix_weights, loaded.adapter_id, loaded.host) == (action.mix_weights, action.adapter_id, action.host)
    assert [len(group) for group in loaded.groups] == [2, 1]
    for ours, theirs in zip(loaded.references, action.references, strict=True):
        assert torch.equal(ours.positive, theirs.positive) and torch.equal(ours.negative, theirs.negative)
        assert (ours.weight, ours.source) == (theirs.weight, theirs.source)
    assert [file.name for file in path.parent.iterdir()] == ["action.safetensors"]


def test_the_library_reads_what_is_written(tmp_path):
    """The file is plain safetensors, read by the library, with tensors of any dtype, shape and memory order."""
    from echoreel_core.files import read_tensors, write_safetensors

    base = torch.arange(24, dtype=torch.float32).view(4, 6)
    tensors = {
        "odd": torch.arange(3, dtype=torch.int8),
        "transposed": base.T,
        "view": base[1:3],
        "same": base,
        "same again": base,
        "scalar": torch.tensor(2.5, dtype=torch.float64),
        "empty": torch.zeros(0, 3, dtype=torch.bfloat16),
        "half": base.half(),
        "truth": torch.tensor([True, False, True]),
    }
    path = tmp_path / "mixed.safetensors"
    write_safetensors(path, tensors)
    for read in (load_file(path), read_tensors(path)):
        assert read.keys() == tensors.keys()
        for key, tensor in tensors.items():
            assert read[key].dtype == tensor.dtype and torch.equal(read[key], tensor), key
            assert read[key].data_ptr() % tensor.dtype.itemsize == 0, key
    write_safetensors(path, tensors, dtype=torch.float16)
    assert {key: value.dtype for key, value in load_file(path).items()} == {
        key: torch.float16 if value.is_floating_point() else value.dtype for key, value in tensors.items()
    }


@pytest.mark.parametrize("share_memory", ["one tensor", "views"])
def test_tokens_may_share_memory(tmp_path, share_memory):
    """An action with itself, or both roles computed as one batch."""
    if share_memory == "one tensor":
        tokens = torch.randn(1, FRAMES, ACTION_DIM)
        action = Action.of(Reference(tokens, tokens), "a", "lvdm")
        action = combine([action, action], "attend to all", [1, 1])
    else:
        tokens = torch.randn(2, FRAMES, ACTION_DIM)
        action = Action.of(Reference(tokens[:1], tokens[1:]), "a", "lvdm")
    save_action(action, tmp_path / "a.safetensors")
    loaded = load_action(tmp_path / "a.safetensors")
    for ours, theirs in zip(loaded.references, action.references, strict=True):
        assert torch.equal(ours.positive, theirs.positive) and torch.equal(ours.negative, theirs.negative)


def rewrite(path, change):
    """Changes the description of a saved action."""
    with safe_open(path, framework="pt") as file:
        description = json.loads(file.metadata()["echoreel"])
    tensors = {key: value.clone() for key, value in load_file(path).items()}
    description = change(description, tensors) or description
    save_file(
        tensors, path, metadata={"echoreel": description if isinstance(description, str) else json.dumps(description)}
    )


def part(**changes):
    return {"start": 0.0, "end": 1.0, "fade_in": None, "fade_out": None, **changes}


DAMAGE = {
    "newer": lambda d, t: d.update(version=3),
    "version is text": lambda d, t: d.update(version="new"),
    "no version": lambda d, t: d.pop("version") and None,
    "adapter": lambda d, t: d.update(format="adapter"),
    "no groups": lambda d, t: d.update(groups=[]),
    "empty group": lambda d, t: d.update(groups=[[]]),
    "groups missing": lambda d, t: d.pop("groups") and None,
    "groups a number": lambda d, t: d.update(groups=3),
    "entry a list": lambda d, t: d.update(groups=[[["x"]]]),
    "source missing": lambda d, t: d["groups"][0][0].pop("source") and None,
    "source text": lambda d, t: d["groups"][0][0].update(source="x"),
    "weight zero": lambda d, t: d["groups"][0][0].update(weight=0),
    "weight text": lambda d, t: d["groups"][0][0].update(weight="heavy"),
    "weight NaN": lambda d, t: d["groups"][0][0].update(weight=math.nan),
    "too many shares": lambda d, t: d.update(shares=[0.5, 0.5]),
    "a part that ends before it begins": lambda d, t: d.update(parts=[[part(start=0.6, end=0.5)]]),
    "a part that ends after the clip": lambda d, t: d.update(parts=[[part(end=1.5)]]),
    "a part that fades backwards": lambda d, t: d.update(parts=[[part(fade_in=-0.1)]]),
    "a part that is not a number": lambda d, t: d.update(parts=[[part(start=math.nan)]]),
    "a part without a start": lambda d, t: d.update(parts=[[{"end": 1.0}]]),
    "a part that starts at null": lambda d, t: d.update(parts=[[part(start=None)]]),
    "parts a number": lambda d, t: d.update(parts=3),
    "too many parts": lambda d, t: d.update(parts=[[], []]),
    "shares text": lambda d, t: d.update(shares="a"),
    "more references than tensors": lambda d, t: d["groups"][0].append(d["groups"][0][0]),
    "not JSON": lambda d, t: "{",
    "JSON list": lambda d, t: "[1]",
    "JSON null": lambda d, t: "null",
    "tokens flat": lambda d, t: t.update({"references.0.positive": torch.zeros(3, 4)}),
    "tokens of another width": lambda d, t: t.update({"references.0.negative": torch.zeros(1, FRAMES, 3)}),
    "tokens of another length": lambda d, t: t.update({"references.0.negative": torch.zeros(1, 3, ACTION_DIM)}),
    "tokens whole numbers": lambda d, t: t.update({"references.0.negative": torch.zeros(1, FRAMES, ACTION_DIM).int()}),
    "no tokens": lambda d, t: t.update({f"references.0.{r}": torch.zeros(1, 0, 12) for r in ("positive", "negative")}),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_files_are_refused_in_one_sentence(tmp_path, damage):
    path = tmp_path / "broken.safetensors"
    save_action(make_action(1), path)
    rewrite(path, DAMAGE[damage])
    with pytest.raises(ValueError, match=r"^broken\.safetensors .*\.$") as error:
        load_action(path)
    assert "\n" not in str(error.value)
    if damage == "newer":
        assert "version 3" in str(error.value) and "up to version 2" in str(error.value)
    if damage == "adapter":
        assert "EchoReel adapter" in str(error.value)


def test_truncated_and_foreign_files_are_refused(tmp_path):
    whole = tmp_path / "whole.safetensors"
    save_action(make_action(1), whole)
    content = whole.read_bytes()
    contents = [content[:n] for n in (0, 4, 8, 20, len(content) // 2, len(content) - 1)]
    contents += [b"\0" * 500, b"PK\3\4 a zip", content + b"more", b"\xff" * 100]
    path = tmp_path / "broken.safetensors"
    for data in contents:
        path.write_bytes(data)
        with pytest.raises(ValueError, match=r"^broken\.safetensors (cannot be read as safetensors|is empty)"):
            load_action(path)
    save_file({"x": torch.zeros(2)}, path)
    with pytest.raises(ValueError, match="is not an EchoReel action"):
        load_action(path)
    with pytest.raises(ValueError, match="missing.safetensors"):
        load_action(tmp_path / "missing.safetensors")
    with pytest.raises(ValueError, match="it is a folder"):
        load_action(tmp_path)


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    """Writing fails half-way, as on a full disk: the old file stays, and no part of the new one."""
    resource = pytest.importorskip("resource")
    path = tmp_path / "action.safetensors"
    save_action(make_action(1), path)
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, limits[1]))
    try:
        with pytest.raises(ValueError, match=r"action\.safetensors cannot be written \(File too large\)"):
            save_action(make_action(2), path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["action.safetensors"]


def test_an_action_in_use_outlives_its_file_being_written_anew(tmp_path):
    """Loaded tokens are views of the file; the new one takes its place and leaves the old one's memory alone."""
    path = tmp_path / "action.safetensors"
    first = make_action(1)
    save_action(first, path)
    loaded = load_action(path)
    save_action(make_action(2), path)
    assert torch.equal(loaded.references[0].positive, first.references[0].positive)
    assert not torch.equal(load_action(path).references[0].positive, first.references[0].positive)


@pytest.mark.parametrize("problem", ["below a file", "a folder"])
def test_unwritable_places(tmp_path, problem):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    path = tmp_path / ("file/a.safetensors" if problem == "below a file" else "folder")
    with pytest.raises(ValueError, match="cannot be written"):
        save_action(make_action(1), path)
    assert sorted(file.name for file in tmp_path.rglob("*")) == ["file", "folder"]

"""The shipped workflows against a running ComfyUI: every node, socket, value and link is one that it has."""

import copy
import json
import re
from urllib.parse import quote

import av
import pytest
import torch
from workflow_files import ALWAYS, MUTED, ROOT, SHIPPED, load, of_type, problems, to_prompt

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

TEXT_TO_VIDEO = load(ROOT / "workflows" / "EchoReel text to video.json")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
# these need nothing but what comes with the pack
EMBEDDED = [path for path in SHIPPED if "Pixel Actions" in path.read_text(encoding="utf-8")]
TRY_TRAINING = ROOT / "workflows" / "EchoReel try training.json"
shipped = pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)


def test_there_are_shipped_workflows():
    assert {path.stem for path in SHIPPED} >= {
        "EchoReel text to video",
        "EchoReel two references",
        "EchoReel save and load an action",
        *(path.stem for path in EMBEDDED),
    }
    assert len(EMBEDDED) == 6


@shipped
def test_opens_without_a_complaint(path, object_info):
    assert problems(load(path), object_info) == []


@shipped
def test_is_offered_as_a_template(path, server):
    """The host takes templates from a flat folder, and from only one of the names it knows."""
    (pack,) = (names for names in server.get("/workflow_templates").items() if path.stem in names[1])
    served = server.get(f"/api/workflow_templates/{pack[0]}/{quote(path.name)}")
    assert served == load(path)


@shipped
def test_has_a_thumbnail_that_the_template_browser_gets(path, server):
    assert server.read(f"/api/workflow_templates/comfyui-echoreel/{quote(path.stem)}.jpg") == (
        path.with_suffix(".jpg").read_bytes()
    )


@shipped
def test_names_the_pack_and_where_to_get_the_model(path):
    workflow = load(path)
    ours = [node for node in workflow["nodes"] if node["type"].startswith("EchoReel")]
    assert ours
    for node in ours:
        assert (node["properties"]["cnr_id"], node["properties"]["ver"]) == (PROJECT["name"], PROJECT["version"])
    (note,) = of_type(workflow, "MarkdownNote")
    hints = [(node, hint) for node in workflow["nodes"] for hint in node["properties"].get("models", ())]
    assert bool(hints) != (path in EMBEDDED)
    for node, hint in hints:
        assert hint["name"] == node["widgets_values"][0]
        assert hint["url"] in note["widgets_values"][0]


@pytest.mark.parametrize("name", ["Wan 2.2", "LTX-Video"])
def test_without_an_adapter_the_plain_model_runs(name, object_info):
    """No adapter is published for these: EchoReel is switched off, and the note says how to come by one."""
    workflow = load(ROOT / "workflows" / f"EchoReel {name}.json")
    prompt = to_prompt(workflow, object_info)
    assert not [node for node in prompt.values() if node["class_type"].startswith("EchoReel")]
    (saved,) = (node for node in prompt.values() if node["class_type"] == "SaveVideo")
    assert saved["inputs"]["video"]
    (note,) = of_type(workflow, "MarkdownNote")
    assert "docs/model-families.md#train-an-adapter" in note["widgets_values"][0]


@pytest.mark.parametrize("path", [p for p in EMBEDDED if p != TRY_TRAINING], ids=lambda path: path.stem)
def test_runs_as_it_opens(path, server, object_info):
    """With nothing downloaded and nothing changed: 16 frames of video."""
    run = server.run(to_prompt(load(path), object_info), seconds=600)
    assert run.error is None, run.error
    with av.open(str(server.file(run, ".mp4"))) as video:
        (stream,) = video.streams.video
        assert len(list(video.decode(stream))) == 16
        assert stream.height >= 256


def test_the_first_template_shows_the_claim(server, object_info):
    """As it opens: with EchoReel the robot goes where the star went, without it does not."""
    from echoreel_core.pixel_actions.evaluation.tracker import trajectory_correlation

    path = ROOT / "workflows" / "EchoReel start here.json"
    reference, without, with_echoreel = paths_of(server, server.run(to_prompt(load(path), object_info), seconds=600))
    assert trajectory_correlation(with_echoreel, reference) > 0.8
    assert trajectory_correlation(without, reference) < 0.5


def paths_of(server, run):
    """The paths of the three films that a first template puts side by side."""
    from echoreel_core.pixel_actions.evaluation.tracker import background_of, track
    from echoreel_core.video.frames import FrameSelection, read_video

    film = read_video(server.file(run, ".mp4"), FrameSelection(frames=16, mode="even"), width=776, height=282).frames
    paths = []
    for left in (0, 260, 520):
        clip = film[:, 26:, left : left + 256].movedim(-1, 1)
        clip = torch.nn.functional.interpolate(clip, (32, 32), mode="area")[None]
        paths.append(track(clip, background_of(clip)))
    return paths


def test_training_can_be_tried_with_nothing_downloaded(server, object_info):
    """As it opens, in fewer steps: the pairs that come with the pack, an adapter in the end, and its curve."""
    prompt = to_prompt(load(TRY_TRAINING), object_info)
    (train,) = of_type(prompt, "EchoReelTrain")
    train["inputs"] |= {"steps": 2, "batch_size": 1}
    run = server.run(prompt, seconds=600)
    assert server.file(run, ".png").is_file()
    folder = server.base / "output" / "echoreel_training" / train["inputs"]["name"]
    manifest = json.loads((folder / "cache" / "manifest.json").read_text(encoding="utf-8"))
    assert len(manifest["pairs"]) == 16
    assert list((server.base / "models" / "echoreel").glob(f"{train['inputs']['name']}_*.safetensors"))


@shipped
def test_nothing_overlaps(path):
    """Nodes keep the distance that the taller nodes of the page's newer renderer need."""
    nodes = load(path)["nodes"]
    boxes = [(*node["pos"], node["pos"][0] + node["size"][0], node["pos"][1] + node["size"][1]) for node in nodes]
    for i, (left, top, right, bottom) in enumerate(boxes):
        for other in boxes[i + 1 :]:
            apart = right <= other[0] or other[2] <= left or bottom + 70 <= other[1] or other[3] + 70 <= top
            assert apart, (nodes[i]["type"], other)


def test_the_api_form_is_what_the_page_sends(object_info):
    """Links become [node, output], notes go, widgets get names; the browser test compares with the page itself."""
    prompt = to_prompt(TEXT_TO_VIDEO, object_info)
    ids = {node["type"]: str(node["id"]) for node in TEXT_TO_VIDEO["nodes"]}
    assert "MarkdownNote" not in {node["class_type"] for node in prompt.values()}
    sampler = prompt[ids["KSampler"]]["inputs"]
    assert sampler["model"] == [ids["EchoReelApply"], 0]
    assert sampler["latent_image"] == [ids["EmptyLatentImage"], 0]
    assert (sampler["steps"], sampler["cfg"], sampler["sampler_name"]) == (50, 12, "euler_ancestral")
    assert prompt[ids["EchoReelLoadReferenceVideo"]]["inputs"]["crop"] == "stretch"


MUTANTS = {
    "unknown node type": lambda w: w["nodes"][1].update(type="EchoReelGone"),
    "no pos": lambda w: w["nodes"][1].pop("pos"),
    "none of": lambda w: of_type(w, "KSampler")[0]["widgets_values"].__setitem__(4, "gone"),
    "outside 1 to 10000": lambda w: of_type(w, "KSampler")[0]["widgets_values"].__setitem__(2, 0),
    "no FLOAT": lambda w: of_type(w, "KSampler")[0]["widgets_values"].pop(1),
    "7 widgets": lambda w: of_type(w, "KSampler")[0]["widgets_values"].append("more"),
    "has no input gone": lambda w: of_type(w, "KSampler")[0]["inputs"][0].update(name="gone"),
    "model is not connected": lambda w: of_type(w, "KSampler")[0]["inputs"][0].update(link=None),
    "outputs are": lambda w: of_type(w, "EchoReelLoadCheckpoint")[0]["outputs"][0].update(type="CLIP"),
    "carries LATENT into VAEDecode.vae": lambda w: of_type(w, "VAEDecode")[0]["inputs"][0].update(name="vae"),
    "not listed where it starts": lambda w: of_type(w, "VAEDecode")[0]["outputs"][0].update(links=[]),
    "missing node": lambda w: w["links"][0].__setitem__(3, 999),
    "missing link": lambda w: w["links"].pop(0),
    "same id": lambda w: w["nodes"][1].update(id=w["nodes"][2]["id"]),
    "is no version": lambda w: w["nodes"][1]["properties"].update(ver="newest"),
    "model hint": lambda w: w["nodes"][1]["properties"]["models"][0].pop("url"),
    "no last_link_id": lambda w: w.pop("last_link_id"),
    "'clip.mp4', none of": lambda w: of_type(w, "EchoReelLoadReferenceVideo")[0]["widgets_values"].__setitem__(
        0, "clip.mp4"
    ),
}


@pytest.mark.parametrize("complaint", MUTANTS)
def test_the_check_finds(complaint, object_info):
    damaged = copy.deepcopy(TEXT_TO_VIDEO)
    MUTANTS[complaint](damaged)
    assert any(complaint in problem for problem in problems(damaged, object_info)), problems(damaged, object_info)


def test_the_saved_actions_half_is_muted_until_there_is_a_file():
    workflow = load(ROOT / "workflows" / "EchoReel save and load an action.json")
    modes = {node["type"]: node["mode"] for node in workflow["nodes"]}
    assert modes["EchoReelSaveAction"] == modes["EchoReelActionPrismEncode"] == ALWAYS
    assert modes["EchoReelLoadAction"] == modes["KSampler"] == modes["SaveVideo"] == MUTED


def test_every_node_is_registered_and_listed(object_info):
    """One bad schema makes the host drop the whole pack without an error."""
    listed = json.loads((ROOT / "node_list.json").read_text(encoding="utf-8"))
    registered = {id_: spec["display_name"] for id_, spec in object_info.items() if re.match("EchoReel", id_)}
    assert registered == listed


@pytest.mark.parametrize("name", ["Wan 2.2", "LTX-Video"])
def test_without_an_adapter_the_stock_model_follows_an_example(name, object_info):
    """Nothing is switched off, and nothing but the stock model's files is missing."""
    prompt = to_prompt(load(ROOT / "workflows" / f"EchoReel {name}, no adapter.json"), object_info)
    (follow,) = (node["inputs"] for node in prompt.values() if node["class_type"] == "EchoReelFollowMotion")
    (placed,) = (id_ for id_, node in prompt.items() if node["class_type"] == "EchoReelPlaceReference")
    assert follow["frames"] == [placed, 0] and follow["strength"] == 1.0


def test_the_first_template_without_an_adapter_shows_its_claim(server, object_info):
    """As it opens: following, the robot goes where the star went, left to itself it does not."""
    from echoreel_core.pixel_actions.evaluation.tracker import trajectory_correlation

    path = ROOT / "workflows" / "EchoReel start here, no adapter.json"
    reference, alone, following = paths_of(server, server.run(to_prompt(load(path), object_info), seconds=600))
    assert trajectory_correlation(following, reference) > 0.8
    assert trajectory_correlation(alone, reference) < 0.5

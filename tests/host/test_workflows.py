"""The shipped workflows against a running ComfyUI: every node, socket, value and link is one that it has."""

import copy
import json
import re
from urllib.parse import quote

import av
import pytest
import torch
from comfy_server import PromptRefused
from subgraphs import definitions, flat, levels
from workflow_files import ALWAYS, MUTED, NOTES, ROOT, SHIPPED, id_of, load, of_type, problems, shipped_file, to_prompt

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

TEXT_TO_VIDEO = load(shipped_file("text to video"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
# these need nothing but what comes with the pack
EMBEDDED = [path for path in SHIPPED if "Pixel Actions" in path.read_text(encoding="utf-8")]
TRY_TRAINING = shipped_file("try training")
MOST_THINGS = 9
"""On a canvas, its notes and groups included; a subgraph is one."""
WINDOW, LEAST_ZOOM, FILLED = (1600, 1000), 0.6, 0.75
"""The page opens a template so that its nodes fill three quarters of the window, one way or the other."""
shipped = pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)


def test_there_are_shipped_workflows():
    numbers = [path.stem.split()[1] for path in SHIPPED]
    assert numbers == [f"{number:02d}" for number in range(1, 15)]  # one order, wherever names are sorted
    assert [path.stem for path in EMBEDDED] == [path.stem for path in SHIPPED[:6]]


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
    nodes = [node for level in levels(workflow) for node in level]
    ours = [node for node in nodes if node["type"].startswith("EchoReel") or node["type"] in definitions(workflow)]
    assert ours
    for node in ours:
        assert (node["properties"]["cnr_id"], node["properties"]["ver"]) == (PROJECT["name"], PROJECT["version"])
    (note,) = of_type(workflow, "MarkdownNote")
    hints = [(node, hint) for node in nodes for hint in node["properties"].get("models", ())]
    assert bool(hints) != (path in EMBEDDED)
    for node, hint in hints:
        assert hint["name"] == node["widgets_values"][0]
        assert hint["url"] in note["widgets_values"][0]


@pytest.mark.parametrize("name", ["Wan 2.1", "LTX-Video"])
def test_for_an_adapter_of_your_own_only_that_adapter_is_missing(name, object_info, server):
    """None is published for these: nothing runs that is not EchoReel, and the node where one is chosen says so."""
    workflow = load(shipped_file(f"{name}, your adapter"))
    prompt = to_prompt(workflow, object_info)
    assert prompt[id_of(prompt, "KSampler" if name == "Wan 2.1" else "SamplerCustom")]["inputs"]["model"]
    with pytest.raises(PromptRefused) as refused:
        server.submit(prompt)
    assert id_of(prompt, "EchoReelLoadAdapter") in refused.value.answer["node_errors"]
    (note,) = of_type(workflow, "MarkdownNote")
    assert "there is none to download yet" in note["widgets_values"][0]


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

    path = shipped_file("start here")
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
    for nodes in levels(load(path)):
        boxes = [(*node["pos"], node["pos"][0] + node["size"][0], node["pos"][1] + node["size"][1]) for node in nodes]
        for i, (left, top, right, bottom) in enumerate(boxes):
            for other in boxes[i + 1 :]:
                apart = right <= other[0] or other[2] <= left or bottom + 70 <= other[1] or other[3] + 70 <= top
                assert apart, (nodes[i]["type"], other)


@shipped
def test_it_can_be_read_as_it_opens(path):
    workflow = load(path)
    nodes = workflow["nodes"]
    assert len(nodes) + len(workflow["groups"]) <= MOST_THINGS
    left, top = min(node["pos"][0] for node in nodes), min(node["pos"][1] - 30 for node in nodes)
    right = max(node["pos"][0] + node["size"][0] for node in nodes)
    bottom = max(node["pos"][1] + node["size"][1] for node in nodes)
    zoom = FILLED * min(WINDOW[0] / (right - left + 20), WINDOW[1] / (bottom - top + 20))
    assert zoom >= LEAST_ZOOM
    (note,) = of_type(workflow, "MarkdownNote")
    assert len(note["widgets_values"][0].split()) <= 180


def test_what_they_save_is_named_after_them():
    prefixes = [node["widgets_values"][0] for path in SHIPPED for node in of_type(load(path), "SaveVideo")]
    assert prefixes == [f"video/{path.stem}" for path in SHIPPED if of_type(load(path), "SaveVideo")]


def test_the_api_form_is_what_the_page_sends(object_info):
    """Links become [node, output], notes go, widgets get names; the browser test compares with the page itself."""
    prompt = to_prompt(TEXT_TO_VIDEO, object_info)
    ids = {node["type"]: str(node["id"]) for node in flat(TEXT_TO_VIDEO)["nodes"]}
    assert {node["class_type"] for node in prompt.values()} == ids.keys() - NOTES
    assert ids["KSampler"].split(":")[0] in {str(node["id"]) for node in TEXT_TO_VIDEO["nodes"]}
    sampler = prompt[ids["KSampler"]]["inputs"]
    assert sampler["model"] == [ids["EchoReelApply"], 0]
    assert sampler["latent_image"] == [ids["EmptyLatentImage"], 0]
    assert (sampler["steps"], sampler["cfg"], sampler["sampler_name"]) == (50, 12, "euler_ancestral")
    assert prompt[ids["EchoReelLoadReferenceVideo"]]["inputs"]["crop"] == "center"


def inside(workflow):
    """The nodes and links of the one subgraph."""
    (found,) = definitions(workflow).values()
    return found


MUTANTS = {
    "unknown node type": lambda w: w["nodes"][1].update(type="EchoReelGone"),
    "no pos": lambda w: w["nodes"][1].pop("pos"),
    "none of": lambda w: of_type(w, "KSampler")[0]["widgets_values"].__setitem__(4, "gone"),
    "outside 0.0 to 1.0": lambda w: of_type(w, "KSampler")[0]["widgets_values"].__setitem__(6, 2.0),
    "no FLOAT": lambda w: of_type(w, "EchoReelApply")[0]["widgets_values"].pop(1),
    "7 widgets": lambda w: of_type(w, "KSampler")[0]["widgets_values"].append("more"),
    "has no input gone": lambda w: of_type(w, "KSampler")[0]["inputs"][0].update(name="gone"),
    "model is not connected": lambda w: of_type(w, "KSampler")[0]["inputs"][0].update(link=None),
    "outputs are": lambda w: of_type(w, "EchoReelLoadCheckpoint")[0]["outputs"][0].update(type="CLIP"),
    "carries LATENT into VAEDecode.vae": lambda w: of_type(w, "VAEDecode")[0]["inputs"][0].update(name="vae"),
    "not listed where it starts": lambda w: of_type(w, "VAEDecode")[0]["outputs"][0].update(links=[]),
    "missing node": lambda w: w["links"][0].__setitem__(1, 999),
    "missing link": lambda w: inside(w)["links"].pop(0),
    "same id": lambda w: w["nodes"][1].update(id=w["nodes"][2]["id"]),
    "same id ": lambda w: inside(w)["nodes"][1].update(id=inside(w)["nodes"][2]["id"]),
    "is no version": lambda w: w["nodes"][1]["properties"].update(ver="newest"),
    "model hint": lambda w: of_type(w, "EchoReelLoadCheckpoint")[0]["properties"]["models"][0].pop("url"),
    "no last_link_id": lambda w: w.pop("last_link_id"),
    "'clip.mp4', none of": lambda w: of_type(w, "EchoReelLoadReferenceVideo")[0]["widgets_values"].__setitem__(
        0, "clip.mp4"
    ),
    "shows steps as 50, inside it is 30": lambda w: of_type(w, "KSampler")[0]["widgets_values"].__setitem__(2, 30),
    "the inputs of": lambda w: inside(w)["inputs"].reverse(),
    "does not feed what it says": lambda w: inside(w)["inputs"][0].update(linkIds=[999]),
}


@pytest.mark.parametrize("complaint", MUTANTS)
def test_the_check_finds(complaint, object_info):
    damaged = copy.deepcopy(TEXT_TO_VIDEO)
    MUTANTS[complaint](damaged)
    found = problems(damaged, object_info)
    assert any(complaint.strip() in problem for problem in found), found


def test_the_saved_actions_half_is_muted_until_there_is_a_file():
    workflow = load(shipped_file("save and load an action"))
    modes = {node["type"]: node["mode"] for node in flat(workflow)["nodes"]}
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
    prompt = to_prompt(load(shipped_file(f"{name}, no adapter")), object_info)
    (follow,) = (node["inputs"] for node in prompt.values() if node["class_type"] == "EchoReelFollowMotion")
    (placed,) = (id_ for id_, node in prompt.items() if node["class_type"] == "EchoReelPlaceReference")
    assert follow["frames"] == [placed, 0] and follow["strength"] == 1.0


def test_the_first_template_without_an_adapter_shows_its_claim(server, object_info):
    """As it opens: following, the robot goes where the star went, left to itself it does not."""
    from echoreel_core.pixel_actions.evaluation.tracker import trajectory_correlation

    path = shipped_file("start here, no adapter")
    reference, alone, following = paths_of(server, server.run(to_prompt(load(path), object_info), seconds=600))
    assert trajectory_correlation(following, reference) > 0.8
    assert trajectory_correlation(alone, reference) < 0.5

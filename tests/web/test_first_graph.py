"""An artist's first graph in the page, in both of its renderers: nodes are found by what people type, Load Reference
Video follows the adapter its frames go to, and a clip that is gone is told on the node; see first_graph.mjs.
"""

import json

import pytest
from video_clips import write_clip
from workflow_files import ROOT

pytestmark = pytest.mark.heavy
REFERENCE = "EchoReelLoadReferenceVideo"
FIRST = ["video reference", "motion transfer", "copy motion", "v2v", "vid2vid", "action", "motion", "gesture"]
"""For these the first node listed is one of the pack's."""
LISTED = ["pose", "dance", "animate", "controlnet", "reference", "video to video", "load gif", "choreography"]
"""Here nodes that have the words in their name come first: the page ranks names before anything else."""


@pytest.fixture(scope="module", params=["classic", "nodes2"])
def report(request, browse, tmp_path_factory):
    from checkpoints import SHIPPED_NAME

    folder = tmp_path_factory.mktemp("first")
    lost = {"id": 1, "type": REFERENCE, "pos": [100, 100], "size": [300, 640], "mode": 0, "flags": {}, "order": 0}
    lost |= {"widgets_values": ["my dance.mp4", 0, 0, 4, "spread evenly", 4, 8, 80, 48, "center", "image"]}
    lost |= {"inputs": [], "outputs": [{"name": "frames", "type": "IMAGE", "links": [1]}], "properties": {}}
    shown = {"id": 2, "type": "PreviewImage", "pos": [500, 100], "size": [300, 300], "mode": 0, "flags": {}, "order": 1}
    shown |= {"inputs": [{"name": "images", "type": "IMAGE", "link": 1}], "outputs": [], "properties": {}}
    graph = {"version": 0.4, "last_node_id": 2, "last_link_id": 1, "nodes": [lost, shown]}
    graph |= {"links": [[1, 1, 0, 2, 0, "IMAGE"]], "groups": [], "config": {}, "extra": {}}
    (folder / "lost.json").write_text(json.dumps(graph), encoding="utf-8")
    return browse(
        "first_graph.mjs",
        request.param,
        queries=FIRST + LISTED if request.param == "classic" else [],
        checkpoint=SHIPPED_NAME,
        template=str(ROOT / "workflows" / "EchoReel 07 text to video.json"),
        lost=str(folder / "lost.json"),
        clip=str(write_clip(folder / f"found_{request.param}.mp4", 20)),
    )


def test_nothing_goes_wrong(report):
    assert not report["problems"], "\n".join(report["problems"])


def test_the_search_finds_the_pack_by_what_people_type(report):
    if not report["found"]:
        pytest.skip("the search is the same in both renderers")
    assert {query: report["found"][query][:1] for query in FIRST} == dict.fromkeys(FIRST, [True])
    assert {query: True in report["found"][query] for query in LISTED} == dict.fromkeys(LISTED, True)


def test_a_new_node_takes_over_what_the_adapter_takes(report):
    values = {name: state["values"] for name, state in report["states"].items()}
    assert values["fresh"] == values["no adapter"] == [16, 256, 256]
    assert values["connected"] == [16, 32, 32]
    assert values["another adapter"] == [16, 64, 64]
    for name in ("connected", "another adapter"):
        assert (
            report["states"][name]["says"].startswith("As the adapter takes them")
            and not report["states"][name]["button"]
        )


def test_chosen_and_saved_values_stay_until_the_button_is_pressed(report):
    states = report["states"]
    assert [states[name]["values"] for name in ("chosen", "chosen, another adapter", "template")] == [
        [24, 64, 64],
        [24, 64, 64],
        [16, 256, 256],
    ]
    assert states["chosen, another adapter"]["says"] == "The adapter takes 16 frames of 32 × 32"
    assert states["template"]["says"] == "The adapter takes 16 frames of 64 × 64" and states["template"]["button"]
    assert states["taken"]["values"] == [16, 32, 32] and not states["taken"]["button"]


def test_where_no_adapter_takes_the_frames_nothing_is_said(report):
    assert [report["states"][name]["says"] for name in ("fresh", "no adapter", "muted")] == [""] * 3


def test_a_missing_clip_is_told_on_the_node(report):
    assert report["missing"] == "There is no video 'my dance.mp4' in the input folder: choose another one."

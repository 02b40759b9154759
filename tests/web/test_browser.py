"""Every shipped workflow in the page, in both of its renderers, as a user goes through it; see check.mjs for the way.

Screenshots are kept in tests/output/web.
"""

import pytest
from video_clips import write_phone_clip
from workflow_files import BYPASSED, SHIPPED, load, of_type, shipped_file, to_prompt

pytestmark = pytest.mark.heavy
EMBEDDED = "Pixel Actions"
ROOT = SHIPPED[0].parents[1]
KEPT = [ROOT / "tests" / "host" / "saved_graphs" / f"{name}.json" for name in ("two actions in sequence", "LTX-Video")]
GALLERY = {str(ROOT / "docs" / "gallery" / "start-here.webp"): str(shipped_file("start here"))}
PAGE_ONLY = {"upload", "video-preview"}
"""Widgets that the page draws and sends along, without an input in the node."""


@pytest.fixture(scope="module", params=["classic", "nodes2"])
def report(request, browse, tmp_path_factory):
    """What the browser found."""
    clip = tmp_path_factory.mktemp("clips") / f"IMG_{request.param}.MOV"
    return browse(
        "check.mjs",
        request.param,
        workflows=[str(path) for path in SHIPPED],
        # those that make a video with no other download; training runs in the host tests
        run=[
            str(path)
            for path in SHIPPED
            if of_type(load(path), "EchoReelLoadCheckpoint") and not of_type(load(path), "EchoReelTrain")
        ],
        embedded=[str(path) for path in SHIPPED if EMBEDDED in path.read_text(encoding="utf-8")],
        kept=[str(path) for path in KEPT],
        gallery=GALLERY,
        clip=str(write_phone_clip(clip)),
    )


def sent(prompt: dict) -> dict:
    """A prompt without what only the page knows."""
    return {
        id_: (node["class_type"], {name: value for name, value in node["inputs"].items() if name not in PAGE_ONLY})
        for id_, node in prompt.items()
    }


def test_opens_runs_and_shows_its_video(report):
    assert not report["problems"], "\n".join(report["problems"])


def test_what_the_page_sends_is_what_the_other_tests_send(report, object_info):
    assert report["prompts"].keys() == {path.stem for path in SHIPPED}
    for path in SHIPPED:
        assert sent(report["prompts"][path.stem]) == sent(to_prompt(load(path), object_info)), path.stem


def test_graphs_that_users_saved_send_what_they_sent(report):
    for path in KEPT:
        kept, now = sent(load(path.with_suffix(".api.json"))), sent(report["kept"][path.stem])
        assert now.keys() == kept.keys()
        for id_, (type_, inputs) in kept.items():
            assert now[id_][0] == type_
            assert inputs.items() <= now[id_][1].items() or not type_.startswith("EchoReel")


def test_a_bypassed_apply_is_passed_by(report, object_info):
    workflow = load(shipped_file("text to video"))
    of_type(workflow, "EchoReelApply")[0]["mode"] = BYPASSED
    assert sent(report["bypassed"]) == sent(to_prompt(workflow, object_info))


def test_saved_and_opened_again_it_is_the_same(report):
    assert report["saved"]["nodes"]
    for part in ("nodes", "links", "groups"):
        assert report["reopened"][part] == report["saved"][part]


def test_loaded_anew_the_page_still_has_its_graph(report):
    before, after = report["before"], report["reloaded"]
    assert {node["type"] for node in before["nodes"]} >= {"EchoReelLoadReferenceVideo", "SaveVideo"}
    for part in ("id", "type", "pos", "widgets_values", "mode"):  # sizes follow what is shown
        assert [node.get(part) for node in after["nodes"]] == [node.get(part) for node in before["nodes"]]
    assert after["links"] == before["links"]
    assert after["definitions"] == before["definitions"]

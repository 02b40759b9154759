"""Graphs that users have saved keep opening and running: templates from before they had subgraphs, as the page
saved them and in API form.

The files in saved_graphs are never changed: what no longer fits them would break somebody's workflow.
"""

from pathlib import Path

import pytest
from workflow_files import load, of_type, problems, to_prompt

SAVED = sorted(path for path in Path(__file__).with_name("saved_graphs").glob("*.json") if ".api" not in path.name)
RUN = ("start here", "start here, no adapter", "two actions in sequence", "find a reference", "text to video")
"""With the embedded model, and with the toy one in the place of the released one."""


def api_form(path: Path) -> dict:
    return load(path.with_suffix(".api.json"))


@pytest.mark.parametrize("path", SAVED, ids=lambda path: path.stem)
def test_opens_without_a_complaint_and_sends_what_it_sent(path, object_info):
    workflow = load(path)
    assert problems(workflow, object_info) == []
    sent, saved = to_prompt(workflow, object_info), api_form(path)
    assert sent.keys() == saved.keys()
    for id_, node in saved.items():
        assert sent[id_]["class_type"] == node["class_type"]
        if node["class_type"].startswith("EchoReel"):  # the host's own differ from version to version
            # inputs that came later are sent as well, with their defaults
            assert node["inputs"].items() <= sent[id_]["inputs"].items()


@pytest.mark.parametrize("name", RUN)
def test_runs(name, server):
    """As it was saved, in fewer steps."""
    (path,) = (path for path in SAVED if path.stem == name)
    prompt = api_form(path)
    for node in of_type(prompt, "KSampler"):
        node["inputs"]["steps"] = 2
    for node in of_type(prompt, "EchoReelLoadReferenceVideo"):
        node["inputs"]["file"] = node["inputs"]["file"] or "clip.mp4"
    if name == "text to video":
        of_type(prompt, "EmptyLatentImage")[0]["inputs"].update(width=64, height=64)
    run = server.run(prompt)
    assert server.file(run, ".mp4").stat().st_size > 0

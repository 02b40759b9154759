"""What saved workflows depend on is frozen: ids, names, inputs with their order, types and defaults, outputs.

schema.json is what was shipped. ECHOREEL_WRITE_SCHEMA=1 writes it anew after an addition.
"""

from __future__ import annotations

import asyncio
import copy
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

GOLDEN = Path(__file__).with_name("schema.json")
FILES = {"EchoReelLoadCheckpoint.checkpoint", "EchoReelLoadAdapter.adapter", "EchoReelLoadAction.file"}
FILES |= {"EchoReelLoadReferenceVideo.file", "EchoReelFindReferenceVideo.library", "EchoReelTrain.data"}
FILES |= {"EchoReelBuildReferenceLibrary.source", "EchoReelBuildReferenceLibrary.clips"}  # options are the user's files
RULE = "workflows in the wild depend on it. New inputs and outputs go at the end, and new inputs are optional."


def described(node) -> dict[str, Any]:
    """A node's schema, as far as it is the pack's and not the host's."""
    schema = node.GET_SCHEMA()
    return {
        "display_name": schema.display_name,
        "inputs": [_input(schema.node_id, entry) for entry in schema.inputs],
        "outputs": [_output(entry) for entry in schema.outputs],
    }


def _output(entry) -> dict[str, Any]:
    type_ = entry.get_io_type()
    return {"name": entry.display_name or type_, "type": type_}


def _input(node_id: str, entry) -> dict[str, Any]:
    found = {"id": entry.id, "type": entry.get_io_type(), "optional": bool(entry.optional)}
    if getattr(entry, "default", None) is not None:
        found["default"] = entry.default
    if getattr(entry, "options", None) is not None and f"{node_id}.{entry.id}" not in FILES:
        found["options"] = entry.options
    template = getattr(entry, "template", None)
    if template is not None:
        found["each"] = {"type": template.input.get_io_type(), "prefix": template.prefix}
        found["each"].update(min=template.min, max=template.max)
    return found


def _first_options(now: dict[str, Any], was: dict[str, Any]) -> dict[str, Any]:
    """A choice may get more options behind those it had."""
    return {"options": now["options"][: len(was["options"])]} if "options" in now and "options" in was else {}


def breaks(shipped: dict[str, Any], current: dict[str, Any]) -> Iterator[str]:
    """One sentence for every difference that a saved workflow would stumble over."""
    for node_id, old in shipped.items():
        if node_id not in current:
            yield f"The node {node_id} is gone: {RULE}"
            continue
        new = current[node_id]
        if new["display_name"] != old["display_name"]:
            yield f"{node_id} is now called {new['display_name']!r}, it was {old['display_name']!r}: {RULE}"
        for kind, name in (("inputs", "id"), ("outputs", "name")):
            for index, was in enumerate(old[kind]):
                now = new[kind][index] if index < len(new[kind]) else None
                if now is None or {**now, **_first_options(now, was)} != was:
                    yield f"{node_id}: number {index + 1} of the {kind} was {was}, it is {now}: {RULE}"
            for added in new[kind][len(old[kind]) :]:
                if not added.get("optional", kind == "outputs"):
                    yield f"{node_id}: the new input {added[name]} is not optional: {RULE}"


@pytest.fixture(scope="module")
def current(pack):
    nodes = asyncio.run(pack.comfy_entrypoint().get_node_list())
    return {node.GET_SCHEMA().node_id: described(node) for node in nodes}


@pytest.fixture(scope="module")
def shipped(current):
    if os.environ.get("ECHOREEL_WRITE_SCHEMA"):
        GOLDEN.write_text(json.dumps(current, indent=2) + "\n", encoding="utf-8")
    return json.loads(GOLDEN.read_text(encoding="utf-8"))


def test_nothing_that_was_shipped_has_changed(shipped, current):
    problems = list(breaks(shipped, current))
    assert not problems, "\n".join(problems)


def test_what_is_new_is_written_down(shipped, current):
    assert shipped == current, "there are additions: run this test once with ECHOREEL_WRITE_SCHEMA=1"


def test_every_node_explains_itself(pack):
    for node in asyncio.run(pack.comfy_entrypoint().get_node_list()):
        schema = node.GET_SCHEMA()
        assert schema.description
        assert schema.search_aliases, schema.node_id
        assert schema.category.split("/")[0] == "EchoReel", schema.node_id
        assert not {entry.id for entry in schema.inputs} & {entry.id for entry in schema.outputs}
        silent = [e.id for e in schema.inputs if not e.tooltip]
        silent += [f"output {e.display_name}" for e in schema.outputs if not e.tooltip]
        assert not silent, (schema.node_id, silent)


CHANGES = {
    "EchoReelApply is gone": lambda s: s.pop("EchoReelApply"),
    "is now called": lambda s: s["EchoReelApply"].update(display_name="Apply"),
    "number 4 of the inputs was": lambda s: s["EchoReelApply"]["inputs"][3].update(default=0.5),
    "number 6 of the inputs was": lambda s: s["EchoReelApply"]["inputs"].insert(
        4, {"id": "new", "type": "FLOAT", "optional": True}
    ),
    "'blend', 'attend to all'": lambda s: s["EchoReelCombineActions"]["inputs"][1]["options"].insert(
        0, s["EchoReelCombineActions"]["inputs"][1]["options"].pop(1)
    ),
    "number 2 of the inputs was": lambda s: s["EchoReelCombineActions"]["inputs"][1]["options"].pop(),
    "it is None": lambda s: s["EchoReelApply"]["inputs"].pop(),
    "number 1 of the outputs was": lambda s: s["EchoReelApply"]["outputs"][0].update(type="CLIP"),
    "new is not optional": lambda s: s["EchoReelApply"]["inputs"].append(
        {"id": "new", "type": "FLOAT", "optional": False}
    ),
}


@pytest.mark.parametrize("complaint", CHANGES)
def test_the_check_finds(complaint, shipped):
    changed = copy.deepcopy(shipped)
    CHANGES[complaint](changed)
    assert any(complaint in problem for problem in breaks(shipped, changed)), list(breaks(shipped, changed))


def test_an_optional_input_may_be_added_at_the_end(shipped):
    changed = copy.deepcopy(shipped)
    changed["EchoReelApply"]["inputs"].append({"id": "new", "type": "FLOAT", "optional": True, "default": 1.0})
    assert not list(breaks(shipped, changed))


def test_a_choice_may_get_more_options_at_the_end(shipped):
    changed = copy.deepcopy(shipped)
    changed["EchoReelCombineActions"]["inputs"][1]["options"].append("in a circle")
    assert not list(breaks(shipped, changed))

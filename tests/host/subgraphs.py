"""Subgraphs of workflow files: what lies in them is laid out flat, with the ids that the page sends."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

Workflow = dict[str, Any]
LINK = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")
INSIDE, OUTSIDE = -10, -20
"""The ids that stand for a subgraph's inputs and outputs in its links."""


def definitions(workflow: Workflow) -> dict[str, dict[str, Any]]:
    """{node type: definition} of a workflow's subgraphs."""
    return {found["id"]: found for found in workflow.get("definitions", {}).get("subgraphs", ())}


def levels(workflow: Workflow) -> list[list[dict[str, Any]]]:
    """The nodes on the canvas, then those of each subgraph; the same objects, so that they can be changed."""
    return [workflow["nodes"], *(found["nodes"] for found in definitions(workflow).values())]


def flat(workflow: Workflow) -> Workflow:
    """A copy without subgraphs: node 3 of the subgraph node 7 is the node "7:3", links go through.

    What a subgraph holds has the mode of its node where that is muted or bypassed.
    """
    kinds = definitions(workflow)
    result = copy.deepcopy({**workflow, "definitions": {}})
    while box := next((node for node in result["nodes"] if node["type"] in kinds), None):
        _unpack(result, box, copy.deepcopy(kinds[box["type"]]))
    return result


def _unpack(workflow: Workflow, box: dict[str, Any], inside: dict[str, Any]) -> None:
    """Puts what is inside a subgraph node in the place of the node."""
    outer = {link[0]: link for link in workflow["links"]}
    nodes = {node["id"]: node for node in inside["nodes"]}
    replaced: dict[Any, list] = {}  # an outer link that ends here: the links that it becomes
    renamed: dict[Any, list] = {}  # a link inside: what its origin lists in its place
    links = []
    for link in inside["links"]:
        id_, origin, slot, target, into, type_ = (link[key] for key in LINK)
        if origin == INSIDE:
            fed = outer.get(box["inputs"][slot].get("link"))
            nodes[target]["inputs"][into]["link"] = f"{box['id']}:{id_}" if fed else None
            if fed:
                links.append([f"{box['id']}:{id_}", *fed[1:3], f"{box['id']}:{target}", into, type_])
                replaced.setdefault(fed[0], []).append(f"{box['id']}:{id_}")
        elif target == OUTSIDE:
            renamed[id_] = box["outputs"][into].get("links") or []
            for name in renamed[id_]:
                outer[name][1:3] = f"{box['id']}:{origin}", slot
        else:
            links.append([f"{box['id']}:{id_}", f"{box['id']}:{origin}", slot, f"{box['id']}:{target}", into, type_])
            renamed[id_] = [f"{box['id']}:{id_}"]
    for node in nodes.values():
        node["id"] = f"{box['id']}:{node['id']}"
        node["mode"] = box["mode"] or node["mode"]
        for output in node.get("outputs", ()):
            output["links"] = [name for id_ in output.get("links") or () for name in renamed.get(id_, [id_])]
        for slot in node.get("inputs", ()):
            if slot.get("link") in renamed:  # those from outside have their new name, or none, already
                (slot["link"],) = renamed[slot["link"]]
    for node in workflow["nodes"]:
        for output in node.get("outputs", ()):
            output["links"] = [name for id_ in output.get("links") or () for name in replaced.get(id_, [id_])]
    ends_here = {slot.get("link") for slot in box.get("inputs", ())}
    workflow["links"] = [link for link in outer.values() if link[0] not in ends_here] + links
    workflow["nodes"] = [node for node in workflow["nodes"] if node is not box] + list(nodes.values())


def problems(workflow: Workflow) -> Iterator[str]:
    """Where a subgraph node and its definition disagree.

    Some pages take an exposed value from the node, others from what it stands for: the two have to be the same.
    """
    kinds = definitions(workflow)
    for node in (node for nodes in levels(workflow) for node in nodes if node["type"] in kinds):
        inside = kinds[node["type"]]
        nodes = {inner["id"]: inner for inner in inside["nodes"]}
        links = {link["id"]: link for link in inside["links"]}
        for side in ("inputs", "outputs"):
            mine, theirs = ([(slot["name"], slot["type"]) for slot in of[side]] for of in (node, inside))
            if mine != theirs:
                yield f"the {side} of {inside['name']} are {theirs}, its node says {mine}"
        for slot in inside["inputs"]:
            for id_ in slot["linkIds"]:
                link = links.get(id_)
                if not link or nodes[link["target_id"]]["inputs"][link["target_slot"]].get("link") != id_:
                    yield f"the input {slot['name']} of {inside['name']} does not feed what it says"

"""Workflow files as the page saves them (format 0.4): checks against a live ComfyUI, and their API form.

Both read `object_info`, what a ComfyUI answers at /object_info. Of the format they know what the shipped files use:
subgraphs, but no reroutes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import subgraphs
from subgraphs import Workflow, flat

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = sorted((ROOT / "workflows").glob("*.json"))

ALWAYS, MUTED, BYPASSED = 0, 2, 4
NOTES = {"Note", "MarkdownNote"}
CHOSEN_FIRST = ("EchoReelTrain", "EchoReelLoadAdapter")
"""In these, only the user can choose: clips to train on, an adapter that was trained."""
DYNAMIC_COMBO, AUTOGROW = "COMFY_DYNAMICCOMBO_V3", "COMFY_AUTOGROW_V3"
PYTHON_TYPES = {"INT": int, "FLOAT": (int, float), "STRING": str, "BOOLEAN": bool}
SEED_CONTROL = ("fixed", "increment", "decrement", "randomize")
ROOT_KEYS = ("version", "last_node_id", "last_link_id", "nodes", "links")
NODE_KEYS = {"id", "type", "pos", "size", "flags", "order", "mode", "properties"}
VERSION = re.compile(r"v?\d+\.\d+\.\d+([-+].*)?|[0-9a-fA-F]{4,40}|unknown")

ObjectInfo = Mapping[str, Any]
Prompt = dict[str, dict[str, Any]]


def load(path: Path) -> Workflow:
    """A workflow file's content."""
    return json.loads(path.read_text(encoding="utf-8"))


def shipped_file(name: str) -> Path:
    """The shipped workflow whose name, after its number, is this."""
    (found,) = (path for path in SHIPPED if re.fullmatch(rf"EchoReel \d\d {re.escape(name)}", path.stem))
    return found


def shipped(name: str, steps: int = 2, seed: int = 1, size: tuple[int, int] = (64, 64), frames: int = 16) -> Workflow:
    """A shipped workflow by what its name ends with, made quick, with input/clip.mp4 as its reference."""
    workflow = load(shipped_file(name))
    for node in of_type(workflow, "EchoReelLoadReferenceVideo"):
        node["widgets_values"][0] = "clip.mp4"
    for node in of_type(workflow, "KSampler"):
        node["widgets_values"][0], node["widgets_values"][2] = seed, steps
    for node in of_type(workflow, "EmptyLatentImage"):
        node["widgets_values"] = [*size, frames]
    return workflow


@dataclass(frozen=True)
class Widget:
    """A value in a node's `widgets_values`.

    Attributes:
        type: of the input; "SEED_CONTROL" and "UPLOAD" for the values only the page knows, which have no input.
    """

    name: str
    type: str
    options: Mapping[str, Any]

    @property
    def is_input(self) -> bool:
        return self.type not in ("SEED_CONTROL", "UPLOAD")

    @property
    def choices(self) -> list | None:
        if self.type == DYNAMIC_COMBO:
            return [option["key"] for option in self.options["options"]]
        return self.options.get("options") if self.type == "COMBO" else None

    @property
    def default(self) -> Any:
        choices = self.choices
        return self.options.get("default", choices[0] if choices else None)

    def problem(self, value: Any) -> str | None:
        """What is wrong with a value, or None."""
        if self.type == "SEED_CONTROL":
            return None if value in SEED_CONTROL else f"{self.name} is {value!r}"
        if self.choices is not None:
            allowed = self.choices
            if _is_upload(self.options):  # a shipped one names no file of a user's, only what comes with the pack
                allowed = ["", *(choice for choice in self.choices if choice.endswith(" [echoreel]"))]
            return None if value in allowed else f"{self.name} is {value!r}, none of {allowed}"
        wanted = PYTHON_TYPES.get(self.type)
        if wanted and (not isinstance(value, wanted) or (self.type != "BOOLEAN" and isinstance(value, bool))):
            return f"{self.name} is {value!r}, no {self.type}"
        if self.type in ("INT", "FLOAT"):
            low, high = self.options.get("min", value), self.options.get("max", value)
            if not low <= value <= high:
                return f"{self.name} is {value}, outside {low} to {high}"
        return None


def _inputs(section: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any], bool]]:
    """(name, type, options, required) in the page's order; old-style lists of choices come as COMBO."""
    for kind in ("required", "optional"):
        for name, (type_, *rest) in section.get(kind, {}).items():
            options = rest[0] if rest else {}
            if isinstance(type_, list):
                type_, options = "COMBO", {**options, "options": type_}
            yield name, type_, options, kind == "required"


def _is_upload(options: Mapping[str, Any]) -> bool:
    return any(key.endswith("_upload") and value for key, value in options.items())


def _is_widget(type_: str, options: Mapping[str, Any]) -> bool:
    return (type_ in PYTHON_TYPES or type_ in ("COMBO", DYNAMIC_COMBO)) and not options.get("forceInput")


def widgets(section: Mapping[str, Any], values: list, prefix: str = "") -> list[Widget]:
    """A node's widgets in the order of its `widgets_values`, which decide the choices of its dynamic ones."""
    found: list[Widget] = []
    for name, type_, options, _ in _inputs(section):
        if not _is_widget(type_, options):
            continue
        widget = Widget(prefix + name, type_, options)
        value = values[len(found)] if len(found) < len(values) else widget.default
        found.append(widget)
        if type_ == DYNAMIC_COMBO:
            for choice in options["options"]:
                if choice["key"] == value:
                    found += widgets(choice["inputs"], values[len(found) :], f"{widget.name}.")
        if options.get("control_after_generate", widget.name in ("seed", "noise_seed")):  # so named, the page adds it
            found.append(Widget(f"{widget.name}.control", "SEED_CONTROL", {}))
    if not prefix and any(_is_upload(widget.options) for widget in found):
        found.append(Widget("upload", "UPLOAD", {}))
    return found


def sockets(section: Mapping[str, Any]) -> dict[str, tuple[str, bool]]:
    """{name: (type, whether it has to be linked)} of everything a link can go into."""
    found = {}
    for name, type_, options, required in _inputs(section):
        if type_ == AUTOGROW:
            template = options["template"]
            for kind, (inner,) in ((k, tuple(v.values())) for k, v in template["input"].items() if v):
                for i in range(template["max"]):
                    needed = kind == "required" and i < template["min"]
                    found[f"{name}.{template['prefix']}{i}"] = (inner[0], needed)
        else:
            found[name] = (type_, required and not _is_widget(type_, options))
    return found


def problems(workflow: Workflow, info: ObjectInfo) -> list[str]:
    """Everything that the page or the server of this ComfyUI would object to; empty where nothing."""
    if missing := [key for key in ROOT_KEYS if key not in workflow]:
        return [f"no {key}" for key in missing]
    ids = [node["id"] for level in subgraphs.levels(workflow) for node in level]
    if len(set(ids)) != len(ids):  # the page gives new ones to those in subgraphs
        return ["two nodes have the same id"]
    if found := list(subgraphs.problems(workflow)) or list(_exposed_problems(workflow, info)):
        return found
    whole = flat(workflow)
    for node in whole["nodes"]:
        found += [f"node {node['id']} {node['type']}: {problem}" for problem in _node_problems(node, info)]
    return found + list(_link_problems(whole, info))


def _exposed_problems(workflow: Workflow, info: ObjectInfo) -> Iterator[str]:
    """Where a subgraph's node shows another value than the node inside, which some pages send in its place."""
    kinds = subgraphs.definitions(workflow)
    for box in (node for node in workflow["nodes"] if node["type"] in kinds):
        inside = kinds[box["type"]]
        nodes = {node["id"]: node for node in inside["nodes"]}
        exposed = [slot["name"] for slot in box["inputs"] if "widget" in slot]
        shown = dict(zip(exposed, box["widgets_values"], strict=True))
        for link in inside["links"]:
            name = inside["inputs"][link["origin_slot"]]["name"]
            if link["origin_id"] != subgraphs.INSIDE or name not in shown:
                continue
            node = nodes[link["target_id"]]
            values = node["widgets_values"]
            known = [widget.name for widget in widgets(info[node["type"]]["input"], values)]
            value = values[known.index(node["inputs"][link["target_slot"]]["name"])]
            if value != shown[name]:
                yield f"{inside['name']} shows {name} as {shown[name]!r}, inside it is {value!r}"


def _node_problems(node: dict[str, Any], info: ObjectInfo) -> Iterator[str]:
    yield from (f"no {key}" for key in sorted(NODE_KEYS - node.keys()))
    properties = node.get("properties", {})
    if not VERSION.fullmatch(properties.get("ver", "unknown")):
        yield f"ver {properties['ver']!r} is no version"
    for model in properties.get("models", ()):
        if not (model.get("name") and model.get("directory") and model.get("url", "").startswith("https://")):
            yield f"the model hint {model} needs name, url and directory"
    if node["type"] in NOTES:
        return
    if node["type"] not in info:
        yield "unknown node type"
        return
    section, values = info[node["type"]]["input"], node.get("widgets_values", [])
    linked = {slot["name"] for slot in node.get("inputs", ()) if slot.get("link") is not None}
    known = widgets(section, values)
    if len(values) > len(known):
        yield f"{len(values)} widgets_values for {len(known)} widgets: {[w.name for w in known]}"
    for widget, value in zip(known, values, strict=False):  # those missing at the end keep their defaults
        is_file = widget.type == "COMBO" and not _is_upload(widget.options) and not widget.options.get("default")
        hinted = value in {model.get("name") for model in properties.get("models", ())}
        # what only the user has: nothing is chosen yet
        open_choice = is_file and value == "" and (node["mode"] == MUTED or node["type"] in CHOSEN_FIRST)
        problem = None if widget.name in linked or hinted or open_choice else widget.problem(value)
        if problem:
            yield problem
    places = sockets(section)
    for slot in node.get("inputs", ()):
        if slot["name"] not in places:
            yield f"has no input {slot['name']}"
    yield from (f"{name} is not connected" for name, (_, needed) in places.items() if needed and name not in linked)
    mine, theirs = [slot["type"] for slot in node.get("outputs", ())], info[node["type"]]["output"]
    if mine != list(theirs[: len(mine)]):
        yield f"outputs are {theirs}, the file says {mine}"


def _link_problems(workflow: Workflow, info: ObjectInfo) -> Iterator[str]:
    nodes = {node["id"]: node for node in workflow["nodes"]}
    links = {link[0]: link for link in workflow["links"]}
    for id_, source, out, target, into, type_ in workflow["links"]:
        if source not in nodes or target not in nodes:
            yield f"link {id_} joins a missing node"
            continue
        outputs, inputs = nodes[source].get("outputs", ()), nodes[target].get("inputs", ())
        if out >= len(outputs) or id_ not in (outputs[out].get("links") or ()):
            yield f"link {id_} is not listed where it starts, at node {source}"
        if into >= len(inputs) or inputs[into].get("link") != id_:
            yield f"link {id_} is not listed where it ends, at node {target}"
            continue
        spec = info.get(nodes[target]["type"])
        wanted = sockets(spec["input"]).get(inputs[into]["name"], (type_,))[0] if spec else type_
        if type_ not in wanted.split(",") and wanted != "*":
            yield f"link {id_} carries {type_} into {nodes[target]['type']}.{inputs[into]['name']}, which is {wanted}"
    for node in workflow["nodes"]:
        for slot in node.get("inputs", ()):
            if slot.get("link") is not None and slot["link"] not in links:
                yield f"node {node['id']}: {slot['name']} has the missing link {slot['link']}"


def to_prompt(workflow: Workflow, info: ObjectInfo) -> Prompt:
    """The API form that the page sends: without notes, subgraphs and muted nodes, bypassed ones passed by."""
    workflow = flat(workflow)
    nodes = {node["id"]: node for node in workflow["nodes"]}
    links = {link[0]: link for link in workflow["links"]}

    def source(link_id: int | None) -> list | None:
        """[node id, output] that feeds a link, or None; through a bypassed node by its first input of the type."""
        if link_id is None:
            return None
        _, origin, output, _, _, type_ = links[link_id]
        node = nodes[origin]
        if node["mode"] == MUTED:
            return None
        if node["mode"] != BYPASSED:
            return [str(origin), output]
        passed = next((slot for slot in node["inputs"] if slot["type"] == type_), None)
        return source(passed["link"]) if passed else None

    prompt = {}
    for node in workflow["nodes"]:
        if node["type"] in NOTES or node["mode"] != ALWAYS:
            continue
        values = node.get("widgets_values", [])
        known = widgets(info[node["type"]]["input"], values)
        padded = [*values, *(widget.default for widget in known[len(values) :])]
        inputs = {w.name: value for w, value in zip(known, padded, strict=True) if w.is_input and value is not None}
        for slot in node.get("inputs", ()):
            origin = source(slot.get("link"))
            if origin:
                inputs[slot["name"]] = origin
        prompt[str(node["id"])] = {"class_type": node["type"], "inputs": inputs}
    return prompt


def of_type(nodes: Workflow | Prompt, type_: str) -> list[dict[str, Any]]:
    """The nodes of a type, in a workflow and its subgraphs or in a prompt."""
    if "nodes" in nodes:
        return [node for level in subgraphs.levels(nodes) for node in level if node["type"] == type_]
    return [node for node in nodes.values() if node["class_type"] == type_]


def id_of(prompt: Prompt, type_: str) -> str:
    """The id of the one node of a type in a prompt."""
    (found,) = (id_ for id_, node in prompt.items() if node["class_type"] == type_)
    return found

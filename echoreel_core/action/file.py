"""Actions as files that work without the clip, the VAE, the text encoder or the prism."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..errors import EchoReelError, counted
from ..files import read_description, read_tensors, reason, write_safetensors
from .action import Action, Reference, Segment

FORMAT_VERSION = 2
"""2 has the segments of a sequence. A file without any is written as 1."""


def save_action(action: Action, path: str | os.PathLike) -> None:
    """Writes one safetensors file with everything but the model: loadable without VAE, text encoder or prism."""
    tensors, groups, index = {}, [], 0
    for group in action.groups:
        entries = []
        for reference in group:
            tensors[f"references.{index}.positive"] = reference.positive
            tensors[f"references.{index}.negative"] = reference.negative
            entries.append({"weight": reference.weight, "source": dict(reference.source)})
            index += 1
        groups.append(entries)
    description = {
        "format": "action",
        "version": FORMAT_VERSION if any(action.segments) else 1,
        "adapter_id": action.adapter_id,
        **({"former_adapter_id": action.former_adapter_id} if action.former_adapter_id else {}),
        "host": action.host,
        "shares": list(action.mix_weights),
        "groups": groups,
    }
    if any(action.segments):
        description["parts"] = [[asdict(segment) for segment in own] for own in action.segments]
    write_safetensors(path, tensors, description)


def load_action(path: str | os.PathLike) -> Action:
    """Reads what `save_action` wrote.

    Raises: EchoReelError, naming the file and the reason, if it is no action file, damaged, or of a newer format.
    """
    name = Path(path).name
    description = read_description(path, "action", FORMAT_VERSION)
    tensors = read_tensors(path)
    try:
        groups, index = [], 0
        for entries in description["groups"]:
            group = []
            for entry in entries:
                positive, negative = (tensors[f"references.{index}.{role}"] for role in ("positive", "negative"))
                group.append(Reference(positive, negative, float(entry["weight"]), dict(entry["source"])))
                index += 1
            groups.append(tuple(group))
        mix_weights = tuple(float(weight) for weight in description["shares"])
        segments = tuple(tuple(_segment(entry) for entry in own) for own in description.get("parts", ()))
        former = str(description.get("former_adapter_id", ""))
        names = str(description["adapter_id"]), str(description["host"])
        action = Action(tuple(groups), mix_weights, *names, segments, former)
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise EchoReelError(f"{name} is damaged: {reason(error)} is missing or has the wrong type.") from None
    _check(action, name)
    return action


def _segment(entry: Mapping[str, Any]) -> Segment:
    fades = (None if entry[name] is None else float(entry[name]) for name in ("fade_in", "fade_out"))
    return Segment(float(entry["start"]), float(entry["end"]), *fades)


def _check(action: Action, name: str) -> None:
    """Raises EchoReelError, naming the file, if the parts of an action do not belong together."""
    if not action.groups or not all(action.groups) or len(action.mix_weights) != len(action.groups):
        raise EchoReelError(
            f"{name} is damaged: it has {counted(len(action.groups), 'group')} but "
            f"{counted(len(action.mix_weights), 'weight')}."
        )
    if not all(math.isfinite(weight) and weight >= 0 for weight in action.mix_weights):
        raise EchoReelError(f"{name} is damaged: its groups are mixed with weights of {list(action.mix_weights)}.")
    if len(action.segments) != len(action.groups):
        raise EchoReelError(
            f"{name} is damaged: it has {counted(len(action.groups), 'group')} but "
            f"{counted(len(action.segments), 'list')} of segments."
        )
    for segment in (segment for own in action.segments for segment in own):
        fades = [0.0 if fade is None else fade for fade in (segment.fade_in, segment.fade_out)]
        if not (0 <= segment.start < segment.end <= 1 and min(fades) >= 0 and sum(fades) <= 1):
            raise EchoReelError(
                f"{name} is damaged: a segment of its sequence runs from {segment.start} to {segment.end}."
            )
    first = action.references[0].positive
    for reference in action.references:
        if not (math.isfinite(reference.weight) and reference.weight > 0):
            raise EchoReelError(f"{name} is damaged: the weight of a reference is {reference.weight}.")
        for tokens in (reference.positive, reference.negative):
            alike = tokens.dim() == 3 and tokens.shape[::2] == first.shape[::2] and tokens.is_floating_point()
            if not alike or tokens.shape[1] != reference.positive.shape[1] or tokens.numel() == 0:
                raise EchoReelError(
                    f"{name} is damaged: its tokens have the shapes {list(first.shape)} and {list(tokens.shape)}."
                )

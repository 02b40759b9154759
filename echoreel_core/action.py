"""An Action: what the prism took from one or more reference clips, ready for the added layers."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from .action_attention import ActionContext
from .files import read_description, read_tensors, write_safetensors

FORMAT_VERSION = 1
Role = Literal["positive", "negative"]
Combination = Literal["attend to all", "blend"]


@dataclass(frozen=True)
class Reference:
    """The action of one reference clip.

    Attributes:
        positive, negative: [B, S, action_dim] tokens made with the positive and with the negative prompt.
        weight: relative to the other references of its action.
        source: where it came from (file, frame times, captions, …; anything JSON holds).
    """

    positive: Tensor
    negative: Tensor
    weight: float = 1.0
    source: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Action:
    """References in groups. Each query attends to all references of a group at once; the groups are blended.

    Attributes:
        groups: never empty, nor is any of them.
        shares: of the groups' outputs, adding up to 1.
        adapter_id: content id of the adapter whose prism made it; only its layers understand the tokens.
        host: the family of models that adapter belongs to.
    """

    groups: tuple[tuple[Reference, ...], ...]
    shares: tuple[float, ...]
    adapter_id: str
    host: str

    @classmethod
    def of(cls, reference: Reference, adapter_id: str, host: str) -> Action:
        """The action of a single reference."""
        return cls(((reference,),), (1.0,), adapter_id, host)

    @property
    def references(self) -> tuple[Reference, ...]:
        """All references, group by group."""
        return tuple(reference for group in self.groups for reference in group)

    def context(self, role: Role, frames: int) -> ActionContext:
        """What the added layers attend to for a clip of `frames` (latent) frames.

        Each reference is stretched over the clip: its first frame lies on the clip's first, its last on the last. Its
        keys keep its own positions 0 … S-1, so with as many frames as the clip it runs at the clip's pace.
        """
        references = self.references
        tokens = [getattr(reference, role) for reference in references]
        distance, bias = [], []
        for reference, token in zip(references, tokens, strict=True):
            keys = token.shape[1]
            stretch = (keys - 1) / (frames - 1) if frames > 1 else 0.0
            distance.append(torch.arange(keys)[None, :] - torch.arange(frames)[:, None] * stretch)
            bias.append(torch.full((frames, keys), math.log(reference.weight)))
        weighted = any(len({r.weight for r in group}) > 1 for group in self.groups)
        return ActionContext(
            tokens=torch.cat(tokens, dim=1),
            distance=torch.cat(distance, dim=1),
            score_bias=torch.cat(bias, dim=1) if weighted else None,
            groups=tuple(sum(reference.positive.shape[1] for reference in group) for group in self.groups),
            shares=torch.tensor(self.shares).expand(frames, -1) if len(self.groups) > 1 else None,
        )


def combine(actions: Sequence[Action], how: Combination, weights: Sequence[float]) -> Action:
    """One action from several.

    "attend to all" concatenates the references' tokens, so that every query attends to all of them, a reference's
    attention multiplied by its weight (paper, figure 2). "blend" attends to each action by itself and adds the results
    in the proportion of the weights. Actions of weight 0 are left out.

    Raises: ValueError where there are none, weights are negative or all zero, the actions are of different adapters or
        batch sizes, or blends are to be attended to as one.
    """
    if len(actions) != len(weights):
        raise ValueError(f"There are {len(actions)} actions but {len(weights)} weights: give each action one weight.")
    for weight in weights:
        if not (math.isfinite(weight) and weight >= 0):
            raise ValueError(f"An action's weight is {weight}: it has to be 0 or more.")
    kept = [(action, weight) for action, weight in zip(actions, weights, strict=True) if weight > 0]
    if not kept:
        raise ValueError("There is no action to combine with a weight above 0: connect one, or raise a weight.")
    first = kept[0][0]
    for action, _ in kept:
        if action.adapter_id != first.adapter_id:
            raise ValueError(
                f"The actions were made by different EchoReel adapters ({first.adapter_id} and {action.adapter_id}): "
                "encode all references with the same one."
            )
        sizes = {reference.positive.shape[0] for reference in (*first.references, *action.references)}
        if len(sizes) > 1:
            raise ValueError(f"The actions are batches of different sizes ({sorted(sizes)}): make them equal.")
    if how == "blend":
        total = sum(weight for _, weight in kept)
        return replace(
            first,
            groups=tuple(group for action, _ in kept for group in action.groups),
            shares=tuple(share * weight / total for action, weight in kept for share in action.shares),
        )
    if any(len(action.groups) > 1 for action, _ in kept):
        raise ValueError(
            "A blend can not be attended to together with other actions: use 'attend to all' first, blend after."
        )
    references = tuple(
        replace(reference, weight=reference.weight * weight)
        for action, weight in kept
        for reference in action.groups[0]
    )
    return replace(first, groups=(references,), shares=(1.0,))


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
        "version": FORMAT_VERSION,
        "adapter_id": action.adapter_id,
        "host": action.host,
        "shares": list(action.shares),
        "groups": groups,
    }
    write_safetensors(path, tensors, description)


def load_action(path: str | os.PathLike) -> Action:
    """Reads what `save_action` wrote.

    Raises: ValueError, naming the file and the reason, where it is no action file, damaged, or of a newer format.
    """
    name = Path(path).name
    description = read_description(path)
    if description is None or description.get("format") != "action":
        raise ValueError(f"{name} is not a saved EchoReel action.")
    if description.get("version", 0) > FORMAT_VERSION:
        raise ValueError(
            f"{name} is of format version {description['version']}, this pack reads up to {FORMAT_VERSION}: "
            "update the pack."
        )
    tensors = read_tensors(path)
    try:
        groups, index = [], 0
        for entries in description["groups"]:
            group = []
            for entry in entries:
                positive, negative = (tensors[f"references.{index}.{role}"] for role in ("positive", "negative"))
                if positive.dim() != 3 or positive.shape != negative.shape:
                    raise ValueError(
                        f"{name} is damaged: its tokens are {list(positive.shape)} and {list(negative.shape)}."
                    )
                group.append(Reference(positive, negative, float(entry["weight"]), entry["source"]))
                index += 1
            groups.append(tuple(group))
        return Action(tuple(groups), tuple(description["shares"]), description["adapter_id"], description["host"])
    except (KeyError, TypeError) as error:
        raise ValueError(f"{name} is damaged: {error} is missing or of another kind.") from None

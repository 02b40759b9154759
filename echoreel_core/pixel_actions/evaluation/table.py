"""The table of results: what the model does with and without references, on fixed seeds."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..world.actions import SEEN, UNSEEN
from ..world.clips import Clips, draw_clips, render, with_other_subject
from .judge import Judge
from .pipeline import Pipeline
from .tracker import background_of, colour_of, track, trajectory_correlation

ARMS = ("real", "base", "echoreel", "wrong", "still", "shuffled", "no_reference")
WITHOUT_ADAPTER = ("real", "base")
"""Arms that need none."""
MEASURES = ("action_accuracy", "trajectory_correlation", "prompt_fidelity", "leakage")
BLEND = "blend"
"""What `evaluate_blend` measures, where arms are named."""
SEED = 700_000  # far from every seed that training draws from
AT_ONCE = 25


def balanced(actions: tuple[str, ...], count: int, seed: int) -> Clips:
    """At least `count` clips, equally many of each action."""
    each = -(-count // len(actions))
    parts = [draw_clips(each, seed + i, (name,)) for i, name in enumerate(actions)]
    return Clips(*(torch.cat([getattr(part, field) for part in parts]) for field in Clips.__dataclass_fields__))


def references(
    arm: str, clips: Clips, generator: torch.Generator, draw: Callable[[Clips], Tensor] = render
) -> tuple[Clips, Tensor]:
    """The reference clips of an arm, and their pixels as `draw` makes them."""
    others = with_other_subject(clips, SEED + 1)
    if arm == "wrong":  # another action's motion, by the same stand-in
        names = clips.action.unique()
        place = torch.searchsorted(names, clips.action)
        step = torch.randint(1, len(names), place.shape, generator=generator)
        others = Clips(
            names[(place + step) % len(names)],
            *(getattr(others, field) for field in ("subject", "colour", "size", "background")),
            torch.rand(clips.draws.shape, generator=generator),
        )
    pixels = draw(others)
    if arm == "still":
        middle = pixels.shape[1] // 2
        pixels = pixels[:, middle : middle + 1].expand_as(pixels)
    if arm == "shuffled":
        order = torch.rand(pixels.shape[:2], generator=generator).argsort(1)
        pixels = pixels.gather(1, order[:, :, None, None, None].expand_as(pixels))
    return others, pixels


def measure(
    pixels: Tensor, clips: Clips, others: Clips, judge: Judge, truth: Tensor | None = None
) -> dict[str, Tensor]:
    """Each measure per clip, `[batch]`; the correlation is NaN where the motion is of angle or shear alone.

    `truth` is the subject's position in the frames of `pixels`, if they are not those of `Clips.track`.

    A clip is faithful if its subject, colour and background are all the prompt's; it leaks if one of the three is the
    reference's instead of the prompt's.
    """
    background = background_of(pixels)
    action, subject = (scores.argmax(1) for scores in judge(pixels))
    shown = torch.stack([subject, colour_of(pixels, background), background])
    asked = torch.stack([clips.subject, clips.colour, clips.background])
    other = torch.stack([others.subject, others.colour, others.background])
    return {
        "action_accuracy": (action == clips.action).float(),
        "trajectory_correlation": trajectory_correlation(
            track(pixels, background), clips.track() if truth is None else truth
        ),
        "prompt_fidelity": (shown == asked).all(0).float(),
        "leakage": ((shown == other) & (shown != asked)).any(0).float(),
    }


def interval(values: Tensor) -> list[float]:
    """Mean and its 95 % bootstrap interval."""
    values = values[~values.isnan()]
    pick = torch.randint(len(values), (2000, len(values)), generator=torch.Generator().manual_seed(0))
    low, high = torch.quantile(values[pick].mean(1), torch.tensor([0.025, 0.975])).tolist()
    return [round(value, 4) for value in (values.mean().item(), low, high)]


@torch.inference_mode()
def evaluate_arm(
    pipeline: Pipeline, judge: Judge, arm: str, clips: Clips
) -> tuple[dict[str, list[float] | int], Tensor]:
    """A cell of the table, `{measure: [mean, low, high], …, "clips": n}`, and the latents that it measures."""
    others, shown = references(arm, clips, torch.Generator().manual_seed(SEED), pipeline.pixels)
    made, found = [], []
    for rows in torch.arange(len(clips)).split(AT_ONCE):
        part = clips[rows]
        if arm == "real":
            latents = pipeline.encode(pipeline.pixels(part))
        elif arm == "base":
            latents = pipeline.base(part.captions(), pipeline.noise((SEED + rows).tolist()))
        else:
            reference = [] if arm == "no_reference" else [(pipeline.encode(shown[rows]), others[rows].captions())]
            latents = pipeline.generate(part.captions(), pipeline.noise((SEED + rows).tolist()), *reference)
        made.append(latents)
        found.append(measure(pipeline.show(latents), part, others[rows], judge, pipeline.truth(part)))
    means = {name: interval(torch.cat([part[name] for part in found])) for name in MEASURES}
    return {**means, "clips": len(clips)}, torch.cat(made)


def evaluate(
    pipeline: Pipeline,
    judge: Judge,
    count: int = 200,
    arms: Sequence[str] = ARMS,
    progress: Callable[[str], None] = lambda line: None,
) -> dict[str, dict]:
    """`{"unseen/echoreel": {measure: [mean, low, high], …, "clips": n}, …}` for both splits and these arms.

    All arms of a split have the same prompts and start from the same noise. "real" is the true clips of the prompts,
    as the autoencoder shows them: what the judge and the tracker can reach at best. "base" is a copy of the base model
    that no adapter was ever added to; "no_reference" is the model of all other arms, after them, without a reference,
    and has a measure more: the share of clips, `same_as_base`, whose latents equal those of "base" bit for bit.
    """
    result = {}
    for split, actions in (("unseen", UNSEEN), ("seen", SEEN)):
        clips = balanced(tuple(actions), count, SEED)
        for arm in arms:
            cell, made = evaluate_arm(pipeline, judge, arm, clips)
            if arm == "base":
                of_base = made
            elif arm == "no_reference":
                cell["same_as_base"] = interval(made.eq(of_base).flatten(1).all(1).float())
            result[f"{split}/{arm}"] = cell
            progress(row(f"{split}/{arm}", cell))
    return result


@torch.inference_mode()
def evaluate_blend(
    pipeline: Pipeline, count: int = 200, progress: Callable[[str], None] = lambda line: None
) -> dict[str, dict]:
    """How closely the first, half of each, and the second of two unseen references are followed.

    `{"blend/first": {"with_first": [mean, low, high], "with_second": …, "with_mean": …, "clips": n}, "blend/half": …,
    "blend/second": …}`: correlation with the path of the first reference, of the second, and with their mean.
    """
    clips = balanced(tuple(UNSEEN), count, SEED + 500)
    generator = torch.Generator().manual_seed(SEED + 500)
    pairs = [references(arm, clips, generator, pipeline.pixels) for arm in ("echoreel", "wrong")]
    found: dict[str, list[Tensor]] = {"first": [], "half": [], "second": []}
    for rows in torch.arange(len(clips)).split(AT_ONCE):
        shown = [(pipeline.encode(pixels[rows]), others[rows].captions()) for others, pixels in pairs]
        for name, used in (("first", shown[:1]), ("half", shown), ("second", shown[1:])):
            noise = pipeline.noise((SEED + rows).tolist())
            pixels = pipeline.show(pipeline.generate(clips[rows].captions(), noise, *used))
            found[name].append(track(pixels, background_of(pixels)))
    first, second = (pipeline.truth(others) for others, _ in pairs)
    paths = {"with_first": first, "with_second": second, "with_mean": (first + second) / 2}
    result = {}
    for name, tracks in found.items():
        told = {path: interval(trajectory_correlation(torch.cat(tracks), truth)) for path, truth in paths.items()}
        progress(f"{f'blend/{name}':18}" + "".join(f"{path:>14} {value[0]:.3f}" for path, value in told.items()))
        result[f"blend/{name}"] = {**told, "clips": len(clips)}
    return result


HEADER = f"{'':18}" + "".join(f"{name.replace('_', ' '):>26}" for name in MEASURES)


def row(name: str, cell: dict) -> str:
    """One line of the table."""
    return f"{name:18}" + "".join(f"{cell[key][0]:>10.3f} ({cell[key][1]:.3f}–{cell[key][2]:.3f})" for key in MEASURES)


def write(result: dict[str, dict], path: Path) -> None:
    path.write_text(json.dumps(result, indent=1) + "\n")

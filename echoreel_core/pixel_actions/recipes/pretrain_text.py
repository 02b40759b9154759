"""Pretrains the text encoder: every padding token must predict the whole caption.

CLIP text encoders come to a video model already knowing what words mean. Here one is made in a minute: from each token
after the caption's end, a linear layer that is then thrown away reads action, subject, colour, size and background, or
that they are withheld. 65 of the 77 tokens are padding, so the video model finds the caption wherever it looks.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from ...lvdm.text_encoder import CLIPTextEncoder
from ..model.base_model import TEXT, start_text
from ..world.actions import SEEN
from ..world.clips import draw_clips
from ..world.sprites import BACKGROUND_COLOURS, SIZES, SUBJECT_COLOURS, SUBJECTS
from ..world.words import END_ROW, UNKNOWN, dropped, ids
from .log import Log

_KINDS = {
    "action": SEEN,
    "subject": SUBJECTS,
    "colour": SUBJECT_COLOURS,
    "size": SIZES,
    "background": BACKGROUND_COLOURS,
}


def train(folder: Path, steps: int = 600, batch: int = 64, seed: int = 6, rate: float = 3e-3) -> None:
    """Write `text.pt` and `text.jsonl` into `folder`."""
    torch.manual_seed(seed)
    encoder = start_text(CLIPTextEncoder(TEXT))
    read = nn.ModuleDict({kind: nn.Linear(TEXT.width, len(values) + 1) for kind, values in _KINDS.items()})
    parameters = [*encoder.parameters(), *read.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=rate, betas=(0.9, 0.99), weight_decay=0.0)
    log = Log(folder / "text.jsonl")
    generator = torch.Generator().manual_seed(seed)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, (step + 1) / 50, (steps - step) / (0.5 * steps))
        clips = draw_clips(batch, seed * 1_000_000 + step, tuple(SEEN))
        whole, given = ids(clips.captions()), dropped(clips, generator, empty=0.1, action=0.2, words=0.3)
        told = told_kinds(whole, given)
        tokens = encoder(given)
        padding = given == END_ROW
        losses, right = {}, {}
        for kind, layer in read.items():
            answer = torch.where(told[kind], getattr(clips, kind), len(_KINDS[kind]))
            scores = layer(tokens)[padding]
            answer = answer[:, None].expand(padding.shape)[padding]
            losses[kind] = F.cross_entropy(scores, answer)
            right[kind] = (scores.argmax(1) == answer).float().mean().item()
        loss = sum(losses.values())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        if step % 20 == 0 or step == steps - 1:
            log(step=step, loss=loss.item(), **right)
    torch.save(encoder.state_dict(), folder / "text.pt")


def told_kinds(whole: torch.Tensor, given: torch.Tensor) -> dict[str, torch.Tensor]:
    """Which kinds of word are still in the captions, `[batch]` each. They begin: start, a, size, colour, subject."""
    full = given[:, 1] == whole[:, 1]
    told = {kind: full & (given[:, at] != UNKNOWN) for kind, at in (("size", 2), ("colour", 3), ("subject", 4))}
    length = (given != END_ROW).sum(1)
    rows = torch.arange(len(given))
    told["background"] = full & (given[rows, (length - 2).clamp(min=0)] != UNKNOWN)
    told["action"] = full & (given[:, 5] != UNKNOWN)
    return told

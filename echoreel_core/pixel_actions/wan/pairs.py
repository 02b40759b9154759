"""Pairs of the seen actions as the trainer takes them: one motion by two figures, as latents on the device."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...lvdm.text_encoder import CLIPTextEncoder
from ...training.data.batches import Batch
from ..recipes.pairs import pair
from ..world.words import ids
from .data import joined, latents_of, turns
from .vae import WanVAE

CHUNK = 1024


class WanPairs:
    """A `training.source.PairSource`. A pair's number tells its motion and which of the two figures is to be made.

    Args:
        text: the embedded model's text encoder.
        first, last: numbers of the chunks of 1024 motions, each also its seed; see `latents.pair`.
        turning: how often each motion in which the figure turns about itself is counted, to be as many times as likely.

    Attributes:
        empty_text: see `PairSource`.
        latents: `[2, motions, 16, 9, 8, 8]`, half precision.
    """

    def __init__(
        self, vae: WanVAE, text: CLIPTextEncoder, first: int, last: int, turning: int = 3, chunk: int = CHUNK
    ) -> None:
        halves = zip(*(pair(seed, chunk) for seed in range(first, last + 1)), strict=True)
        self.clips = tuple(joined(list(half)) for half in halves)
        self.latents = torch.stack([latents_of(vae, half) for half in self.clips])
        self._text, device = text, self.latents.device
        self._ids = [_ids(half.captions()).to(device) for half in self.clips]
        self.empty_text = self._tokens(ids([""]).to(device))[0]
        often = torch.where(turns(self.clips[0]), turning, 1)
        self._rows = torch.arange(len(often)).repeat_interleave(often)

    def __len__(self) -> int:
        return 2 * len(self._rows)

    def batch(self, indices: Sequence[int], seeds: Sequence[int]) -> Batch:
        """See `PairSource`; there is no choice for `seeds` to make."""
        numbers = torch.tensor(indices)
        half, rows = (numbers % 2).to(self.latents.device), self._rows[numbers // 2].to(self.latents.device)
        lines = torch.stack(self._ids)
        return Batch(
            target=self.latents[half, rows].float(),
            reference=self.latents[1 - half, rows].float(),
            prompt=self._tokens(lines[half, rows]),
            caption=self._tokens(lines[1 - half, rows]),
        )

    @torch.no_grad()
    def _tokens(self, lines: Tensor) -> Tensor:
        return self._text(lines)


def _ids(captions: list[str]) -> Tensor:
    table = {text: ids([text])[0] for text in dict.fromkeys(captions)}
    return torch.stack([table[text] for text in captions])

"""Pairs of the seen actions as the trainer takes them: one motion by two figures, as latents on the device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ...files import read_tensors, write_safetensors
from ...lvdm.text_encoder import CLIPTextEncoder
from ...training.data.batches import Batch
from ...training.loss import seed_of
from ...video.keypoints import with_missing
from ..recipes.pairs import pair
from ..world.clips import Clips
from ..world.words import ids
from .captions import Captions
from .data import joined, latents_of, turns
from .latents import FRAMES, PER_LATENT
from .vae import WanVAE

CHUNK = 1024


DROP = {"empty": 0.1, "action": 0.4, "words": 0.05}
"""Shares of the captions that are withheld, in whole or in part, as `words.dropped` has them."""


@dataclass(frozen=True)
class PairLatents:
    """Motions, each by two figures.

    Attributes:
        clips: of both figures, on the CPU.
        latents: `[2, motions, 16, 9, 8, 8]`, bfloat16.
    """

    clips: tuple[Clips, Clips]
    latents: Tensor

    @classmethod
    def make(cls, vae: WanVAE, first: int, last: int, chunk: int = CHUNK) -> PairLatents:
        """The chunks `first` to `last` of 1024 motions, each number also its seed; see `recipes.pairs.pair`."""
        halves = zip(*(pair(seed, chunk) for seed in range(first, last + 1)), strict=True)
        clips = tuple(joined(list(half)) for half in halves)
        return cls(clips, torch.stack([latents_of(vae, half) for half in clips]))

    @classmethod
    def kept(cls, folder: Path, vae: WanVAE, seed: int, chunk: int) -> PairLatents:
        """One chunk as `make` makes it, on the CPU, from the folder's file; where that is missing it is made first."""
        path = folder / f"pairs-{seed:05}.safetensors"
        if not path.exists():
            write_safetensors(path, {"latents": cls.make(vae, seed, seed, chunk).latents})
        return cls(pair(seed, chunk), read_tensors(path)["latents"])

    @classmethod
    def all_kept(cls, folder: Path, chunk: int) -> PairLatents:
        """All chunks of a folder, of so many motions each."""
        paths = sorted(folder.glob("pairs-*.safetensors"))
        halves = zip(*(pair(int(path.stem.split("-")[1]), chunk) for path in paths), strict=True)
        latents = torch.cat([read_tensors(path)["latents"] for path in paths], 1)
        return cls(tuple(joined(list(half)) for half in halves), latents)


class WanPairs:
    """A `PairSource`. A pair's number tells its motion and which of the two figures to make.

    Args:
        text: the embedded model's text encoder.
        turning: how many times as likely motions are in which the figure turns about itself.
        drop: as `DROP`; None withholds nothing.

    Attributes:
        empty_text: see `PairSource`.
    """

    def __init__(
        self, pairs: PairLatents, text: CLIPTextEncoder, turning: int = 3, drop: dict[str, float] | None = None
    ) -> None:
        self.clips, self.latents = pairs.clips, pairs.latents
        device = self.latents.device
        self._text = text
        self._captions = [Captions(half, device, **(drop or dict.fromkeys(DROP, 0.0))) for half in pairs.clips]
        self.empty_text = self._tokens(ids([""]).to(device))[0]
        often = torch.where(turns(pairs.clips[0]), turning, 1)
        points = [half.keypoints(FRAMES)[:, ::PER_LATENT] for half in pairs.clips]
        self._keypoints = with_missing(torch.stack(points)).to(device)
        self._rows = torch.arange(len(often)).repeat_interleave(often)

    def __len__(self) -> int:
        return 2 * len(self._rows)

    def batch(self, indices: Sequence[int], seeds: Sequence[int]) -> Batch:
        """See `PairSource`; `seeds` decide which words are withheld."""
        numbers, device = torch.tensor(indices), self.latents.device
        half, rows = (numbers % 2).to(device), self._rows[numbers // 2].to(device)
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(seed_of(*seeds))
            lines = torch.stack([captions.dropped(rows) for captions in self._captions])
        each = torch.arange(len(rows), device=device)
        return Batch(
            target=self.latents[half, rows].float(),
            reference=self.latents[1 - half, rows].float(),
            prompt=self._tokens(lines[half, each]),
            caption=self._tokens(lines[1 - half, each]),
            keypoints=self._keypoints[1 - half, rows],
        )

    @torch.no_grad()
    def _tokens(self, lines: Tensor) -> Tensor:
        return self._text(lines)

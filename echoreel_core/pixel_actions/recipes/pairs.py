"""Pairs of clips as latents, made ahead of training and kept on disk in chunks."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ...errors import EchoReelError
from ...files import whole_file
from ...lvdm.autoencoder import load_autoencoder
from ..model.latents import encode
from ..world.actions import CHANNELS, SEEN
from ..world.clips import Clips, draw_clips, render, with_other_subject

CHUNK = 1024


def pair(seed: int, count: int = CHUNK, actions: tuple[str, ...] = tuple(SEEN)) -> tuple[Clips, Clips]:
    """Clips, and the same motions by others."""
    clips = draw_clips(count, seed, actions)
    return clips, with_other_subject(clips, seed + 1_000_000)


def write_chunks(folder: Path, autoencoder: Path, first: int, last: int) -> None:
    """Write `first` to `last` chunks of pairs of seen actions into `folder`, those that are not there yet."""
    folder.mkdir(parents=True, exist_ok=True)
    model = load_autoencoder(load_file(autoencoder))
    for seed in range(first, last + 1):
        path = _chunk(folder, seed)
        if path.exists():
            continue
        halves = [
            torch.cat([encode(model, render(clips[start : start + 64])) for start in range(0, CHUNK, 64)])
            for clips in pair(seed)
        ]
        with whole_file(path) as temporary:
            save_file({"latents": torch.stack(halves).half()}, temporary)


class Pairs:
    """The pairs of a folder's chunks.

    Attributes:
        chunks: of each, the clips of both halves, which clips turn about themselves `[CHUNK]`, and the latents of both
            halves `[2, CHUNK, 4, frames, 8, 8]`, half precision.
    """

    def __init__(self, folder: Path) -> None:
        seeds = sorted(int(path.stem.split("-")[1]) for path in folder.glob("pairs-*.safetensors"))
        if not seeds:
            raise EchoReelError(f"{folder} has no pairs-*.safetensors in it: run the `pairs` command first.")
        self.chunks = []
        for seed in seeds:
            clips = pair(seed)
            turns = clips[0].poses()[..., CHANNELS.index("angle")].abs().amax(1) > 0
            self.chunks.append((clips, turns, load_file(_chunk(folder, seed))["latents"]))

    def batch(
        self, size: int, generator: torch.Generator, turning: float = 1.0
    ) -> tuple[tuple[Clips, Clips], tuple[Tensor, Tensor]]:
        """Clips and latents `[size, 4, frames, 8, 8]` of both halves of random pairs; which half is first is random.

        Pairs in which the figure turns about itself are `turning` times as likely as the others.
        """
        clips, turns, latents = self.chunks[int(torch.randint(len(self.chunks), (1,), generator=generator))]
        if turning == 1.0:
            rows = torch.randperm(CHUNK, generator=generator)[:size]
        else:
            rows = torch.multinomial(1 + (turning - 1) * turns, size, generator=generator)
        first = int(torch.randint(2, (1,), generator=generator))
        order = (first, 1 - first)
        return tuple(clips[i][rows] for i in order), tuple(latents[i][rows].float() for i in order)


def _chunk(folder: Path, seed: int) -> Path:
    return folder / f"pairs-{seed:05}.safetensors"

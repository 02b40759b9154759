"""The pairs of a finished cache, as training takes them."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence

import torch
from torch import Tensor

from ...errors import EchoReelError
from .batches import Batch
from .cache_folder import CLIP_KIND, TEXT_KIND, CacheFolder
from .conditioning import TOKENS, Conditioning


class CachedPairs:
    """The pairs of a cache, those trained on or those held out; implements `PairSource`.

    Attributes:
        fps: median frame rate at which the clips were taken.
    """

    def __init__(self, folder: str | os.PathLike, held_out: bool = False) -> None:
        """Raises: EchoReelError where the folder holds no finished cache."""
        self.folder = CacheFolder(folder)
        manifest = self.folder.manifest()
        if manifest is None:
            raise EchoReelError(f"There is no finished cache in {folder}: run `cache` first.")
        self.clips: list[list[str]] = manifest["clips"]
        self.pairs = [
            (target, references) for target, references, measures in manifest["pairs"] if measures == held_out
        ]
        self.fps: float = manifest["fps"]
        self._groups = manifest.get("groups", {})
        self.empty_text = self._text(manifest["empty_text"])

    def __len__(self) -> int:
        return len(self.pairs)

    def group(self, index: int) -> object:
        """See `batches.same_shape`."""
        return self._groups.get(self.clips[self.pairs[index][0]][0])

    def batch(self, indices: Sequence[int], seeds: Sequence[int]) -> Batch:
        """See `PairSource`. Raises: EchoReelError where a file of the cache is missing or damaged."""
        rows = []
        for index, seed in zip(indices, seeds, strict=True):
            target, references = self.pairs[index]
            (latents, prompt), (reference, caption) = self.clips[target], self.clips[references[seed % len(references)]]
            made, image_conditioning = self.folder.read(CLIP_KIND, latents)
            shown, _ = self.folder.read(CLIP_KIND, reference)
            texts = self._text(prompt), self._text(caption)[TOKENS]
            rows.append((made["latents"], shown["latents"], *texts, image_conditioning, shown.get("keypoints")))
        targets, shown, prompts, captions, image_conditioning, keypoints = zip(*rows, strict=True)
        return Batch(
            torch.stack(targets), torch.stack(shown), prompts, captions, image_conditioning, _stacked(keypoints)
        )

    def _text(self, key: str) -> Conditioning:
        return self.folder.read(TEXT_KIND, key)[1]


def _stacked(keypoints: Sequence[Tensor | None]) -> Tensor | None:
    """Those of clips that have some; NaN for the others."""
    known = next((points for points in keypoints if points is not None), None)
    if known is None:
        return None
    return torch.stack([torch.full_like(known, math.nan) if points is None else points for points in keypoints])

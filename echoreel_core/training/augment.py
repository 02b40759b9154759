"""Changes to pairs that leave the action as it is, so that the prism does not learn where things lie instead."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from .data.batches import Batch
from .loss import seed_of


def augmented(batch: Batch, samples: Sequence[int], seed: int, *, shift: float = 0.0, mirror: float = 0.0) -> Batch:
    """The batch with references moved, and pairs mirrored.

    What happens to a sample is a function of (seed, its running number) alone. Both are done to the latents, which a
    VAE's own would be close to. Where the model is given images of the target, nothing is mirrored. Keypoints move with
    the reference; mirrored ones are forgotten, since left and right would have to change names too.

    Args:
        shift: references are moved by up to this share of their height and width, by whole latents; the edge fills up.
        mirror: share of the pairs of which target and reference are mirrored left to right. The captions stay.
    """
    if not shift and not mirror:
        return batch
    target, reference = batch.target.clone(), batch.reference.clone()
    keypoints = None if batch.keypoints is None else batch.keypoints.clone()
    for row, sample in enumerate(samples):
        generator = torch.Generator().manual_seed(seed_of(seed, "augment", sample))
        flip, down, across = torch.rand(3, generator=generator).tolist()
        if flip < mirror and not batch.image_conditioning:
            target[row], reference[row] = target[row].flip(-1), reference[row].flip(-1)
            if keypoints is not None:
                keypoints[row] = math.nan
        height, width = reference.shape[-2:]
        down, across = round((2 * down - 1) * shift * height), round((2 * across - 1) * shift * width)
        reference[row] = moved(reference[row], down, across)
        if keypoints is not None:
            keypoints[row] += 2 * torch.tensor([across / width, down / height]).to(keypoints)
    return replace(batch, target=target, reference=reference, keypoints=keypoints)


def moved(latents: Tensor, down: int, across: int) -> Tensor:
    """[C, T, H, W] moved by whole positions; what comes in is the edge, repeated."""
    if not down and not across:
        return latents
    height, width = latents.shape[-2:]
    pad = (max(across, 0), max(-across, 0), max(down, 0), max(-down, 0))
    wide = F.pad(latents, pad, mode="replicate")
    top, left = max(-down, 0), max(-across, 0)
    return wide[..., top : top + height, left : left + width]

"""Deterministic weights for a checkpoint layout, so that a fixture needs no weight file.

Every tensor is drawn from a generator seeded by the CRC-32 of its key, so it depends on nothing but its name. The
fixtures in tests/fixtures were recorded from the authors' implementation with exactly these weights.
"""

from __future__ import annotations

import json
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

FIXTURES = Path(__file__).parent / "fixtures"


def draw(key: str, shape: list[int]) -> torch.Tensor:
    """The float32 weight of one key: norms near 1, relative positions small, everything else of unit gain."""
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(zlib.crc32(key.encode())))
    if len(shape) <= 1:
        return noise * 0.02 + (1.0 if key.endswith("weight") else 0.0)
    if "embeddings_table" in key:
        return noise * 0.05
    return noise * noise[0].numel() ** -0.5


def shapes_of(layout: str) -> dict[str, list[int]]:
    """Every key of `tests/fixtures/<layout>_layout.json` with its shape."""
    return json.loads((FIXTURES / f"{layout}_layout.json").read_text())


def make_state_dict(layout: str, prefix: str = "") -> dict[str, torch.Tensor]:
    """Tensors for every key of a layout that starts with `prefix`; keys are kept whole."""
    shapes = {key: shape for key, shape in shapes_of(layout).items() if key.startswith(prefix)}
    with ThreadPoolExecutor() as pool:  # one generator draws on one core only
        return dict(zip(shapes, pool.map(draw, shapes, shapes.values()), strict=True))

"""The account of training memory is held against what two small blocks and a small prism really keep alive."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

from adapter_memory import measured  # noqa: E402
from blocks import WanSizes  # noqa: E402
from memory_account import Way  # noqa: E402


@pytest.mark.parametrize("checkpointing", [True, False])
def test_the_account_is_what_is_alive(checkpointing):
    sizes = WanSizes(dim=256, feed_forward=1493, heads=2, depth=2, text_width=64)
    prism = {"width": 128, "heads": 2, "head_dim": 64, "depth": 2, "context_width": 64}
    parts = list(measured(sizes, 2, (40, 60), Way(checkpointing=checkpointing), **prism))
    assert [name for name, _, _ in parts] == ["prism", "blocks"]
    for name, told, found in parts:
        assert told == pytest.approx(found, rel=0.25), name

"""Importing the pack is quick because it brings in nothing; how quick, benchmarks/import_time.py measures."""

import json
import subprocess
import sys

import pytest
from places import ROOT


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    """What a fresh host with the pack has imported: the pack's own modules, and those of others it brought in."""
    command = [sys.executable, ROOT / "benchmarks" / "import_time.py", "--once", tmp_path_factory.mktemp("compiled")]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def test_nothing_but_the_standard_library_is_brought_in(imported):
    """torch, av, einops and Pillow are the host's already; nothing else of theirs may be needed at import."""
    assert imported["own"]
    assert [name for name in imported["brought"] if name.split(".")[0] not in sys.stdlib_module_names] == []


@pytest.mark.parametrize(
    "part", ["training.trainer", "training.run", "training.data.cache", "pixel_actions.world", "commands.convert"]
)
def test_what_a_start_does_not_need_is_left_alone(part, imported):
    name = f"echoreel_core.{part}"
    assert (ROOT / name.replace(".", "/")).is_dir() or (ROOT / (name.replace(".", "/") + ".py")).is_file()
    assert not [own for own in imported["own"] if own == name or own.startswith(f"{name}.")]

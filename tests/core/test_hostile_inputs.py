"""A fixed part of the generated hostile files and values; by hand `python tests/hostile_inputs.py` runs more."""

import os

import pytest
from hostile_inputs import KINDS, problems


@pytest.mark.skipif(os.name == "nt", reason="makes links and names that Windows does not have")
def test_hostile_inputs_are_taken_or_refused_in_a_sentence():
    assert list(problems(0, 160)) == []


def test_crashes_hangs_and_raw_errors_would_be_named(monkeypatch, tmp_path):
    """The watching itself: of four cases one is fine, one ends its process, one hangs and one raises."""
    import hostile_inputs

    script = tmp_path / "cases.py"
    script.write_text(
        f"import sys, os, time; sys.path[:0] = {[str(hostile_inputs.ROOT / 'tests'), str(hostile_inputs.ROOT)]!r}\n"
        "import hostile_inputs as h\n"
        "def case(c):\n"
        "    match int(c.folder.name):\n"
        "        case 1: os._exit(3)\n"
        "        case 2: time.sleep(60)\n"
        "        case 3: raise KeyError('x')\n"
        "h.KINDS, h.good_files = (case,), lambda folder: {}\n"
        "h.run_cases(int(sys.argv[2]), int(sys.argv[4]))\n"
    )
    monkeypatch.setattr(hostile_inputs, "__file__", str(script))
    monkeypatch.setattr(hostile_inputs, "LIMIT", 2)
    first, second, third = problems(0, 4)
    assert "case 1 (case) ended the process (3)" in first
    assert "case 2 (case) hung" in second
    assert "case 3 (case): KeyError" in third


def test_every_kind_is_in_the_fixed_part():
    assert len({KINDS[number % len(KINDS)] for number in range(160)}) == len(set(KINDS))

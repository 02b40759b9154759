"""The command that measures on a GPU, in its small form on the CPU, and how it holds its checks to their time."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

from gpu_checks.report import Row, markdown  # noqa: E402
from gpu_checks.runner import Check, ask, run  # noqa: E402

CHECKS = [
    "device",
    "parity",
    "training-wan",
    "training-embedded",
    "layer-wan-1.3b",
    "layer-wan-14b",
    "layer-ltxv",
    "layer-hunyuan",
    "layer-lvdm",
]


FORKS = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a function within a test cannot be sent")


@pytest.mark.heavy
def test_all_of_it_in_the_small_form(tmp_path):
    without_av = tmp_path / "modules"
    without_av.mkdir()
    (without_av / "av.py").write_text("raise ImportError('not here')")
    page = tmp_path / "gpu.md"
    options = ["--device", "cpu", "--small", "--minutes", "20", "--markdown", page]
    command = [sys.executable, ROOT / "benchmarks" / "gpu_check.py", *options]
    environment = {**os.environ, "PYTHONPATH": str(without_av), "COMFYUI_PATH": str(tmp_path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    text = page.read_text(encoding="utf-8")
    rows = [
        Row(*(cell.strip() for cell in line.split("|")[1:-1])) for line in text.splitlines() if line.startswith("| ")
    ][2:]
    assert list(dict.fromkeys(row.check for row in rows)) == CHECKS
    results = {name: [row.result for row in rows if row.check == name] for name in CHECKS}
    assert len(results["parity"]) == 4 and all(result.startswith("holds") for result in results["parity"])
    assert all(result.startswith("skipped: no ComfyUI") for name in CHECKS[6:8] for result in results[name])
    measured = [name for name in CHECKS if name not in CHECKS[6:8]]
    assert all(results[name] for name in measured)
    assert not any(word in result for name in measured for result in results[name] for word in ("failed", "skipped"))
    for word in ("stopped", "DOES NOT HOLD"):
        assert word not in text


def rows_of(work, seconds: float = 30.0, left: float = 30.0) -> list[Row]:
    return list(run(Check("toy", work, seconds), "cpu", True, time.monotonic() + left))


@FORKS
def test_what_fails_is_a_line_and_the_rest_goes_on():
    def work(bench):
        with bench.attempt("first"):
            raise RuntimeError("no such thing\nand more")
        bench.row("second", "1 ms")
        raise MemoryError

    assert rows_of(work) == [
        Row("toy", "first", "failed: RuntimeError: no such thing"),
        Row("toy", "second", "1 ms"),
        Row("toy", "the rest", "failed: MemoryError"),
    ]


@FORKS
def test_a_process_that_dies_is_a_line():
    def work(bench):
        bench.row("first", "1 ms")
        sys.exit(3)

    assert rows_of(work) == [
        Row("toy", "first", "1 ms"),
        Row("toy", "the rest", "failed: the process ended with code 3"),
    ]


@FORKS
def test_a_check_is_stopped_with_what_it_started(tmp_path):
    alive = tmp_path / "alive"

    def work(bench):
        bench.row("first", "1 ms")
        loop = f"while true; do touch '{alive}'; sleep 0.1; done"
        subprocess.run(["sh", "-c", loop])

    start = time.monotonic()
    assert rows_of(work, seconds=1) == [Row("toy", "first", "1 ms"), Row("toy", "the rest", "stopped after 1 s")]
    assert time.monotonic() - start < 5
    assert alive.exists()
    alive.unlink()
    time.sleep(0.5)
    assert not alive.exists()


@FORKS
def test_no_check_is_started_without_time_and_none_outlives_it():
    assert rows_of(lambda bench: bench.row("first", "1 ms"), left=4) == [
        Row("toy", "all of it", "skipped: no time left")
    ]
    start = time.monotonic()
    assert rows_of(lambda bench: time.sleep(60), left=6)[-1].result == "stopped after 6 s"
    assert time.monotonic() - start < 10

    def asks(bench):
        assert not bench.enough("long", 100)

    assert rows_of(asks)[0].result == "skipped: takes about 100 s, 30 s are left"


def test_a_question_is_answered_in_another_process():
    assert ask(os.getpid) != os.getpid()


def test_the_table_is_one():
    table = markdown([Row("a", "b|c", "1 ms"), Row("long name", "d", "2 ms", "remark")]).splitlines()
    assert len({len(line) for line in table}) == 1
    assert {line.count("|") for line in table} == {5}

"""What importing the pack adds to the start of ComfyUI.

    COMFYUI_PATH=... COMFYUI_PYTHON=... python benchmarks/import_time.py [--repeats N] [--slowest N]

Every round is a fresh interpreter that imports what ComfyUI has always imported when it comes to its custom nodes,
then the pack, and asks for its nodes and their inputs. "first start" is the same without compiled files of the pack, as
right after installing. The modules are those of one more round under Python's own -X importtime.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib.util
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
COMFYUI = Path(os.environ.get("COMFYUI_PATH", Path.home() / "ComfyUI")).expanduser()
PACK = "echoreel_pack"


def import_host() -> None:
    """All that ComfyUI imports before the first custom node."""
    os.chdir(COMFYUI)
    sys.path[0] = str(COMFYUI)
    sys.argv = [sys.argv[0], "--cpu"]  # the host reads its options at import
    import comfy.options

    comfy.options.enable_args_parsing()
    import server  # noqa: F401

    import nodes

    asyncio.run(nodes.init_builtin_extra_nodes())


def import_pack() -> None:
    """As the host does it, and as far as the page's first question for the nodes."""
    spec = importlib.util.spec_from_file_location(PACK, ROOT / "__init__.py", submodule_search_locations=[str(ROOT)])
    module = importlib.util.module_from_spec(spec)
    sys.modules[PACK] = module
    spec.loader.exec_module(module)
    for node in asyncio.run(module.comfy_entrypoint().get_node_list()):
        node.GET_SCHEMA()


def once(compiled: str) -> None:
    """Prints the seconds of host and pack, and which modules of others the pack brought in, as JSON.

    Args:
        compiled: folder for the pack's compiled files.
    """
    with contextlib.redirect_stdout(sys.stderr):
        begun = time.perf_counter()
        import_host()
        there = set(sys.modules)
        sys.pycache_prefix, sys.dont_write_bytecode = compiled, False
        started = time.perf_counter()
        import_pack()
        ended = time.perf_counter()
    brought = sorted(name for name in sys.modules.keys() - there if name.split(".")[0] != PACK)
    own = sorted(name.removeprefix(PACK + ".") for name in sys.modules if name.startswith(PACK + "."))
    print(json.dumps({"host": started - begun, "pack": ended - started, "brought": brought, "own": own}))


def fresh(compiled: Path, *python: str) -> subprocess.CompletedProcess[str]:
    """One round in an interpreter of its own, the host's, with options for that."""
    interpreter = os.environ.get("COMFYUI_PYTHON", sys.executable)
    command = [interpreter, *python, __file__, "--once", str(compiled)]
    return subprocess.run(command, check=True, capture_output=True, text=True)


def own_seconds(importtime: str) -> dict[str, float]:
    """Seconds in each module of the pack without those it imports, from what -X importtime wrote."""
    lines = re.findall(rf"import time:\s*(\d+) \|\s*\d+ \|\s*{PACK}\.(\S+)", importtime)
    return {name: int(microseconds) / 1e6 for microseconds, name in lines}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7, help="rounds to take medians of, default %(default)s")
    parser.add_argument("--slowest", type=int, default=5, help="modules to list, default %(default)s")
    parser.add_argument(
        "--once", metavar="FOLDER", help="one round in this interpreter, as JSON; compiled files go there"
    )
    options = parser.parse_args()
    if options.once:
        return once(options.once)

    rounds = {"each start": [], "first start": []}
    with tempfile.TemporaryDirectory() as folder:
        compiled = Path(folder, "compiled")
        fresh(compiled)
        for number in range(options.repeats):  # in turn, so that a busy machine burdens both alike
            rounds["each start"].append(json.loads(fresh(compiled).stdout))
            rounds["first start"].append(json.loads(fresh(Path(folder, f"empty {number}")).stdout))
        seconds = own_seconds(fresh(compiled, "-X", "importtime").stderr)
    host = statistics.median(run["host"] for run in rounds["each start"])
    print(f"ComfyUI itself: {host:.2f} s (median of {options.repeats})")
    for name, runs in rounds.items():
        share = statistics.median(run["pack"] / run["host"] for run in runs)
        print(f"{name}: {1000 * statistics.median(run['pack'] for run in runs):.0f} ms, {100 * share:.1f} % of that")
    print("brought in beside the pack's own:", ", ".join(rounds["each start"][0]["brought"]) or "nothing")
    print(f"{len(seconds)} modules of the pack, the slowest by themselves:")
    for name, own in sorted(seconds.items(), key=lambda item: -item[1])[: options.slowest]:
        print(f"  {1000 * own:5.1f} ms  {name}")


if __name__ == "__main__":
    main()

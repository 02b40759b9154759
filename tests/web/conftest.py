"""Browser tests: the page of a real ComfyUI, seen by a real browser. tests/run.py starts them in the host's Python."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent / "host"), str(HERE.parent)]
sys.path.append(str(HERE.parents[1]))

from comfy_server import ComfyServer  # noqa: E402
from places import COMFYUI  # noqa: E402
from subgraphs import levels  # noqa: E402
from workflow_files import SHIPPED, load  # noqa: E402

SHOTS = HERE.parent / "output" / "web"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@pytest.fixture(scope="session")
def tools() -> dict[str, str]:
    """Node and a Chromium; both can be named, as NODE and CHROMIUM."""
    node = os.environ.get("NODE") or shutil.which("node")
    chromium = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, BROWSERS)), None)
    module = HERE / "node_modules" / "playwright-core"
    needed = {"Node": node, "Chromium": chromium, f"ComfyUI at {COMFYUI}": (COMFYUI / "main.py").is_file()}
    lacking = [name for name, there in needed.items() if not there]
    if not module.is_dir():
        lacking.append("playwright-core (npm install --prefix tests/web)")
    if lacking:
        pytest.skip(f"BROWSER TESTS SKIPPED: there is no {', no '.join(lacking)}")
    return {"node": node, "chromium": chromium}


def named_models() -> Iterator[tuple[str, str]]:
    """(model folder, file) of every model that a shipped workflow names."""
    for path in SHIPPED:
        for node in (node for level in levels(load(path)) for node in level):
            for model in node["properties"].get("models", ()):
                yield model["directory"], model["name"]


@pytest.fixture(scope="session")
def server(tools, tmp_path_factory):
    """A running ComfyUI with the pack and a toy checkpoint under the shipped workflows' name."""
    from checkpoints import SHIPPED_NAME, save_as_deepspeed, toy_state_dict

    server = ComfyServer(tmp_path_factory.mktemp("server"))
    for folder, name in named_models():  # the page reports files that are not there when a workflow opens
        path = server.base / "models" / folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    save_as_deepspeed(toy_state_dict(), server.base / "models" / "checkpoints" / SHIPPED_NAME)
    with server:
        yield server


@pytest.fixture(scope="session")
def object_info(server):
    """What the running ComfyUI says of its nodes."""
    return server.get("/object_info")


@pytest.fixture(scope="module")
def browse(tools, server, tmp_path_factory):
    """Runs a script of this folder in a renderer of the page: (script, renderer, the rest of its task) → its report."""

    def run(script: str, renderer: str, **told: object) -> dict:
        folder = tmp_path_factory.mktemp(renderer)
        SHOTS.mkdir(parents=True, exist_ok=True)
        task = {
            "url": server.url,
            "renderer": renderer,
            "chromium": tools["chromium"],
            "saved": str(server.base / "user" / "default" / "workflows"),
            "shots": str(SHOTS),
            "report": str(folder / "report.json"),
            **told,
        }
        (folder / "task.json").write_text(json.dumps(task), encoding="utf-8")
        command = [tools["node"], script, str(folder / "task.json")]
        done = subprocess.run(command, cwd=HERE, capture_output=True, text=True, timeout=900)
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads((folder / "report.json").read_text(encoding="utf-8"))

    return run

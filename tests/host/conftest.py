"""Host tests run inside a real ComfyUI's Python, on the CPU; tests/run.py starts them there."""

from __future__ import annotations

import importlib.util
import sys

import pytest
from places import COMFYUI, ROOT

if not (COMFYUI / "comfy").is_dir():
    pytest.exit(f"host tests need a ComfyUI: none at {COMFYUI}, set COMFYUI_PATH", returncode=4)

sys.path[:0] = [str(COMFYUI), str(ROOT / "tests")]
sys.path.append(str(ROOT))  # behind the host, whose nodes.py goes before the pack's nodes
sys.argv = [sys.argv[0], "--cpu"]  # the host reads its options from here at import

import comfy.options  # noqa: E402

comfy.options.enable_args_parsing()

import torch  # noqa: E402

import nodes  # noqa: E402, F401  the host's, before the folder of that name of the pack is found

torch.set_num_threads(1)  # tiny models spend more time on waiting for other threads than on computing


def _import_pack():
    """Imports the pack from its folder, as the host does."""
    spec = importlib.util.spec_from_file_location(
        "echoreel_pack", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


PACK = _import_pack()


@pytest.fixture(scope="session", autouse=True)
def folders(tmp_path_factory):
    """Points the host's folders at temporary ones, then registers the pack's own."""
    import folder_paths

    base = tmp_path_factory.mktemp("comfyui")
    folder_paths.models_dir = str(base / "models")
    folder_paths.set_output_directory(str(base / "output"))
    folder_paths.set_input_directory(str(base / "input"))
    folder_paths.folder_names_and_paths["checkpoints"][0][:] = [str(base / "models" / "checkpoints")]
    for name in ("models/checkpoints", "models/echoreel", "output", "input"):
        (base / name).mkdir(parents=True)
    PACK.comfy_entrypoint()
    return base


@pytest.fixture(scope="session")
def pack():
    """The pack as the host imported it."""
    return PACK


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """A running ComfyUI with the pack, a toy checkpoint under the shipped workflows' name, and a clip, clip.mp4."""
    from checkpoints import SHIPPED_NAME, save_as_deepspeed, toy_state_dict
    from comfy_server import ComfyServer
    from video_clips import write_clip

    server = ComfyServer(tmp_path_factory.mktemp("server"))
    save_as_deepspeed(toy_state_dict(), server.base / "models" / "checkpoints" / SHIPPED_NAME)
    write_clip(server.base / "input" / "clip.mp4", 80, size=(320, 240))
    with server:
        yield server


@pytest.fixture(scope="session")
def object_info(server):
    """What the running ComfyUI says of its nodes."""
    return server.get("/object_info")

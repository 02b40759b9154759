"""Diffusion models in GGUF files, read by the pack ComfyUI-GGUF: ComfyUI itself does not know them."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import folder_paths

import nodes  # the host's

from ...echoreel_core.errors import EchoReelError

PACK, NODE = "ComfyUI-GGUF", "UnetLoaderGGUF"


def load_gguf(path: str) -> Any:
    """The MODEL of a file. Raises: EchoReelError where the pack is not installed, or cannot be imported."""
    file = Path(path)
    if NODE not in nodes.NODE_CLASS_MAPPINGS:
        folder = _pack()
        if folder is None:
            raise EchoReelError(f"{file.name} needs the pack {PACK}, which is not in ComfyUI's custom_nodes.")
        asyncio.run(nodes.load_custom_node(str(folder)))
    if NODE not in nodes.NODE_CLASS_MAPPINGS:
        raise EchoReelError(f"{file.name} needs the pack {PACK}, which cannot be imported: see the lines above.")
    folder_paths.add_model_folder_path("diffusion_models", str(file.parent), is_default=True)  # it takes names alone
    return nodes.NODE_CLASS_MAPPINGS[NODE]().load_unet(file.name)[0]


def _pack() -> Path | None:
    roots = [Path(root) for root in folder_paths.get_folder_paths("custom_nodes") if Path(root).is_dir()]
    return next((place for root in roots for place in root.iterdir() if place.name.lower() == PACK.lower()), None)

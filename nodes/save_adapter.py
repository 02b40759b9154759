"""Save EchoReel Adapter."""

from __future__ import annotations

import os

import folder_paths
import torch
from comfy_api.latest import io

from ..echoreel_core.errors import EchoReelError
from ..echoreel_core.files import write_safetensors
from .action_prism_encode import NO_ECHOREEL
from .load_echoreel import ADAPTER_FOLDER
from .models.adapter import LoadedAdapter, adapter_weights
from .wires import EchoReelWire


class SaveAdapter(io.ComfyNode):
    """An adapter as a file that Load EchoReel Adapter lists."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="EchoReelSaveAdapter",
            display_name="Save EchoReel Adapter",
            category="EchoReel/training",
            description="Saves an adapter in models/echoreel, where Load EchoReel Adapter finds it.",
            search_aliases=["export adapter", "write adapter"],
            is_output_node=True,
            inputs=[
                EchoReelWire.Input(
                    "echoreel", tooltip=("From Train EchoReel, or from any other node with an ECHOREEL output.")
                ),
                io.String.Input(
                    "filename_prefix",
                    default="my_adapter",
                    tooltip=(
                        "The file's name, with a folder if you like: people/jump. A number is added, so nothing is "
                        "overwritten."
                    ),
                ),
                io.Combo.Input(
                    "precision",
                    options=["float16", "bfloat16", "float32"],
                    tooltip=(
                        "Precision of the saved weights. float16 halves the file size with no visible loss; float32 "
                        "keeps every bit, for further training."
                    ),
                ),
            ],
            outputs=[io.String.Output("file", tooltip="The name under which Load EchoReel Adapter lists it.")],
        )

    @classmethod
    def execute(cls, echoreel: LoadedAdapter | None, filename_prefix: str, precision: str) -> io.NodeOutput:
        if echoreel is None:
            raise EchoReelError(NO_ECHOREEL)
        root = folder_paths.get_folder_paths(ADAPTER_FOLDER)[-1]
        os.makedirs(root, exist_ok=True)
        folder, name, counter, _, _ = folder_paths.get_save_image_path(filename_prefix, root)
        path = os.path.join(folder, f"{name}_{counter:05}_.safetensors")
        write_safetensors(path, adapter_weights(echoreel), echoreel.config.to_json(), dtype=getattr(torch, precision))
        return io.NodeOutput(os.path.relpath(path, root))


NODES = [SaveAdapter]

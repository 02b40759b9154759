"""Load EchoReel Checkpoint, Load EchoReel Adapter."""

from __future__ import annotations

import os

import folder_paths
from comfy_api.latest import io

from ..echoreel_core.lvdm.checkpoint import load_released
from ..echoreel_core.pixel_actions.model.files import EMBEDDED_FILE
from .models.adapter import adapter_from_weights, load_adapter
from .models.lvdm import image_vae, lvdm_patcher, reload_lvdm, text_encoder
from .wires import EchoReelWire

ADAPTER_FOLDER = "echoreel"
EMBEDDED = "Pixel Actions (comes with EchoReel)"


def register_folders() -> None:
    """Adds models/echoreel to the host's model folders; a path from extra_model_paths.yaml stays first."""
    folder_paths.add_model_folder_path(ADAPTER_FOLDER, os.path.join(folder_paths.models_dir, ADAPTER_FOLDER))
    folder_paths.folder_names_and_paths[ADAPTER_FOLDER][1].add(".safetensors")


class LoadCheckpoint(io.ComfyNode):
    """The released all-in-one checkpoint, its conversions, or the base model without EchoReel."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="EchoReelLoadCheckpoint",
            display_name="Load EchoReel Checkpoint",
            category="EchoReel",
            description=(
                "Loads a checkpoint that contains everything: the video model, its text encoder and VAE, and EchoReel."
                " Reads the authors' checkpoint.pt as published, and the smaller safetensors files made from it."
            ),
            search_aliases=["lvdm", "action prism loader", "echoreel model"],
            inputs=[
                io.Combo.Input(
                    "checkpoint",
                    options=[EMBEDDED, *folder_paths.get_filename_list("checkpoints")],
                    tooltip=(
                        "A checkpoint in models/checkpoints that contains EchoReel: the authors' checkpoint.pt, or a "
                        "smaller safetensors file made from it. Press R to see a new one. The first entry is always "
                        "there: a small model that makes pixel art of 32 x 32 pixels, so that you can try everything "
                        "at once."
                    ),
                )
            ],
            outputs=[
                io.Model.Output(tooltip="The video model, for any sampler. Frames go in the latent batch."),
                io.Clip.Output(tooltip="Its text encoder."),
                io.Vae.Output(tooltip="Its VAE."),
                EchoReelWire.Output(tooltip="Reads actions from clips and adds them to the video model."),
            ],
        )

    @classmethod
    def execute(cls, checkpoint: str) -> io.NodeOutput:
        embedded = checkpoint == EMBEDDED
        path = str(EMBEDDED_FILE) if embedded else folder_paths.get_full_path_or_raise("checkpoints", checkpoint)
        parts = load_released(path)
        model = lvdm_patcher(parts)
        model.cached_patcher_init = (reload_lvdm, (path,))
        clip = text_encoder(parts.text, folder_paths.get_folder_paths("embeddings")) if parts.text else None
        echoreel = None
        if parts.adapter_config is not None:
            echoreel = adapter_from_weights(parts.adapter_config, parts.adapter, path)
        return io.NodeOutput(model, clip, image_vae(parts.vae), echoreel)


class LoadAdapter(io.ComfyNode):
    """An EchoReel adapter for a model that another node loads."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="EchoReelLoadAdapter",
            display_name="Load EchoReel Adapter",
            category="EchoReel",
            description="Loads an EchoReel adapter that was trained for the video model you use.",
            search_aliases=["echoreel model", "action adapter"],
            inputs=[
                io.Combo.Input(
                    "adapter",
                    options=folder_paths.get_filename_list(ADAPTER_FOLDER),
                    tooltip=(
                        "A file in models/echoreel. It fits only the model family and size it was trained for. Press R"
                        " to see a new one."
                    ),
                )
            ],
            outputs=[EchoReelWire.Output(tooltip="Reads actions from clips and adds them to the video model.")],
        )

    @classmethod
    def execute(cls, adapter: str) -> io.NodeOutput:
        return io.NodeOutput(load_adapter(folder_paths.get_full_path_or_raise(ADAPTER_FOLDER, adapter)))


NODES = [LoadCheckpoint, LoadAdapter]

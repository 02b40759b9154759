"""Save Action, Load Action."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

import folder_paths
from comfy_api.latest import io

from ..echoreel_core.action.action import Action
from ..echoreel_core.action.file import load_action, save_action
from ..echoreel_core.errors import EchoReelError
from .wires import ActionWire

ACTION_FOLDER = "echoreel_actions"


DATE_PARTS = {"yyyy": "%Y", "yy": "%y", "MM": "%m", "dd": "%d", "hh": "%H", "mm": "%M", "ss": "%S"}


def with_date(prefix: str) -> str:
    """`%date:yyyy-MM-dd%` in a name as the date; the page fills it in for the host's own save nodes only."""
    now = time.localtime()

    def date(found: re.Match) -> str:
        return re.sub("|".join(DATE_PARTS), lambda part: time.strftime(DATE_PARTS[part[0]], now), found[1])

    return re.sub("%date:([^%]*)%", date, prefix)


def register_folders() -> None:
    """Lists saved actions: those in the output folder, then those in the input folder."""
    for parent in (folder_paths.get_output_directory(), folder_paths.get_input_directory()):
        folder_paths.add_model_folder_path(ACTION_FOLDER, os.path.join(parent, ACTION_FOLDER))
    folder_paths.folder_names_and_paths[ACTION_FOLDER][1].add(".safetensors")


class SaveAction(io.ComfyNode):
    """An action as a file of a few hundred kilobytes."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="EchoReelSaveAction",
            display_name="Save Action",
            category="EchoReel",
            description=(
                "Saves an action in output/echoreel_actions, where Load Action finds it. "
                "It can be used again, or shared, without the clip it came from."
            ),
            search_aliases=["export action", "keep action", "write action"],
            is_output_node=True,
            inputs=[
                ActionWire.Input("action", tooltip="From Action Prism Encode or Combine Actions."),
                io.String.Input(
                    "filename_prefix",
                    default="action",
                    tooltip=(
                        "The file's name, with a folder if you like: people/jump. A number is added, so nothing is "
                        "overwritten."
                    ),
                ),
            ],
            outputs=[io.String.Output("file", tooltip="The name under which Load Action lists it.")],
        )

    @classmethod
    def execute(cls, action: Action, filename_prefix: str) -> io.NodeOutput:
        root = os.path.join(folder_paths.get_output_directory(), ACTION_FOLDER)
        filename_prefix = with_date(filename_prefix)
        if not os.path.basename(os.path.normpath(filename_prefix.strip())).strip(".") or filename_prefix[-1] in "/\\":
            raise EchoReelError(f"The filename_prefix {filename_prefix!r} names no file: write one, like jump.")
        if not Path(root, filename_prefix).resolve().is_relative_to(Path(root).resolve()):
            raise EchoReelError(
                f"{filename_prefix!r} leads outside output/{ACTION_FOLDER}: use a name, or folder/name, inside it."
            )
        os.makedirs(root, exist_ok=True)
        folder, name, counter, _, _ = folder_paths.get_save_image_path(filename_prefix, root)
        path = os.path.join(folder, f"{name}_{counter:05}_.safetensors")
        save_action(action, path)
        return io.NodeOutput(os.path.relpath(path, root))


class LoadAction(io.ComfyNode):
    """A saved action, without the VAE, the text encoder or the prism."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="EchoReelLoadAction",
            display_name="Load Action",
            category="EchoReel",
            description=(
                "Loads an action that Save Action wrote. It needs neither the clip nor another run of the Action "
                "Prism, but you must apply it with the EchoReel adapter that made it."
            ),
            search_aliases=["import action", "open action", "saved motion"],
            inputs=[
                io.Combo.Input(
                    "file",
                    options=folder_paths.get_filename_list(ACTION_FOLDER),
                    tooltip="A file in output/echoreel_actions or input/echoreel_actions. Press R to see a new one.",
                )
            ],
            outputs=[ActionWire.Output(display_name="action", tooltip="For Apply EchoReel or Combine Actions.")],
        )

    @classmethod
    def fingerprint_inputs(cls, file: str) -> str:
        path = folder_paths.get_full_path(ACTION_FOLDER, file)
        return f"{path}:{os.path.getmtime(path)}" if path else file

    @classmethod
    def execute(cls, file: str) -> io.NodeOutput:
        return io.NodeOutput(load_action(folder_paths.get_full_path_or_raise(ACTION_FOLDER, file)))


NODES = [SaveAction, LoadAction]

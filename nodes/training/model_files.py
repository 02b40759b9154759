"""The model files of a settings file, loaded by the host's own loaders."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import comfy.clip_vision
import comfy.sd
import comfy.utils
import folder_paths
import torch

from ...echoreel_core.errors import EchoReelError
from ...echoreel_core.training.config import ModelFile, ModelSettings, local
from ...echoreel_core.training.progress import out_of_memory


def find(file: ModelFile, setting: str, folder: str) -> str:
    """The path of a model file: by its name in one of the host's folders, else as a path.

    Raises: EchoReelError, naming both places, where there is none.
    """
    path = folder_paths.get_full_path(folder, str(local(file.name)))
    if path is None and file.path.is_file():
        path = str(file.path)
    if path is None:
        raise EchoReelError(f"{setting} names {file.name}, which is neither in ComfyUI's models/{folder} nor a file.")
    return path


def load_model(settings: ModelSettings) -> Any:
    """The MODEL alone. Raises: EchoReelError where the file is missing or is not a model that the host knows."""
    if settings.checkpoint is not None:
        options = _options(settings)
        path = find(settings.checkpoint, "checkpoint", "checkpoints")
        return _read(path, lambda: comfy.sd.load_checkpoint_guess_config(path, False, False, model_options=options)[0])
    return _load_diffusion_model(settings, "diffusion_model")


def load_low_noise_model(settings: ModelSettings) -> Any:
    """The MODEL of the second expert, or None where there is one alone. Raises: EchoReelError as `load_model`."""
    return None if settings.low_noise_model is None else _load_diffusion_model(settings, "low_noise_model")


def _load_diffusion_model(settings: ModelSettings, setting: str) -> Any:
    path = find(getattr(settings, setting), setting, "diffusion_models")
    return _read(path, lambda: comfy.sd.load_diffusion_model(path, model_options=_options(settings)))


def _options(settings: ModelSettings) -> dict[str, Any]:
    if settings.weight_dtype == "default":
        return {}
    return {"dtype": getattr(torch, f"float{settings.weight_dtype.removeprefix('fp')}")}


def load_encoders(settings: ModelSettings) -> tuple[Any, Any, Any]:
    """VAE, CLIP and CLIP vision model (or None): those of the files named, else of the checkpoint.

    Raises: EchoReelError where one is missing or the host does not know it.
    """
    vae = clip = vision = None
    if settings.checkpoint is not None:
        path = find(settings.checkpoint, "checkpoint", "checkpoints")
        wanted = {"output_vae": settings.vae is None, "output_clip": not settings.text_encoders}
        wanted |= {"output_clipvision": settings.clip_vision is None, "output_model": False}
        _, clip, vae, vision = _read(path, lambda: comfy.sd.load_checkpoint_guess_config(path, **wanted))
    if settings.vae is not None:
        vae = _load_vae(find(settings.vae, "vae", "vae"))
    if settings.text_encoders:
        clip = _load_clip(settings)
    if settings.clip_vision is not None:
        path = find(settings.clip_vision, "clip_vision", "clip_vision")
        vision = _read(path, lambda: comfy.clip_vision.load(path))
    for name, part in (("vae", vae), ("text_encoders", clip)):
        if part is None:
            raise EchoReelError(f"{settings.name} has no such part in it: set {name}.")
    return vae, clip, vision


def _load_vae(path: str) -> Any:
    def read() -> Any:
        weights, metadata = comfy.utils.load_torch_file(path, return_metadata=True)
        vae = comfy.sd.VAE(sd=weights, metadata=metadata)
        vae.throw_exception_if_invalid()
        return vae

    return _read(path, read)


def _load_clip(settings: ModelSettings) -> Any:
    kind = settings.text_encoder_type
    try:
        clip_type = comfy.sd.CLIPType[kind.upper()]
    except KeyError:
        known = ", ".join(entry.name.lower() for entry in comfy.sd.CLIPType)
        raise EchoReelError(f"text_encoder_type is {kind!r}: this ComfyUI knows {known}.") from None
    paths = [find(file, "text_encoders", "text_encoders") for file in settings.text_encoders]
    embeddings = folder_paths.get_folder_paths("embeddings")
    return _read(paths[0], lambda: comfy.sd.load_clip(paths, embedding_directory=embeddings, clip_type=clip_type))


def _read(path: str, load: Callable[[], Any]) -> Any:
    """What a loader gives. Raises: EchoReelError with the file's name, where it cannot make anything of the file."""
    try:
        loaded = load()
    except Exception as error:  # loaders raise all sorts of them for a damaged file
        if out_of_memory(error):
            raise
        raise EchoReelError(f"ComfyUI cannot load {Path(path).name}: {' '.join(str(error).split())[:200]}") from error
    if loaded is None:
        raise EchoReelError(f"ComfyUI cannot load {Path(path).name}: it does not know what it is.")
    return loaded

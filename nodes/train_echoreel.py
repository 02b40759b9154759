"""Train EchoReel, Save EchoReel Adapter."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import comfy.model_management
import comfy.utils
import folder_paths
import torch
from comfy_api.latest import io

from ..echoreel_core.action.adapter import EchoReelAdapter
from ..echoreel_core.errors import EchoReelError
from ..echoreel_core.files import write_safetensors
from .action_prism_encode import NO_ECHOREEL
from .load_echoreel import ADAPTER_FOLDER
from .models.adapter import LoadedAdapter, load_adapter
from .wires import EchoReelWire

if TYPE_CHECKING:
    from ..echoreel_core.training.config import DataSettings, OutputSettings, TrainingSettings, VideoSettings
    from ..echoreel_core.training.data.cache import CachedPairs
    from .training.trainable import NodeEncoders, TrainableHostModel

RUNS = "echoreel_training"
CURVE_SECONDS = 5
"""Seconds between two drawings of the live loss curve."""
HELD_OUT_EVERY = 100
"""Steps between two measurements on pairs that are held out."""
LIST_SUFFIXES = (".json", ".jsonl")


def _data_sets() -> list[str]:
    """What in the input folder may be a data set: folders, and lists of pairs."""
    with os.scandir(folder_paths.get_input_directory()) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir() or entry.name.lower().endswith(LIST_SUFFIXES))


def _run_folder(name: str) -> Path:
    """Where a run keeps its files. Raises: EchoReelError if the name is not a plain folder name."""
    if not name.strip() or name != os.path.basename(name) or name.startswith("."):
        raise EchoReelError(f"The name {name!r} cannot be used for a folder: use letters, digits, - and _.")
    return Path(folder_paths.get_output_directory(), RUNS, name)


class TrainEchoReel(io.ComfyNode):
    """Trains an adapter for the model that is wired in."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="EchoReelTrain",
            display_name="Train EchoReel",
            category="EchoReel/training",
            description=(
                "Trains an EchoReel adapter for a video model that has none. The model itself does not change. Shows "
                "the loss during training. Cancel at any time: progress is saved, and Run continues from there."
            ),
            search_aliases=["fine-tune", "train adapter", "learn action"],
            is_experimental=True,
            inputs=[
                io.Model.Input(
                    "model", tooltip="A video model. One that starts from an image gets each clip's first frame."
                ),
                io.Vae.Input("vae", tooltip="Its VAE."),
                io.Clip.Input("clip", tooltip="Its text encoder."),
                io.Combo.Input(
                    "data",
                    options=_data_sets(),
                    tooltip=(
                        "In the input folder: a folder with one sub-folder of clips per action, or a .json or .jsonl "
                        "list of pairs (input_text, gt_video_path, reference_text, reference_video_path)."
                    ),
                ),
                io.String.Input(
                    "name",
                    default="my_adapter",
                    tooltip=(
                        "Name of the run; its files go to output/echoreel_training. The same name continues that run; "
                        "a new name starts a new one."
                    ),
                ),
                io.Int.Input(
                    "steps",
                    default=1000,
                    min=1,
                    max=10_000_000,
                    tooltip=(
                        "Number of training steps. More steps copy actions more faithfully, up to a point. Raise it "
                        "later to continue training."
                    ),
                ),
                io.Float.Input(
                    "learning_rate",
                    default=1e-4,
                    min=1e-8,
                    max=1.0,
                    step=1e-6,
                    advanced=True,
                    tooltip=(
                        "Size of each training step's change. If it is too high, the loss jumps or rises; if it is too"
                        " low, the loss hardly falls. The paper uses 0.0001."
                    ),
                ),
                io.Int.Input(
                    "batch_size",
                    default=1,
                    min=1,
                    max=256,
                    advanced=True,
                    tooltip="Pairs per step. Higher learns more steadily, takes longer and needs more memory.",
                ),
                io.Int.Input(
                    "frame_count",
                    default=16,
                    min=1,
                    max=1024,
                    tooltip="Frames taken from each clip. More frames teach longer actions and need more memory.",
                ),
                io.Int.Input(
                    "every_nth",
                    default=4,
                    min=1,
                    max=1000,
                    tooltip=(
                        "4 takes frames 1, 5, 9, … of each clip. Higher covers more time, with more motion per frame."
                    ),
                ),
                io.Int.Input(
                    "width",
                    default=256,
                    min=16,
                    max=4096,
                    step=16,
                    tooltip=(
                        "Width of the clips the model learns to make, in pixels. Choose a value near the size you will"
                        " generate. Higher needs more memory."
                    ),
                ),
                io.Int.Input(
                    "height",
                    default=256,
                    min=16,
                    max=4096,
                    step=16,
                    tooltip=(
                        "Height of the clips the model learns to make, in pixels. Choose a value near the size you "
                        "will generate. Higher needs more memory."
                    ),
                ),
                io.Combo.Input(
                    "weighting",
                    options=["none", "clean", "velocity", "min-snr"],
                    advanced=True,
                    tooltip=(
                        "How much each noise level counts. none: the model's own loss. clean: high noise, where motion"
                        " is decided, counts most; learns faster with models that predict noise. velocity and min-snr "
                        "are milder forms of clean."
                    ),
                ),
                io.Boolean.Input(
                    "gradient_checkpointing",
                    default=True,
                    advanced=True,
                    tooltip=(
                        "Needs much less memory but a third more time. Turn it off for speed if you have enough memory."
                    ),
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=2**32 - 1,
                    tooltip="Seed of everything random: the same seed gives the same run again.",
                ),
                EchoReelWire.Input(
                    "echoreel", optional=True, tooltip="An adapter to continue training, instead of starting a new one."
                ),
                io.ClipVision.Input(
                    "clip_vision",
                    optional=True,
                    tooltip=(
                        "The image encoder of an image-to-video model. Stable Video Diffusion needs one; with it, "
                        "HunyuanVideo 1.5 learns from the clip's first frame."
                    ),
                ),
                io.Float.Input(
                    "held_out",
                    default=0.0,
                    min=0.0,
                    max=0.9,
                    step=0.05,
                    optional=True,
                    tooltip=(
                        "Share of the clips that is not trained on. The curve also shows the loss on these clips: when"
                        " it rises, stop."
                    ),
                ),
                io.Int.Input(
                    "sample_every",
                    default=0,
                    min=0,
                    max=1_000_000,
                    optional=True,
                    tooltip=(
                        "Number of steps between sample videos in output/echoreel_training: the reference, and the "
                        "model without and with the adapter. 0 makes none."
                    ),
                ),
                io.Float.Input(
                    "sample_guidance",
                    default=6.0,
                    min=1.0,
                    max=30.0,
                    step=0.5,
                    optional=True,
                    tooltip="The cfg of the sample videos. Higher follows the prompt more closely.",
                ),
            ],
            outputs=[
                EchoReelWire.Output(tooltip="The trained adapter."),
                io.Image.Output("loss_curve", tooltip="The loss over the steps."),
            ],
        )

    @classmethod
    def validate_inputs(cls, data: str | None) -> bool | str:
        if data is None or data in _data_sets():
            return True
        if not data:
            return (
                "No training clips are chosen: put a folder of clips into ComfyUI's input folder, press R, and choose "
                "it."
            )
        return f"There is no data set {data!r} in the input folder: put one there and press R."

    @classmethod
    def execute(
        cls,
        model,
        vae,
        clip,
        data: str,
        name: str,
        steps: int,
        learning_rate: float,
        batch_size: int,
        frame_count: int,
        every_nth: int,
        width: int,
        height: int,
        weighting: str,
        gradient_checkpointing: bool,
        seed: int,
        echoreel: LoadedAdapter | None = None,
        clip_vision=None,
        held_out: float = 0.0,
        sample_every: int = 0,
        sample_guidance: float = 6.0,
    ) -> io.NodeOutput:
        # imported when first needed, so that the trainer does not slow down ComfyUI's start
        from ..echoreel_core.training.config import DataSettings, OutputSettings, TrainingSettings, VideoSettings
        from ..echoreel_core.training.metrics import draw_curves, read_metrics
        from .training.trainable import NodeEncoders, TrainableHostModel, own_copy

        folder = _run_folder(name)
        if (found := cls.validate_inputs(data)) is not True:  # also if it is called without a graph
            raise EchoReelError(found)
        TrainableHostModel(model)  # refuses what cannot be trained before any clip is encoded
        side = _reference_size(vae, echoreel)
        video = VideoSettings(frames=frame_count, every_nth=every_nth, width=width, height=height)
        reference = replace(video, width=side[1], height=side[0])
        pairs = DataSettings(Path(folder_paths.get_input_directory(), data), folder / "cache", held_out=held_out)
        encoders = NodeEncoders(model, vae, clip, clip_vision)
        settings = TrainingSettings(
            steps=steps,
            learning_rate=learning_rate,
            batch_size=batch_size,
            weighting=weighting,
            gradient_checkpointing=gradient_checkpointing,
            seed=seed,
        )
        output = OutputSettings(
            folder=folder,
            name=name,
            log_every=1,
            held_out_every=HELD_OUT_EVERY if held_out else 0,
            sample_every=sample_every,
            guidance=sample_guidance,
        )
        cached, measured = _cache(pairs, encoders, video, reference)
        with torch.inference_mode(False):
            trainable = TrainableHostModel(own_copy(model))
            path = trainable.sampling_run(
                cached.batch([0], [0]).target,
                lambda: _train(
                    trainable, echoreel, cached, measured, settings, output, encoders.decode_video, reference
                ),
            )
        curve = draw_curves(read_metrics(folder / "metrics.jsonl"))
        pixels = torch.frombuffer(bytearray(curve.tobytes()), dtype=torch.uint8).view(1, curve.height, curve.width, 3)
        return io.NodeOutput(load_adapter(str(path)), pixels.float() / 255)


def _reference_size(vae, echoreel: LoadedAdapter | None) -> tuple[int, int]:
    """(height, width) that reference clips are encoded at, in pixels: the adapter's, where there is one already."""
    from ..echoreel_core.training.default_sizes import REFERENCE_PIXELS

    factor = vae.spacial_compression_encode()
    height, width = echoreel.config.prism.latent_size if echoreel else (REFERENCE_PIXELS // factor,) * 2
    return height * factor, width * factor


def _cache(
    data: DataSettings, encoders: NodeEncoders, video: VideoSettings, reference: VideoSettings
) -> tuple[CachedPairs, CachedPairs]:
    """The data's pairs, encoded: those to train on and those to measure on.

    Raises: EchoReelError where there are none.
    """
    from ..echoreel_core.training.data.cache import CachedPairs, build_cache
    from ..echoreel_core.training.data.pairs import read_pairs

    bar = comfy.utils.ProgressBar(1)
    build_cache(
        data.cache,
        read_pairs(data),
        encoders,
        video,
        reference,
        lambda done, total, _line: bar.update_absolute(done, total),
    )
    with torch.inference_mode(False):
        cached, measured = CachedPairs(data.cache), CachedPairs(data.cache, held_out=True)
    if not len(cached):
        raise EchoReelError(f"With held_out at {data.held_out:g}, no pair is left to train on: lower it, or add clips.")
    return cached, measured


def _adapter(
    trainable: TrainableHostModel, echoreel: LoadedAdapter | None, cached: CachedPairs, seed: int
) -> EchoReelAdapter:
    """A copy of the adapter to go on from, or a fresh one of the sizes that are usual for the model.

    Raises: EchoReelError where text comes in another width than it has to.
    """
    from ..echoreel_core.training.data.conditioning import TOKENS
    from ..echoreel_core.training.default_sizes import default_adapter_config

    sample = cached.batch([0], [0])
    text_width, prompt_width = (tokens.shape[-1] for tokens in (sample.caption[0], sample.conditioning_of(0)[TOKENS]))
    if echoreel is not None:
        config = echoreel.config
        if text_width != config.prism.text_width:
            raise EchoReelError(
                f"The EchoReel adapter reads text tokens that are {config.prism.text_width} wide, but the text "
                f"encoder's are {text_width} wide: connect the text encoder it was trained with."
            )
    else:
        _, channels, frames, height, width = sample.reference.shape
        config = default_adapter_config(
            trainable.family,
            [(site.name, site.dim) for site in trainable.sites()],
            latent_channels=channels,
            latent_size=(height, width),
            latent_frames=frames,
            text_width=text_width,
            **({"heads": trainable.model.config.heads} if trainable.family == "lvdm" else {}),
        )
    if prompt_width != text_width:
        raise EchoReelError(
            f"The model reads images as tokens that are {prompt_width} wide, but the text encoder's tokens are "
            f"{text_width} wide: connect a text encoder whose tokens are {prompt_width} wide."
        )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        adapter = EchoReelAdapter(config)
    if echoreel is not None:
        adapter.load_state_dict(_weights(echoreel))
    return adapter


def _train(
    trainable: TrainableHostModel,
    echoreel: LoadedAdapter | None,
    cached: CachedPairs,
    measured: CachedPairs,
    settings: TrainingSettings,
    output: OutputSettings,
    decode: Callable[[torch.Tensor], torch.Tensor],
    reference: VideoSettings,
) -> Path:
    """Trains with progress and a live loss curve; an interrupt is saved. Returns: the adapter's file."""
    from ..echoreel_core.training.metrics import draw_curves, read_metrics
    from ..echoreel_core.training.process_group import ProcessGroup
    from ..echoreel_core.training.run import TrainingRun
    from ..echoreel_core.training.trainer import Trainer

    def decode_and_return(latents: torch.Tensor) -> torch.Tensor:
        frames = decode(latents)
        trainable.reload()  # the VAE may have pushed it out of memory
        return frames

    process_group = ProcessGroup(comfy.model_management.get_torch_device())
    trainer = Trainer(trainable, _adapter(trainable, echoreel, cached, settings.seed), cached, settings, process_group)
    facts = {
        "frames": reference.frames,
        "fps": round(cached.fps, 3),
        "width": reference.width,
        "height": reference.height,
        "pairs": len(cached),
    }
    run = TrainingRun(trainer, output, facts, measured, decode_and_return)
    run.resume()
    bar = comfy.utils.ProgressBar(settings.steps)
    drawn = time.monotonic()

    def on_step(result) -> None:
        nonlocal drawn
        curve = None
        if time.monotonic() - drawn > CURVE_SECONDS:  # the whole log is read and drawn
            drawn = time.monotonic()
            curve = ("JPEG", draw_curves(read_metrics(output.folder / "metrics.jsonl")), 512)
        bar.update_absolute(result.step, settings.steps, curve)
        comfy.model_management.throw_exception_if_processing_interrupted()

    return run(on_step)


def _weights(echoreel: LoadedAdapter) -> dict[str, torch.Tensor]:
    """An adapter's weights, named as in `EchoReelAdapter`, float32 on the CPU."""
    parts = {"prism": echoreel.prism, "attentions": echoreel.attentions}
    return {
        f"{name}.{key}": value.to("cpu", torch.float32).clone()
        for name, patcher in parts.items()
        for key, value in patcher.model.state_dict().items()
    }


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
        write_safetensors(path, _weights(echoreel), echoreel.config.to_json(), dtype=getattr(torch, precision))
        return io.NodeOutput(os.path.relpath(path, root))


NODES = [TrainEchoReel, SaveAdapter]

"""Train EchoReel."""

from __future__ import annotations

from pathlib import Path

import torch
from comfy_api.latest import io

from ..echoreel_core.errors import EchoReelError
from ..echoreel_core.video.frame_choice import CROPS
from .models.adapter import LoadedAdapter, load_adapter
from .pictures.drawing import to_frame
from .training.runs import content_of, data_path, data_sets, finished, run_folder, runs_anew
from .wires import EchoReelWire

HELD_OUT_EVERY = 500
"""Steps between two measurements on pairs that are held out."""
MOST_FRAMES = 1024


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
                    options=data_sets(),
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
                    default=1e-3,
                    min=1e-8,
                    max=1.0,
                    step=1e-6,
                    advanced=True,
                    tooltip=(
                        "Size of each training step's change. If it is too high, the loss jumps or rises; if it is too"
                        " low, the loss hardly falls. 0.001 is for 'muon'; 'adamw' takes about a tenth of it."
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
                    max=MOST_FRAMES,
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
                    default="velocity",
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
                io.Model.Input(
                    "low_noise_model",
                    optional=True,
                    tooltip=(
                        "For models that come as two, such as Wan 2.2 14B: the low-noise model goes here, the "
                        "high-noise model to model. One adapter learns with both; apply it to both."
                    ),
                ),
                io.Float.Input(
                    "boundary",
                    default=0.0,
                    min=0.0,
                    max=0.99,
                    step=0.005,
                    optional=True,
                    advanced=True,
                    tooltip=(
                        "With low_noise_model: the noise level below which that model is used. 0 uses the model's own:"
                        " for Wan 2.2, 0.875 from text and 0.9 from an image."
                    ),
                ),
                io.Combo.Input(
                    "crop",
                    options=list(CROPS),
                    default="stretch",
                    optional=True,
                    tooltip=(
                        "How clips are fitted to this size. 'stretch': distorts them to fit. 'center': keeps their "
                        "shape and crops the sides. 'pad': keeps their shape and adds black bars."
                    ),
                ),
                io.Boolean.Input(
                    "keep_aspect",
                    default=False,
                    optional=True,
                    tooltip=(
                        "Clips to generate keep their own shape, with about as many pixels as width x height. Use it "
                        "for clips of different shapes, with crop 'center'."
                    ),
                ),
                io.String.Input(
                    "frame_counts",
                    default="",
                    optional=True,
                    tooltip=(
                        "For clips of different lengths: several frame counts, such as 17, 49, 81. Each clip to "
                        "generate gets the largest that it can fill. Empty: frame_count for all."
                    ),
                ),
                io.Int.Input(
                    "spans",
                    default=1,
                    min=1,
                    max=100,
                    optional=True,
                    tooltip=(
                        "Takes up to this many parts from a long clip, without overlap; each counts as a clip of its "
                        "own."
                    ),
                ),
                io.Float.Input(
                    "mirror",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    optional=True,
                    advanced=True,
                    tooltip=(
                        "Share of the pairs of clips that are mirrored left to right. With few clips, 0.5 gives more "
                        "variety. Leave it at 0 if captions say left or right."
                    ),
                ),
                io.Int.Input(
                    "accumulation",
                    default=1,
                    min=1,
                    max=256,
                    optional=True,
                    advanced=True,
                    tooltip=(
                        "Runs batch_size this many times for each step. Learns as steadily as a larger batch and takes"
                        " as long, but needs no more memory."
                    ),
                ),
                io.Combo.Input(
                    "mixed_precision",
                    options=["no", "bf16", "fp16"],
                    default="no",
                    optional=True,
                    advanced=True,
                    tooltip=(
                        "What is trained computes in 'bf16', or in 'fp16' on older GPUs: faster, and needs less "
                        "memory. 'no' computes in full precision. The model keeps its own precision."
                    ),
                ),
                io.Combo.Input(
                    "optimizer",
                    options=["adamw", "adamw8bit", "muon"],
                    default="muon",
                    optional=True,
                    advanced=True,
                    tooltip=(
                        "'muon' learns most in the same number of steps. 'adamw' and 'adamw8bit' take about a tenth of"
                        " its learning_rate; 'adamw8bit' needs the least memory, and the package bitsandbytes."
                    ),
                ),
                io.Boolean.Input(
                    "offload_activations",
                    default=False,
                    optional=True,
                    advanced=True,
                    tooltip=(
                        "With gradient_checkpointing: what must be kept from each block waits in the computer's "
                        "memory. Needs still less GPU memory and still more time."
                    ),
                ),
                io.Float.Input(
                    "average",
                    default=0.995,
                    min=0.0,
                    max=0.9999,
                    step=0.0001,
                    optional=True,
                    advanced=True,
                    tooltip=(
                        "The adapter that is saved is a moving average of the weights, which is steadier. Higher looks"
                        " back over more steps. 0 saves the latest weights and needs less memory."
                    ),
                ),
                io.Int.Input(
                    "prism_start_steps",
                    default=300,
                    min=0,
                    max=100_000,
                    optional=True,
                    advanced=True,
                    tooltip=(
                        "Number of steps in which the prism of a new adapter first learns by itself, at most steps. "
                        "They are quick. With keypoints beside the clips, a few thousand teach it how figures turn."
                    ),
                ),
                io.Float.Input(
                    "motion_loss",
                    default=0.0,
                    min=0.0,
                    max=10.0,
                    step=0.05,
                    optional=True,
                    advanced=True,
                    tooltip=(
                        "How much the prism must still tell keypoints and motion while the layers learn. With "
                        "keypoints beside the clips, 0.1 keeps what it knows of figures that turn. 0: not at all."
                    ),
                ),
            ],
            outputs=[
                EchoReelWire.Output(tooltip="The trained adapter."),
                io.Image.Output("loss_curve", tooltip="The loss over the steps."),
            ],
        )

    @classmethod
    def validate_inputs(cls, data: str | None) -> bool | str:
        if data is None or data in data_sets():
            return True
        if not data:
            return (
                "No training clips are chosen: put a folder of clips into ComfyUI's input folder, press R, and choose "
                "it."
            )
        return f"There is no data set {data!r} in the input folder: put one there and press R."

    @classmethod
    def fingerprint_inputs(cls, data: str, name: str, **_: object) -> str:
        """Changes with the clips, and where the finished adapter is not as the last run of this name left it."""
        return f"{content_of(data)} {runs_anew(name)}"

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
        low_noise_model=None,
        boundary: float = 0.0,
        crop: str = "stretch",
        keep_aspect: bool = False,
        frame_counts: str = "",
        spans: int = 1,
        mirror: float = 0.0,
        accumulation: int = 1,
        mixed_precision: str = "no",
        optimizer: str = "adamw",
        offload_activations: bool = False,
        average: float = 0.995,
        prism_start_steps: int = 300,
        motion_loss: float = 0.0,
    ) -> io.NodeOutput:
        # imported when first needed, so that the trainer does not slow down ComfyUI's start
        from ..echoreel_core.training.config import (
            BucketSettings,
            DataSettings,
            OutputSettings,
            TrainingSettings,
            VideoSettings,
        )
        from .training.session import TrainingSession

        folder = run_folder(name)
        if (found := cls.validate_inputs(data)) is not True:  # also if it is called without a graph
            raise EchoReelError(found)
        session = TrainingSession(
            model,
            vae,
            clip,
            clip_vision,
            echoreel,
            data=DataSettings(data_path(data), folder / "cache", held_out=held_out),
            video=VideoSettings(frames=frame_count, every_nth=every_nth, width=width, height=height, crop=crop),
            buckets=BucketSettings(frames=_counts(frame_counts), aspect=keep_aspect, spans=spans),
            training=TrainingSettings(
                steps=steps,
                learning_rate=learning_rate,
                batch_size=batch_size,
                weighting=weighting,
                gradient_checkpointing=gradient_checkpointing,
                seed=seed,
                mirror=mirror,
                accumulation=accumulation,
                mixed_precision=mixed_precision,
                optimizer=optimizer,
                offload_activations=offload_activations,
                average=average,
                prism_start_steps=prism_start_steps,
                motion_loss=motion_loss,
            ),
            output=OutputSettings(
                folder=folder,
                name=name,
                log_every=1,
                held_out_every=HELD_OUT_EVERY if held_out else 0,
                sample_every=sample_every,
                guidance=sample_guidance,
            ),
            low_noise_model=low_noise_model,
            boundary=boundary,
        )
        path = session.run()
        finished(folder, path)
        return io.NodeOutput(load_adapter(str(path)), _curve(folder))


def _counts(text: str) -> tuple[int, ...]:
    """Numbers between commas or spaces. Raises: EchoReelError for anything else."""
    counts = text.replace(",", " ").split()
    if all(count.isdecimal() and 1 <= int(count[:9]) <= MOST_FRAMES for count in counts):
        return tuple(map(int, counts))
    raise EchoReelError(
        f"frame_counts is {text[:60]!r}: use whole numbers from 1 to {MOST_FRAMES} with commas between them, such as "
        "17, 49, 81."
    )


def _curve(folder: Path) -> torch.Tensor:
    """A run's loss over the steps, [1, H, W, 4]: on the page the node's own ground shows through."""
    from ..echoreel_core.training.metrics import FILE, draw_curves, read_metrics

    return to_frame(draw_curves(read_metrics(folder / FILE)))[None]


NODES = [TrainEchoReel]

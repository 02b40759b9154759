"""The settings of a training run, and reading them from TOML. example.toml explains each one."""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from ..errors import EchoReelError
from ..video.frame_choice import CROPS, MODES, FrameSelection
from .loss import Spread, Weighting
from .optimizer import OptimizerName

MixedPrecision = Literal["no", "bf16", "fp16"]
Schedule = Literal["constant", "cosine", "linear"]
Compile = Literal["no", "default", "reduce-overhead"]
Crop = Literal[CROPS]
Mode = Literal[MODES]
StoredAs = Literal["float32", "float16", "bfloat16"]
WeightDtype = Literal["default", "fp8_e4m3fn", "fp8_e5m2"]


MAX_SIDE = 4096
"""Pixels a side of a clip, at most; as in the node."""

WINDOWS_PATHS = r"Write paths of Windows in single quotes, 'C:\clips', or with forward slashes."


def _check_range(settings: object, least: float, below: float, *names: str) -> None:
    for name in names:
        value = getattr(settings, name)
        if not least <= value < below:
            limit = f"{least:g} or more" + (f", and less than {below:g}" if below < float("inf") else "")
            raise EchoReelError(f"{name} is {value}: use {limit}.")


def _at_least(settings: object, least: float, *names: str) -> None:
    _check_range(settings, least, float("inf"), *names)


@dataclass(frozen=True)
class ModelFile:
    """A model's file: `name` as a loader node of ComfyUI lists it, or else a path."""

    name: str
    path: Path


@dataclass(frozen=True)
class ModelSettings:
    """[model]: the frozen model; with `comfyui`, any that ComfyUI loads, otherwise one of the released family."""

    checkpoint: ModelFile | None = None
    tokenizer: Path | None = None
    device: str = ""
    comfyui: Path | None = None
    comfyui_options: tuple[str, ...] = ()
    diffusion_model: ModelFile | None = None
    low_noise_model: ModelFile | None = None
    boundary: float = 0.0
    weight_dtype: WeightDtype = "default"
    vae: ModelFile | None = None
    text_encoders: tuple[ModelFile, ...] = ()
    text_encoder_type: str = "stable_diffusion"
    clip_vision: ModelFile | None = None

    def __post_init__(self) -> None:
        if self.comfyui is None:
            for name in (
                "diffusion_model",
                "low_noise_model",
                "vae",
                "text_encoders",
                "clip_vision",
                "comfyui_options",
            ):
                if getattr(self, name):
                    raise EchoReelError(f"{name} is a setting for a model that ComfyUI loads: set comfyui, its folder.")
            if self.checkpoint is None:
                raise EchoReelError("checkpoint is missing.")
        elif (self.checkpoint is None) == (self.diffusion_model is None):
            raise EchoReelError("comfyui is set: set either diffusion_model or checkpoint, the file of the model.")
        elif self.diffusion_model is not None:
            for name in ("vae", "text_encoders"):
                if not getattr(self, name):
                    raise EchoReelError(f"{name} is missing: a diffusion_model needs its own.")
        elif self.low_noise_model is not None:
            raise EchoReelError("low_noise_model goes with a diffusion_model: set that in place of checkpoint.")
        _check_range(self, 0, 1, "boundary")
        if self.boundary and self.low_noise_model is None:
            raise EchoReelError("boundary goes with a low_noise_model: set that too.")

    @property
    def name(self) -> str:
        """The file of the model itself, without its folder."""
        return (self.checkpoint or self.diffusion_model).path.name

    def names(self) -> dict[str, str]:
        """What an adapter's file tells of the models it was trained on."""
        low = self.low_noise_model
        return {"base_model": self.name, **({} if low is None else {"low_noise_model": low.path.name})}


@dataclass(frozen=True)
class DataSettings:
    """[data]: the pairs, and which of them only measure."""

    pairs: Path
    cache: Path
    root: Path | None = None
    held_out: float = 0.0
    held_out_actions: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check_range(self, 0, 1, "held_out")


@dataclass(frozen=True)
class VideoSettings:
    """[video], and [reference] where it differs: which frames are taken from a clip, and their size."""

    frames: int = 16
    sampling: Mode = "every_nth"
    every_nth: int = 4
    fps: float = 8.0
    start: float = 0.0
    duration: float = 0.0
    width: int = 256
    height: int = 256
    crop: Crop = "stretch"

    def __post_init__(self) -> None:
        _check_range(self, 1, MAX_SIDE + 1, "width", "height")
        self.choice()

    def choice(self) -> FrameSelection:
        """As `read_video` takes it. Raises: EchoReelError (a ValueError) where the values make no sense."""
        return FrameSelection(self.frames, self.sampling, self.every_nth, self.fps, self.start, self.duration)


@dataclass(frozen=True)
class BucketSettings:
    """[buckets]: how the clips' own sizes and lengths are met; see `data.buckets`."""

    frames: tuple[int, ...] = ()
    aspect: bool = False
    multiple: int = 32
    spans: int = 1

    def __post_init__(self) -> None:
        _at_least(self, 1, "multiple", "spans")
        if any(count < 1 for count in self.frames):
            raise EchoReelError(f"frames is {list(self.frames)}: use numbers of 1 or more.")


@dataclass(frozen=True)
class AdapterSettings:
    """[adapter]: what is trained; 0 stands for the default of the model's family."""

    start: Path | None = None
    width: int = 0
    depth: int = 0
    heads: int = 0
    head_dim: int = 0
    out_channels: int = 0

    def __post_init__(self) -> None:
        _at_least(self, 0, "width", "depth", "heads", "head_dim", "out_channels")

    def prism_sizes(self) -> dict[str, int]:
        """What departs from the default, as `ActionPrismConfig` names it."""
        names = ("width", "depth", "heads", "head_dim", "out_channels")
        return {name: getattr(self, name) for name in names if getattr(self, name)}


@dataclass(frozen=True)
class TrainingSettings:
    """[training]: the loop. docs/training.md has what was measured; the paper's values are in example.toml.

    Attributes:
        steps, batch_size, accumulation: pairs per step are batch_size x accumulation x processes.
        optimizer: "adamw", or "adamw8bit", for all, or "muon" for matrices and AdamW for the rest; see
            `optimizer.Optimizer`.
        learning_rate: of the added layers.
        prism_rate: the prism's learning rate as a share of that.
        schedule: "constant", "cosine" down to 0, or "linear" down to 0.03 over the last 30 %, level before.
        warmup: steps over which the rate rises, at most a tenth of all.
        beta1, beta2: AdamW's.
        weight_decay: of AdamW, or of Muon's matrices.
        clip_gradient: largest norm; 0 is no limit.
        average: decay of the moving average of the weights, which is what is saved and measured; 0 is none.
        same_frame_start: whether fresh added layers begin with looking at the same frame of the reference.
        prism_start_steps: steps in which a fresh prism first learns by itself to tell what changes in its reference;
            at most `steps`.
        prism_start_pairs: pairs a step of that, at least, on all processes together; those of a training step where
            these are more.
        motion_loss: weight, beside the video's loss, at which the prism goes on to tell what its start is about; 0 is
            none.
        weighting, min_snr_gamma: see `loss.loss_weight`.
        noise_spread, noise_bias, noise_shift: see `loss.NoiseLevels`.
        noise_offset: see `loss.draw`; for models that predict noise, the others go without.
        text_dropout, reference_dropout: shares of the pairs trained with the empty prompt, and with no reference.
        reference_shift: references are moved by up to this share of their sides; see `augment.augmented`.
        mirror: share of the pairs of which both clips are mirrored.
        mixed_precision: "no", "bf16" or "fp16".
        gradient_checkpointing: less memory, more time. offload_activations: still less, still more.
        compile: "no", or the mode of torch.compile: "default", or "reduce-overhead", which is CUDA graphs.
        seed: of everything that chance decides.
    """

    steps: int = 10_000
    batch_size: int = 1
    accumulation: int = 1
    optimizer: OptimizerName = "muon"
    learning_rate: float = 1e-3
    prism_rate: float = 0.3
    schedule: Schedule = "constant"
    warmup: int = 50
    beta1: float = 0.9
    beta2: float = 0.99
    weight_decay: float = 0.01
    clip_gradient: float = 1.0
    average: float = 0.995
    same_frame_start: bool = True
    prism_start_steps: int = 300
    prism_start_pairs: int = 1
    motion_loss: float = 0.0
    weighting: Weighting = "velocity"
    min_snr_gamma: float = 5.0
    noise_spread: Spread = "uniform"
    noise_bias: float = 1.0
    noise_shift: float = 1.0
    noise_offset: float = 0.0
    text_dropout: float = 0.1
    reference_dropout: float = 0.0
    reference_shift: float = 0.0
    mirror: float = 0.0
    mixed_precision: MixedPrecision = "no"
    gradient_checkpointing: bool = False
    offload_activations: bool = False
    compile: Compile = "no"
    seed: int = 0

    def __post_init__(self) -> None:
        _at_least(self, 1, "steps", "batch_size", "accumulation", "prism_start_pairs")
        _at_least(self, 0, "learning_rate", "prism_rate", "warmup", "weight_decay", "clip_gradient")
        _at_least(self, 0, "min_snr_gamma", "noise_bias", "noise_offset", "prism_start_steps", "motion_loss")
        _at_least(self, 0.01, "noise_shift")
        _check_range(self, 0, 1, "beta1", "beta2", "text_dropout", "reference_dropout", "average")
        _check_range(self, 0, 0.5, "reference_shift")
        _check_range(self, 0, 1.01, "mirror")
        if self.compile != "no" and self.gradient_checkpointing:
            raise EchoReelError("compile and gradient_checkpointing do not go together: switch one of them off.")
        if self.offload_activations and not self.gradient_checkpointing:
            raise EchoReelError("offload_activations goes with gradient_checkpointing: switch that on too.")


@dataclass(frozen=True)
class OutputSettings:
    """[output]: what a run writes, and how often (in steps; 0 is never)."""

    folder: Path
    name: str = "echoreel-adapter"
    stored_as: StoredAs = "float16"
    log_every: int = 10
    checkpoint_every: int = 500
    keep: int = 3
    held_out_every: int = 500
    held_out_pairs: int = 54
    sample_every: int = 0
    samples: int = 2
    sample_steps: int = 25
    guidance: float = 12.0

    def __post_init__(self) -> None:
        _at_least(self, 1, "log_every", "keep", "held_out_pairs", "samples", "sample_steps")
        _at_least(self, 0, "checkpoint_every", "held_out_every", "sample_every", "guidance")


@dataclass(frozen=True)
class Config:
    """A whole run."""

    model: ModelSettings
    data: DataSettings
    output: OutputSettings
    video: VideoSettings = field(default_factory=VideoSettings)
    reference: VideoSettings | None = None
    buckets: BucketSettings = field(default_factory=BucketSettings)
    adapter: AdapterSettings = field(default_factory=AdapterSettings)
    training: TrainingSettings = field(default_factory=TrainingSettings)


REQUIRED = tuple(entry.name for entry in fields(Config) if entry.default is entry.default_factory is MISSING)


def read_config(path: str | os.PathLike) -> Config:
    """Reads a TOML file; paths in it are relative to its folder, and [reference] takes over what [video] says.

    Raises: EchoReelError, in one sentence, for a setting that does not exist (with the nearest one that does), is
        missing, of another kind, or out of range.
    """
    path = Path(path)
    try:
        tables = _parse(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise EchoReelError(f"The settings file {path} cannot be read: {error.strerror}.") from None
    except ValueError as error:  # TOMLDecodeError, UnicodeDecodeError
        cure = f" {WINDOWS_PATHS}" if "escape" in str(error) or "hex" in str(error) else ""
        raise EchoReelError(f"{path.name} is not valid TOML: {error}.{cure}") from None
    except RecursionError:
        raise EchoReelError(f"{path.name} is nested too deeply: settings are at most lists of values.") from None
    sections = get_type_hints(Config)
    _refuse_unknown(tables, sections, f"{path.name}: there is no section", "[{}]")
    if "reference" in tables:
        tables["reference"] = {**tables.get("video", {}), **tables["reference"]}
    values = {}
    for name, hint in sections.items():
        kind = next((choice for choice in get_args(hint) if choice is not type(None)), hint)
        if name in tables or name in REQUIRED:
            values[name] = _section(kind, tables.get(name, {}), f"{path.name}, [{name}]", path.parent)
    return Config(**values)


def local(path: str) -> Path:
    """A path as this system writes it: outside Windows, its backslashes separate folders too."""
    return Path(path if os.name == "nt" else path.replace("\\", "/"))


def _parse(text: str) -> dict[str, Any]:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    return tomllib.loads(text)


def _refuse_unknown(given: Mapping[str, Any], known: Mapping[str, Any], message: str, form: str = "{}") -> None:
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0)
            raise EchoReelError(f"{message} {form.format(name)}; did you mean {form.format(near[0])}?")


def _section(kind: type, table: object, where: str, folder: Path) -> Any:
    if not isinstance(table, dict):
        raise EchoReelError(f"{where} is {table!r}: it must be a section.")
    hints = get_type_hints(kind)
    _refuse_unknown(table, hints, f"{where}: there is no setting")
    for entry in fields(kind):
        if entry.default is MISSING and entry.default_factory is MISSING and entry.name not in table:
            raise EchoReelError(f"{where}: {entry.name} is missing.")
    try:
        return kind(**{name: _value(value, hints[name], name, folder) for name, value in table.items()})
    except ValueError as error:
        raise EchoReelError(f"{where}: {error}") from None


def _value(value: object, hint: Any, name: str, folder: Path) -> object:
    """`value` as the kind of thing the setting takes."""
    if get_origin(hint) is Literal:
        if value not in get_args(hint):
            raise EchoReelError(f"{name} is {value!r}: use one of {', '.join(map(repr, get_args(hint)))}.")
        return value
    if get_origin(hint) is tuple:
        if not isinstance(value, list):
            raise EchoReelError(f"{name} is {value!r}: use a list in square brackets.")
        return tuple(_value(item, get_args(hint)[0], name, folder) for item in value)
    wanted = next((kind for kind in (Path, ModelFile) if kind in get_args(hint)), hint)
    accepted, in_words = {
        Path: (str, "a path in quotes"),
        ModelFile: (str, "a path in quotes"),
        str: (str, "text in quotes"),
        bool: (bool, "true or false"),
        int: (int, "a whole number"),
        float: ((int, float), "a number"),
    }[wanted]
    if not isinstance(value, accepted) or (isinstance(value, bool) and wanted is not bool):
        raise EchoReelError(f"{name} is {value!r}: use {in_words}.")
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise EchoReelError(f"{name} is a number of {len(str(abs(value)))} digits: use one of at most 18.")
    if wanted in (Path, ModelFile):
        if any(ord(letter) < 32 for letter in value):  # "C:\temp" in double quotes holds a tab
            raise EchoReelError(f"{name} is {value!r}: no path holds such characters. {WINDOWS_PATHS}")
        path = folder / local(value).expanduser()
        return path if wanted is Path else ModelFile(value, path)
    return float(value) if wanted is float else value

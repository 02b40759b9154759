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
from ..video.frame_choice import MODES, FrameSelection
from ..video.frames import CROPS
from .loss import Weighting

MixedPrecision = Literal["no", "bf16", "fp16"]
Schedule = Literal["constant", "cosine"]
Crop = Literal[CROPS]
Mode = Literal[MODES]
StoredAs = Literal["float32", "float16", "bfloat16"]


def _check_range(settings: object, least: float, below: float, *names: str) -> None:
    for name in names:
        value = getattr(settings, name)
        if not least <= value < below:
            limit = f"{least:g} or more" + (f", and less than {below:g}" if below < float("inf") else "")
            raise EchoReelError(f"{name} is {value}: use {limit}.")


def _at_least(settings: object, least: float, *names: str) -> None:
    _check_range(settings, least, float("inf"), *names)


@dataclass(frozen=True)
class ModelSettings:
    """[model]: the frozen model."""

    checkpoint: Path
    tokenizer: Path | None = None
    device: str = ""


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
        _at_least(self, 1, "width", "height")
        self.choice()

    def choice(self) -> FrameSelection:
        """As `read_video` takes it. Raises: EchoReelError (a ValueError) where the values make no sense."""
        return FrameSelection(self.frames, self.sampling, self.every_nth, self.fps, self.start, self.duration)


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
    """[training]: the loop. Learning rate, betas, weight decay and the plain loss are the paper's."""

    steps: int = 10_000
    batch_size: int = 1
    accumulation: int = 1
    learning_rate: float = 1e-4
    prism_learning_rate: float = 0.0
    schedule: Schedule = "constant"
    warmup: int = 0
    beta1: float = 0.9
    beta2: float = 0.9
    weight_decay: float = 0.03
    clip_gradient: float = 1.0
    weighting: Weighting = "none"
    min_snr_gamma: float = 5.0
    noise_bias: float = 0.0
    text_dropout: float = 0.1
    reference_dropout: float = 0.0
    mixed_precision: MixedPrecision = "no"
    gradient_checkpointing: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        _at_least(self, 1, "steps", "batch_size", "accumulation")
        _at_least(self, 0, "learning_rate", "prism_learning_rate", "warmup", "weight_decay", "clip_gradient")
        _at_least(self, 0, "min_snr_gamma", "noise_bias")
        _check_range(self, 0, 1, "beta1", "beta2", "text_dropout", "reference_dropout")


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
    held_out_pairs: int = 64
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
    adapter: AdapterSettings = field(default_factory=AdapterSettings)
    training: TrainingSettings = field(default_factory=TrainingSettings)


def read_config(path: str | os.PathLike) -> Config:
    """Reads a TOML file; paths in it are relative to its folder, and [reference] takes over what [video] says.

    Raises: EchoReelError, in one sentence, for a setting that does not exist (with the nearest one that does), is
        missing, of another kind, or out of range.
    """
    path = Path(path)
    try:
        tables = _parse(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise EchoReelError(f"The settings file {path} cannot be read: {error.strerror}.") from None
    except ValueError as error:  # TOMLDecodeError, UnicodeDecodeError
        raise EchoReelError(f"{path.name} is not valid TOML: {error}.") from None
    sections = get_type_hints(Config)
    _refuse_unknown(tables, sections, f"{path.name}: there is no section", "[{}]")
    if "reference" in tables:
        tables["reference"] = {**tables.get("video", {}), **tables["reference"]}
    values = {}
    for name, hint in sections.items():
        kind = next((choice for choice in get_args(hint) if choice is not type(None)), hint)
        required = any(f.default is MISSING and f.default_factory is MISSING for f in fields(kind))
        if name in tables or required:
            values[name] = _section(kind, tables.get(name, {}), f"{path.name}, [{name}]", path.parent)
    return Config(**values)


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
    wanted = Path if Path in get_args(hint) else hint
    accepted, in_words = {
        Path: (str, "a path in quotes"),
        str: (str, "text in quotes"),
        bool: (bool, "true or false"),
        int: (int, "a whole number"),
        float: ((int, float), "a number"),
    }[wanted]
    if not isinstance(value, accepted) or (isinstance(value, bool) and wanted is not bool):
        raise EchoReelError(f"{name} is {value!r}: use {in_words}.")
    if wanted is Path:
        return folder / Path(value).expanduser()
    return float(value) if wanted is float else value

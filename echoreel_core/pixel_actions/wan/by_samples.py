"""Train the second base without a card: by samples, for hours, in as many pieces as it takes."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ...files import whole_file
from ...lvdm.text_encoder import CLIPTextEncoder
from ...training.process_group import ProcessGroup
from ..evaluation.judge import JUDGE_FILE, load_judge
from ..evaluation.table import SEED, balanced, evaluate_arm
from ..model.embedded import load_embedded
from ..model.files import EMBEDDED_FILE
from ..recipes.log import Log
from ..world.actions import SEEN
from ..world.clips import Clips
from .clock import Every
from .data import joined
from .export import MODEL_FILE, UNFINISHED_FILE, VAE_FILE, read_vae, write_model
from .model import WanConfig
from .pairs import PairLatents
from .pipeline import WanPipeline
from .train_base import BaseSettings, BaseTraining, train
from .vae import WanVAE

STATE_FILE = "base-state.pt"


@dataclass(frozen=True)
class Pieces:
    """How far to train, and on what.

    Attributes:
        samples: clips that all steps together show. A training may go on with another number than it was begun with,
            and so end sooner or later.
        down: the last share of them, over which the learning rate falls.
        batch: clips a step. The optimizer's own work is the same for any number.
        rate: learning rate, lower than for a card's larger batches.
        motions: in a chunk, each by two figures.
        first, each, chunks: it starts on `first` chunks, and makes one more after each `each` samples until there are
            `chunks`, so that it need not wait for all.
        check: samples between two measures of the average, with `clips` clips of seen actions and `steps` of sampling.
    """

    samples: int = 160_000
    down: float = 0.2
    batch: int = 16
    rate: float = 1e-3
    motions: int = 16
    first: int = 4
    each: int = 750
    chunks: int = 224
    check: int = 10_000
    clips: int = 32
    steps: int = 10


class ByTheSample:
    """The training of a folder: its chunks of latents, its state, and its steps.

    Args:
        seconds: between two states that are kept.
    """

    def __init__(
        self,
        folder: Path,
        pieces: Pieces,
        settings: BaseSettings,
        config: WanConfig,
        text: CLIPTextEncoder,
        vae: WanVAE,
        seconds: float = 300,
        group: ProcessGroup | None = None,
    ) -> None:
        self.folder, self.pieces, self.vae, self.path = folder, pieces, vae, folder / STATE_FILE
        self.group = group or ProcessGroup()
        self._every, self._chunks = Every(seconds), []
        self.training = BaseTraining(settings, config, text, *self._clips(self._due(self.left_at())), self.group)

    def left_at(self) -> int:
        """The step to go on with."""
        return torch.load(self.path, weights_only=True, mmap=True)["number"] if self.path.exists() else 0

    def keep(self) -> None:
        """Write the state, whole; one process does."""
        if self.group.rank:
            return
        with whole_file(self.path) as temporary:
            torch.save(self.training.state(), temporary)

    def shares(self, check: Callable[[nn.Module], None]) -> Iterator[float]:
        """What `train` asks for; goes on from the state that is kept, and keeps it every so often and at the end."""
        training, batch = self.training, self.pieces.batch
        if self.path.exists():
            training.load(torch.load(self.path, weights_only=True))
        while (done := training.number * batch) < self.pieces.samples:
            if (due := self._due(training.number)) > len(self._chunks):
                training.take(*self._clips(due))
            yield done / self.pieces.samples
            if self._every():
                self.keep()
            if not self.group.rank and done // self.pieces.check < (done + batch) // self.pieces.check:
                check(training.average)
        self.keep()

    def _due(self, step: int) -> int:
        pieces, count = self.pieces, self.group.count
        return min(pieces.chunks, pieces.first + step * pieces.batch // (pieces.each * count) * count)

    def _clips(self, chunks: int) -> tuple[Clips, Tensor]:
        seeds = range(len(self._chunks) + 1, chunks + 1)
        for seed in seeds[self.group.rank :: self.group.count]:
            self._chunk(seed)
        self.group.barrier()
        self._chunks += [self._chunk(seed) for seed in seeds]
        clips = joined([half for chunk in self._chunks for half in chunk.clips])
        return clips, torch.cat([chunk.latents.flatten(0, 1) for chunk in self._chunks])

    def _chunk(self, seed: int) -> PairLatents:
        return PairLatents.kept(self.folder, self.vae, seed, self.pieces.motions)


def make_base(
    folder: Path, pieces: Pieces, fast: bool, say: Callable[[str], None], group: ProcessGroup | None = None
) -> None:
    """Write the base into the folder, by the samples that are left; a line to `say` and log.jsonl now and then."""
    start, file = time.monotonic(), Log(folder / "log.jsonl")
    text, judge = load_embedded(EMBEDDED_FILE)[0].base.text, load_judge(JUDGE_FILE)
    vae, config = read_vae(Path(__file__).with_name(VAE_FILE)), WanConfig()
    settings = BaseSettings(batch=pieces.batch, rate=pieces.rate, down=pieces.down)
    work = ByTheSample(folder, pieces, settings, config, text, vae, group=group)
    seen = balanced(tuple(SEEN), pieces.clips, SEED)
    told = [start, work.left_at()]  # when, and at which step, the last line about the training was logged

    def log(**values: object) -> None:
        if work.group.rank:
            return
        now = time.monotonic()
        if "share" in values:
            values["samples_a_second"] = (values["step"] - told[1]) * pieces.batch / (now - told[0])
            told[:] = now, values["step"]
        file(**values)
        say(f"{now - start:6.1f} s  {json.dumps(values)}")

    def save(model: nn.Module) -> None:
        if not work.group.rank:
            write_model(folder / UNFINISHED_FILE, model.state_dict(), config)

    def check(model: nn.Module) -> None:
        save(model)
        pipeline = WanPipeline(model, text, vae, steps=pieces.steps)
        log(stage="seen actions", **evaluate_arm(pipeline, judge, "base", seen)[0])

    save(train(work.training, lambda: work.shares(check), log, save, fast))
    if not work.group.rank:
        (folder / UNFINISHED_FILE).replace(folder / MODEL_FILE)

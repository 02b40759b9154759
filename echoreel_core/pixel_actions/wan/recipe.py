"""All of the second base in one run: VAE, latents, base and measures, each written as soon as it is there."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import nn

from ...files import write_safetensors
from ..evaluation.guided import evaluate_guided
from ..evaluation.judge import JUDGE_FILE, load_judge
from ..evaluation.table import (
    ARMS,
    BLEND,
    HEADER,
    SEED,
    WITHOUT_ADAPTER,
    balanced,
    evaluate,
    evaluate_arm,
    evaluate_blend,
    write,
)
from ..model.embedded import load_embedded
from ..model.files import EMBEDDED_FILE
from ..recipes.log import Log
from ..world.actions import NAMES, SEEN, UNSEEN
from .adapter import load_adapter
from .by_samples import Pieces
from .clock import steps
from .data import joined
from .export import MODEL_FILE, UNFINISHED_FILE, VAE_FILE, read_model, read_vae, write_model, write_vae
from .latents import FRAMES
from .model import WanConfig, WanModel
from .pairs import CHUNK, PairLatents
from .pipeline import WanPipeline
from .train_adapter import AdapterSettings, train_steps
from .train_adapter import train as train_adapter
from .train_base import BaseSettings, BaseTraining
from .train_base import train as train_base
from .train_vae import VAESettings
from .train_vae import train as train_vae
from .vae import WanVAE

# Of sampling, beside the one that the table is made with.
_OTHERS = ({"guidance": 1.0}, {"guidance": 2.0}, {"guidance": 4.0}, {"shift": 5.0}, {"shift": 8.0})


VARIANTS = {
    "bias": AdapterSettings(),
    "vectors": AdapterSettings(position="relative_vectors"),
    "whole-frames": AdapterSettings(cells=1),
    "wide-tokens": AdapterSettings(token_width=512),
}
"""Forms of the adapter that are tried beside each other."""


@dataclass(frozen=True)
class Plan:
    """How long everything may take, where it goes and where it runs; see `__main__` for each."""

    folder: Path
    minutes: float
    vae_minutes: float
    measure_minutes: float
    adapter_minutes: float
    batch: int
    chunks: int
    device: str
    tiny: bool = False
    plain: bool = False


class _Results:
    """`results.json`, written anew with every part of it."""

    def __init__(self, folder: Path) -> None:
        self._path, self.values = folder / "results.json", {}

    def add(self, **values: object) -> None:
        self.values |= values
        self._path.write_text(json.dumps(self.values, indent=1) + "\n")


def make(plan: Plan, say: Callable[[str], None]) -> None:
    """Write VAE, base, adapters, `results.json`, `sheet.png` and `log.jsonl` into the plan's folder. A VAE or base that
    is there already, or beside this file, is taken. `say` gets a line every few seconds."""
    plan.folder.mkdir(parents=True, exist_ok=True)
    if torch.device(plan.device).type == "cuda":
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.benchmark = True
    if not plan.tiny:
        _take_what_is_made(plan.folder)
    work = _Work(plan, say)
    vae = work.vae()
    _guarded(work.log, lambda: work.measure_real(vae))
    pairs = PairLatents.make(vae, 1, plan.chunks, 64 if plan.tiny else CHUNK)
    work.log(stage="latents", chunks=plan.chunks)
    if not (plan.folder / MODEL_FILE).exists():
        model = work.base(pairs)
        _guarded(work.log, lambda: work.measure(partial(WanPipeline, model, work.text, vae)))
    if plan.adapter_minutes:
        _train_adapters(plan, pairs, work.left)


def _take_what_is_made(folder: Path) -> None:
    for name in (VAE_FILE, MODEL_FILE):
        made = Path(__file__).with_name(name)
        if made.exists() and not (folder / name).exists():
            shutil.copy(made, folder)


class _Work:
    """The parts of `make`, and what all of them need."""

    def __init__(self, plan: Plan, say: Callable[[str], None]) -> None:
        self.plan, self.device, self._say, self._start = plan, torch.device(plan.device), say, time.monotonic()
        self.results, self._file = _Results(plan.folder), Log(plan.folder / "log.jsonl")
        self.text, self.judge = load_embedded(EMBEDDED_FILE)[0].base.text.to(self.device), load_judge(JUDGE_FILE)

    def log(self, **values: object) -> None:
        self._file(**values)
        self._say(f"{time.monotonic() - self._start:6.1f} s  {json.dumps(values)}")

    def left(self) -> float:
        """Minutes."""
        return self.plan.minutes - (time.monotonic() - self._start) / 60

    def vae(self) -> WanVAE:
        plan = self.plan
        path = plan.folder / VAE_FILE
        if path.exists():
            return read_vae(path, self.device)
        sizes = {"width": 8, "frames": 2 * FRAMES} if plan.tiny else {}
        vae = train_vae(VAESettings(plan.vae_minutes, **sizes), self.device, self.log, graphs=not plan.plain)
        write_vae(path, vae)
        return vae

    def measure_real(self, vae: WanVAE) -> None:
        clips = balanced(NAMES, 24 if self.plan.tiny else 480, SEED)
        cell, _ = evaluate_arm(WanPipeline(None, self.text, vae), self.judge, "real", clips)
        self.log(stage="real through the VAE", **cell)
        self.results.add(real=cell)

    def base(self, pairs: PairLatents) -> WanModel:
        plan = self.plan
        config = WanConfig(width=64, depth=2, heads=2, feed_forward=128) if plan.tiny else WanConfig()
        settings = BaseSettings(batch=8 if plan.tiny else 128)
        training = BaseTraining(settings, config, self.text, joined(list(pairs.clips)), pairs.latents.flatten(0, 1))

        def saved(model: nn.Module) -> None:
            write_model(plan.folder / UNFINISHED_FILE, model.state_dict(), config)

        def shares() -> Iterator[float]:  # asked for when all is compiled, which takes of the time
            minutes = self.left() - plan.measure_minutes - plan.adapter_minutes
            return (share for _, share in steps(max(0.1, minutes), self.device))

        try:
            model = train_base(training, shares, self.log, saved, fast=not plan.plain)
        finally:
            saved(training.average)
        (plan.folder / UNFINISHED_FILE).replace(plan.folder / MODEL_FILE)
        return model

    def measure(self, pipeline: Callable[..., WanPipeline]) -> None:
        from ..world.pictures import contact_sheet

        plan, cells, sheet, count = self.plan, {}, {}, 16 if self.plan.tiny else 160
        for split, actions in (("seen", SEEN), ("unseen", UNSEEN)):
            clips = balanced(tuple(actions), count, SEED)
            cells[split], latents = evaluate_arm(pipeline(), self.judge, "base", clips)
            each = max(1, count // 16)
            for row, pixels in zip(range(0, count, each), pipeline().show(latents[:count:each]), strict=True):
                sheet[f"{split} {row}"] = pixels
            self.log(stage="base", split=split, **cells[split])
        self.results.add(base=cells)
        contact_sheet(sheet, factor=2).save(plan.folder / "sheet.png")
        for other in _OTHERS:
            if self.left() - plan.adapter_minutes > 0.05:
                cells = evaluate(pipeline(**other), self.judge, count // 2, ("base",))
                self.log(stage="base", **other, **cells)
                self.results.add(**{json.dumps(other): cells})


def _train_adapters(plan: Plan, pairs: PairLatents, left: Callable[[], float]) -> None:
    """All variants at once, each in a process of its own: none of them fills a GPU, which waits for its next command
    most of the time. For the same reason large batches take hardly longer than small ones."""
    with TemporaryDirectory() as folder:
        torch.save((pairs.clips, pairs.latents.cpu()), Path(folder) / "pairs.pt")
        command = [sys.executable, "-m", __package__, "trial", "--folder", str(plan.folder), "--device", plan.device]
        command += ["--pairs", f"{folder}/pairs.pt", "--minutes", f"{max(0.1, left()):.3f}"]
        command += ["--batch", str(plan.batch)]
        command += ["--tiny"] if plan.tiny else []
        running = [subprocess.Popen([*command, "--variant", name]) for name in VARIANTS]
        for process in running:
            process.wait()


def try_adapter(
    folder: Path,
    pairs: Path,
    variant: str,
    minutes: float,
    batch: int,
    seed: int,
    prism_start: int,
    device: str,
    tiny: bool,
    say: Callable[[str], None],
) -> None:
    """One variant on the base in `folder`: writes it, and adds what it does to log.jsonl."""
    start = time.monotonic()
    torch.set_float32_matmul_precision("high")
    where, file = torch.device(device), Log(folder / "log.jsonl")

    def log(**values: object) -> None:
        file(variant=variant, **values)
        say(f"{time.monotonic() - start:6.1f} s  {variant}  {json.dumps(values)}")

    embedded = load_embedded(EMBEDDED_FILE)[0]
    text, judge = embedded.base.text.to(where), load_judge(JUDGE_FILE)
    vae, model = read_vae(folder / VAE_FILE, where), read_model(folder / MODEL_FILE, where)
    clips, latents = torch.load(pairs, weights_only=False)  # this program's own file
    settings = replace(VARIANTS[variant], batch=batch, seed=seed, prism_start=prism_start)
    if tiny:
        settings = replace(settings, batch=4, prism_start=4)
    measuring = 0.02 if tiny else 0.35
    left = minutes - measuring - (time.monotonic() - start) / 60
    adapter = train_adapter(settings, max(0.05, left), model, text, PairLatents(clips, latents.to(where)), log)
    path = folder / f"adapter-{variant}-{seed}.safetensors"
    write_safetensors(path, adapter.state_dict(), adapter.config.to_json(), dtype=torch.float16)
    pipeline, count = WanPipeline(model, text, vae, adapter), 8 if tiny else 160
    _guarded(log, lambda: log(stage="followed", **evaluate(pipeline, judge, count, ("echoreel",))))


def make_adapter(
    folder: Path,
    variant: str,
    steps: int,
    batch: int,
    seed: int,
    prism_start: int,
    chunks: int,
    plain: bool,
    say: Callable[[str], None],
) -> None:
    """One variant on the base in `folder`, else the one beside this file, into a folder in it; see
    `train_adapter.train_steps`. Chunks of pairs that are missing are made first."""
    folder.mkdir(parents=True, exist_ok=True)
    _take_what_is_made(folder)
    text, model = load_embedded(EMBEDDED_FILE)[0].base.text, read_model(folder / MODEL_FILE)
    vae = read_vae(folder / VAE_FILE)
    for number in range(1, chunks + 1):
        PairLatents.kept(folder, vae, number, Pieces.motions)
    latents = PairLatents.all_kept(folder, Pieces.motions)
    where = folder / f"adapter-{variant}-{seed}"
    settings = replace(VARIANTS[variant], batch=batch, seed=seed, prism_start=prism_start)
    train_steps(where, settings, steps, model, text, latents, say, not plain)


def evaluated(
    base: Path,
    adapter: Path | None,
    out: Path,
    clips: int,
    sampling_steps: int,
    guidance: float,
    arms: Sequence[str],
    device: str,
    say: Callable[[str], None],
) -> None:
    """Write the table's cells of these arms into `out`, which keeps its others."""
    text = load_embedded(EMBEDDED_FILE)[0].base.text.to(device)
    vae = read_vae(Path(__file__).with_name(VAE_FILE), device)
    trained = load_adapter(adapter, device) if adapter else None
    pipeline = WanPipeline(read_model(base, device), text, vae, trained, sampling_steps, guidance)
    judge, result = load_judge(JUDGE_FILE), json.loads(out.read_text()) if out.exists() else {}
    if trained is None:
        arms = [arm for arm in arms if arm in WITHOUT_ADAPTER or "/" in arm]
    say(HEADER)
    result |= evaluate(pipeline, judge, clips, [arm for arm in arms if arm in ARMS], say)
    result |= evaluate_guided(pipeline, judge, clips, [arm for arm in arms if "/" in arm], progress=say)
    if BLEND in arms:
        result |= evaluate_blend(pipeline, clips, say)
    write(result, out)


def _guarded(log: Callable[..., None], work: Callable[[], None]) -> None:
    """What fails in measuring is told, and costs nothing else."""
    try:
        work()
    except Exception:
        log(failed=traceback.format_exc()[-3000:])

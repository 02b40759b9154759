"""Train the embedded adapter on pairs of seen actions: the same motion, by another subject on another background."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ...training.config import OutputSettings, TrainingSettings
from ...training.data.batches import Batch
from ...training.lvdm.trainable import TrainableLVDM
from ...training.process_group import ProcessGroup
from ...training.run import TrainingRun
from ...training.trainer import StepResult, Trainer
from ...video.keypoints import with_missing
from ..model.adapted_model import new_adapter
from ..world.words import dropped, ids
from .pairs import CHUNK, Pairs
from .train_base import load_base

SETTINGS = TrainingSettings(
    steps=4800,
    batch_size=16,
    optimizer="muon",
    learning_rate=3e-3,
    prism_rate=0.1,
    prism_start_steps=4000,
    prism_start_pairs=64,  # angles take many different clips
    motion_loss=0.5,
    schedule="linear",
    noise_offset=0.1,
    text_dropout=0.0,
    mixed_precision="bf16",
    compile="default",
    seed=5,
)
"""Settings of a new run; `EmbeddedPairs` drops prompts and words itself, so `text_dropout` is 0."""

DROP = {"empty": 0.1, "action": 0.4, "words": 0.05}
"""How often a whole caption, its action or single words are left out: the arguments of `words.dropped`."""


class EmbeddedPairs:
    """The pairs of a folder's chunks; implements `PairSource`. Each half of a pair is target and reference in turn.

    Args:
        text: captions' ids [B, 77] → tokens [B, 77, 48].
        turning: how much more often pairs with a rotating figure are drawn.
        drop: see `DROP`; None leaves nothing out.
    """

    def __init__(
        self, pairs: Pairs, text: Callable[[Tensor], Tensor], turning: int = 1, drop: dict[str, float] | None = None
    ) -> None:
        self._pairs, self._text = pairs, text
        self._drop = dict.fromkeys(DROP, 0.0) if drop is None else drop
        turns = torch.cat([turns for _, turns, _ in pairs.chunks])
        self._keypoints = [[half.keypoints() for half in clips] for clips, _, _ in pairs.chunks]
        self._rows = torch.arange(len(turns)).repeat_interleave(torch.where(turns, turning, 1))
        with torch.no_grad():
            self.empty_text = text(ids([""]))[0]

    def __len__(self) -> int:
        """See `PairSource`."""
        return 2 * len(self._rows)

    @torch.no_grad()
    def batch(self, indices: Sequence[int], seeds: Sequence[int]) -> Batch:
        """See `PairSource`; `seeds` decide which words are left out."""
        target, reference, points, told = [], [], [], ([], [])
        for index, seed in zip(indices, seeds, strict=True):
            chunk, row = divmod(int(self._rows[index // 2]), CHUNK)
            clips, _, latents = self._pairs.chunks[chunk]
            generator = torch.Generator().manual_seed(seed)
            for half, into, captions in ((index % 2, target, told[0]), (1 - index % 2, reference, told[1])):
                into.append(latents[half, row].float())
                captions.append(dropped(clips[half][row : row + 1], generator, **self._drop)[0])
            points.append(self._keypoints[chunk][1 - index % 2][row])
        prompt, caption = (self._text(torch.stack(lines)) for lines in told)
        keypoints = with_missing(torch.stack(points))
        return Batch(torch.stack(target), torch.stack(reference), prompt, caption, keypoints=keypoints)


def make_trainer(
    base: Path, pairs: Path, settings: TrainingSettings = SETTINGS, turning: int = 3, device: str = "cpu"
) -> Trainer:
    """The pack's own trainer with a new adapter on the base model's checkpoint."""
    frozen = load_base(base)
    torch.manual_seed(settings.seed)
    source = EmbeddedPairs(Pairs(pairs), frozen.text, turning, DROP)
    trainable, adapter = TrainableLVDM(frozen.unet.to(device)), new_adapter(frozen)
    return Trainer(trainable, adapter, source, settings, ProcessGroup(device))


def train(
    folder: Path,
    base: Path,
    pairs: Path,
    settings: TrainingSettings = SETTINGS,
    turning: int = 3,
    until: int | None = None,
    device: str = "cpu",
    say: Callable[[str], None] = lambda _: None,
) -> None:
    """Write adapter.safetensors, checkpoints and metrics.jsonl into `folder`. A run continues from its last
    checkpoint exactly as if it had never stopped; `until` stops it after that step.
    """
    trainer = make_trainer(base, pairs, settings, turning, device)
    output = OutputSettings(folder, name="adapter", stored_as="float32", checkpoint_every=100, held_out_every=0)
    run = TrainingRun(trainer, output, {"frames": 16})
    run.resume()

    def on_step(result: StepResult) -> None:
        if result.step % output.log_every == 0:
            say(f"step {result.step}/{settings.steps}  loss {result.loss:.4f}")

    run(on_step, lambda: until is not None and trainer.step >= until)

"""Train the second base model on the seen actions, from scratch: flow matching, as its family is trained."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...lvdm.text_encoder import CLIPTextEncoder
from ...training.process_group import ProcessGroup
from ..world.clips import Clips
from .captions import Captions
from .clock import Every, factor, graphed
from .data import turns
from .model import WanConfig, WanModel, start
from .optimize import Optimizer

SHIFT = 3.0
"""Of the noise levels in training, towards the noisy end. Hosts sample this family with shifts from 3 to 8."""


@dataclass(frozen=True)
class BaseSettings:
    """`batch` clips a step; the learning rate falls during the last `down` of the training; figures that turn are
    `turning` times as likely as others; `average` is the decay of the weights' moving average, of which the result
    consists."""

    batch: int = 128
    seed: int = 12
    rate: float = 2e-3
    down: float = 0.4
    turning: float = 3.0
    average: float = 0.999


def shifted(u: Tensor, shift: float) -> Tensor:
    """Noise levels for u in 0 to 1 (Esser et al. 2024, equation 23)."""
    return shift * u / (1 + (shift - 1) * u)


def unshifted(level: float, shift: float) -> float:
    """The u of which `shifted` makes this noise level."""
    return level / (shift - (shift - 1) * level)


class BaseTraining:
    """Model, data and optimizer, and one step that reads nothing back from the device.

    Args:
        text: the frozen text encoder of the embedded model.
        clips, latents: see `take`.
        group: of the processes that share each step's clips; all draw the same chances.

    Attributes:
        number: of the next step.
    """

    def __init__(
        self,
        settings: BaseSettings,
        config: WanConfig,
        text: CLIPTextEncoder,
        clips: Clips,
        latents: Tensor,
        group: ProcessGroup | None = None,
    ) -> None:
        device = latents.device
        self.group = group or ProcessGroup(device)
        torch.manual_seed(settings.seed)
        self.settings, self.number = settings, 0
        self.text = text.to(device).requires_grad_(False).eval()
        self.model = start(WanModel(config)).to(device)
        self.average = copy.deepcopy(self.model).requires_grad_(False)
        self.take(clips, latents)
        plain = ("patch_embedding", "modulation", "head.head")
        self.optimizer = Optimizer(self.model.named_parameters(), settings.rate, plain)
        self.keep = torch.zeros((), device=device)  # share of the average's weights that stays in this step
        self.sums = torch.zeros(4, device=device)  # steps, and the errors of low, middle and high noise

    def take(self, clips: Clips, latents: Tensor) -> None:
        """Draw from these clips from now on, latents `[clips, 16, 9, 8, 8]` on the device that trains."""
        self.latents, self.captions = latents, Captions(clips, latents.device)
        likely = (1 + (self.settings.turning - 1) * turns(clips)).double().cumsum(0)
        self._likely = (likely / likely[-1]).float().to(latents.device)

    def state(self) -> dict:
        """All that the next steps depend on, but for settings and clips."""
        return {
            "number": self.number,
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state(),
            "random": torch.get_rng_state(),
        }

    def load(self, state: dict) -> None:
        """Goes on from a `state`, on a CPU exactly as if nothing had come between."""
        self.number = state["number"]
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load(state["optimizer"])
        torch.set_rng_state(state["random"])

    def compile(self, log: Callable[..., None]) -> None:
        """All blocks run the same compiled code; where there is no compiler they stay as they are."""
        for block in self.model.blocks:
            block.compile(dynamic=False)
        try:
            self.step()
        except Exception as error:
            log(compiler=str(error)[:500])
            for block in self.model.blocks:
                block._compiled_call_impl = None

    def draw(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """This process's share of a batch: clean latents, noise, noise levels, one from each equal part of the
        schedule, and text tokens."""
        count, device = self.settings.batch, self.latents.device
        rows = torch.searchsorted(self._likely, torch.rand(count, device=device)).clamp(max=len(self._likely) - 1)
        u = (torch.arange(count, device=device) + torch.rand(count, device=device)) / count
        captions = self.captions.dropped(rows)
        noise = torch.randn(count, *self.latents.shape[1:], device=device)
        own = slice(self.group.rank, None, self.group.count)
        with torch.no_grad():
            text = self.text(captions[own])
        return self.latents[rows[own]].float(), noise[own], shifted(u[own], SHIFT), text

    def step(self) -> None:
        clean, noise, level, text = self.draw()
        share = level.view(-1, 1, 1, 1, 1)
        with torch.autocast(clean.device.type, torch.bfloat16, cache_enabled=False):
            velocity = self.model(torch.lerp(clean, noise, share), level * 1000, text)
        error = (velocity.float() - (noise - clean)).square().mean((1, 2, 3, 4))
        gradients = torch.autograd.grad(error.mean(), self.optimizer.parameters)
        self.group.mean_(gradients)
        self.optimizer.step(gradients)
        with torch.no_grad():
            parts = error.detach().tensor_split(3)
            self.sums += torch.stack([torch.ones_like(self.keep), *(part.mean() for part in parts)])
            self._follow()

    def tell(self, log: Callable[..., None], share: float) -> None:
        """Logs the mean errors since the last time, those of this process."""
        count, *errors = self.sums.tolist()
        self.sums.zero_()
        low, middle, high = (value / count for value in errors)
        loss = (low + middle + high) / 3
        log(stage="base", step=self.number, share=share, loss=loss, low=low, middle=middle, high=high)

    def _follow(self) -> None:
        weights, average = [*self.model.parameters()], [*self.average.parameters()]
        away = torch._foreach_sub(weights, average)
        torch._foreach_mul_(away, 1 - self.keep)
        torch._foreach_add_(average, away)


def train(
    training: BaseTraining,
    shares: Callable[[], Iterator[float]],
    log: Callable[..., None],
    saved: Callable[[nn.Module], None],
    fast: bool = True,
) -> WanModel:
    """The average of the weights at the end; `saved` takes it at half time as well.

    Args:
        shares: called when all is compiled, where a `state` may be loaded; gives before each step the share of the
            training that is over.
        fast: compile the blocks, and on CUDA make the whole step a graph.
    """
    settings, half = training.settings, False
    training.optimizer.factor.fill_(0.01)
    every = Every(3 if training.latents.device.type == "cuda" else 60)
    if fast:
        training.compile(log)
    step = graphed(training.step, training.latents.device, log, fast)
    training.sums.zero_()
    for share in shares():
        number = training.number
        training.optimizer.factor.fill_(factor(number, share, down=settings.down))
        training.keep.fill_(min(settings.average, (number + 1) / (number + 10)))
        step()
        training.number += 1
        if every():
            training.tell(log, share)
        if share > 0.5 and not half:
            half = True
            saved(training.average)
    log(stage="base", steps=training.number)
    return training.average.eval()

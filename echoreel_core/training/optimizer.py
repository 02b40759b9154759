"""AdamW, in 8 bits too, or Muon for the matrices and AdamW for the rest, behind one face."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from ..errors import EchoReelError

OptimizerName = Literal["muon", "adamw", "adamw8bit"]
OPTIMIZERS: tuple[str, ...] = get_args(OptimizerName)

BESIDE_MUON = 1 / 3
"""AdamW's learning rate for what Muon does not take, as a share of Muon's."""

LOOKED_UP = ("position_", "embedding")
"""Parts of the names of tables: their rows are looked up one by one, so they are no matrices to Muon."""

_QUANTISED = {"qmap1", "qmap2", "absmax1", "absmax2"}
_KEPT = {
    "muon": [{"momentum_buffer"}],
    "adamw": [{"step", "exp_avg", "exp_avg_sq"}],
    "adamw8bit": [{"step", "state1", "state2"}, {"step", "state1", "state2", *_QUANTISED}],
}
"""What each keeps of a parameter, in 8 bits less for small ones, which stay in 32."""
_SQUARES = ("step", "exp_avg_sq", "absmax2")
_SHAPED = ("momentum_buffer", "exp_avg", "exp_avg_sq", "state1", "state2")

_log = logging.getLogger(__name__)


class Optimizer:
    """One optimizer over named parameters, each with a share of the learning rate.

    Muon (https://kellerjordan.github.io/posts/muon/, torch.optim.Muon of torch 2.9) takes matrices, and convolutions
    flattened to matrices. Its updates are as large as AdamW's at the same rate (`match_rms_adamw`). Tables, vectors and
    whatever `plain` names are left to AdamW, at a third of the rate and without weight decay.

    Args:
        named: names and parameters.
        name: "muon", "adamw", or "adamw8bit", whose moments take 2 bytes in place of 8 (bitsandbytes,
            https://arxiv.org/abs/2110.02861). Where torch has no Muon, the log says so and AdamW takes all, at the
            third of the rate that is its own beside Muon.
        rate: the learning rate.
        betas: AdamW's.
        plain: parts of names that are left to AdamW: a network's first and last layer, for example.
        slow: beginnings of names, and the share of the rate at which what is named so learns.

    Attributes:
        name: of the optimizer in use.
        parameters: all of them, in the order given.
        parts: the torch optimizers.

    Raises: EchoReelError where "adamw8bit" is asked for and bitsandbytes is not installed.
    """

    def __init__(
        self,
        named: Iterable[tuple[str, nn.Parameter]],
        name: OptimizerName,
        rate: float,
        *,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.01,
        plain: Sequence[str] = (),
        slow: Mapping[str, float] = MappingProxyType({}),
    ) -> None:
        if name == "muon" and not hasattr(torch.optim, "Muon"):
            _log.warning(
                "This torch (%s) has no Muon, which 2.9 brought: AdamW takes its place, at a third of the rate.",
                torch.__version__,
            )
            name, rate = "adamw", rate * BESIDE_MUON
        self.name = name
        self._named = dict(named)
        self.parameters = [*self._named.values()]
        self._flat: dict[nn.Parameter, nn.Parameter] = {}
        muon, adam = defaultdict(list), defaultdict(list)  # by rate
        for key, parameter in self._named.items():
            own = rate * next((share for start, share in slow.items() if key.startswith(start)), 1.0)
            matrix = parameter.dim() > 1 and not any(part in key for part in (*LOOKED_UP, *plain))
            if name == "muon" and matrix:
                flat = nn.Parameter(parameter.detach().flatten(1))  # a view: steps reach the model
                self._flat[parameter] = flat
                muon[own].append(flat)
            else:
                adam[own * BESIDE_MUON if name == "muon" else own].append(parameter)
        self.parts: list[torch.optim.Optimizer] = []
        if muon:
            self.parts.append(
                torch.optim.Muon(_groups(muon), rate, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")
            )
        if adam:
            rest = 0.0 if name == "muon" else weight_decay
            kind = _eight_bit_adamw() if name == "adamw8bit" else torch.optim.AdamW
            self.parts.append(kind(_groups(adam), rate, betas=betas, weight_decay=rest))
        self._rates = [[group["lr"] for group in part.param_groups] for part in self.parts]

    def zero_grad(self) -> None:
        """Forgets the gradients."""
        for parameter in (*self.parameters, *self._flat.values()):
            parameter.grad = None

    def share_gradients(self) -> None:
        """Hands the gradients on to what is flattened; call it after the backward pass, before any step."""
        for parameter, flat in self._flat.items():
            flat.grad = None if parameter.grad is None else parameter.grad.flatten(1)

    def set_rates(self, factor: float) -> None:
        """Learning rates for the next step, as a share of those given."""
        for part, rates in zip(self.parts, self._rates, strict=True):
            for group, rate in zip(part.param_groups, rates, strict=True):
                group["lr"] = rate * factor

    def step(self) -> None:
        """One step of every part, with the gradients shared before."""
        for part in self.parts:
            part.step()

    def state(self) -> dict[str, Tensor]:
        """All that the optimizer keeps, as "<parameter>.<what>"."""
        return {
            f"{key}.{what}": torch.as_tensor(value)
            for key, parameter in self._named.items()
            for what, value in self._kept(parameter)
        }

    def _kept(self, parameter: nn.Parameter) -> Iterable[tuple[str, Any]]:
        of = self._flat.get(parameter, parameter)
        return [item for part in self.parts if of in part.state for item in part.state[of].items()]

    def checked(self, tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
        """What of `state()` belongs to each parameter. What another optimizer kept is left out.

        Raises: EchoReelError where something is missing, of another shape or no number.
        """
        found: dict[str, dict[str, Tensor]] = {key: {} for key in self._named}
        for full, tensor in tensors.items():
            key, _, what = full.rpartition(".")
            if key not in found:
                raise EchoReelError(f"it holds {full}, which this adapter does not have")
            found[key][what] = tensor
        for key, kept in found.items():
            own = self._flat.get(self._named[key], self._named[key])
            if kept and not any(set(kept) in forms for forms in _KEPT.values()):
                raise EchoReelError(f"of {key} it holds {', '.join(kept)}")
            if set(kept) not in _KEPT[self._of(key)]:
                kept.clear()
            for what, tensor in kept.items():
                if what in _SHAPED and tensor.shape != own.shape:
                    raise EchoReelError(f"{key}.{what} is {list(tensor.shape)} in place of {list(own.shape)}")
                if not torch.isfinite(tensor).all() or (what in _SQUARES and (tensor < 0).any()):
                    raise EchoReelError(f"{key}.{what} holds values that no run can have reached")
        return found

    def _of(self, key: str) -> str:
        """Which optimizer a parameter is left to."""
        if self._named[key] in self._flat:
            return "muon"
        return "adamw" if self.name == "muon" else self.name

    def load(self, found: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Takes up what `checked` gave."""
        for part in self.parts:
            part.state.clear()
        for key, kept in found.items():
            own = self._flat.get(self._named[key], self._named[key])
            part = self.parts[0] if self._named[key] in self._flat else self.parts[-1]
            if kept and self._of(key) == "adamw8bit":
                part.state[own] = {what: tensor.to(own.device).clone() for what, tensor in kept.items()}
                part.state[own]["step"] = int(kept["step"])
            elif kept:
                part.state[own] = {
                    what: tensor.float().cpu().clone() if what == "step" else tensor.to(own).clone()
                    for what, tensor in kept.items()
                }


def _groups(by_rate: Mapping[float, list[nn.Parameter]]) -> list[dict[str, Any]]:
    return [{"params": parameters, "lr": rate} for rate, parameters in by_rate.items()]


def _eight_bit_adamw() -> type[torch.optim.Optimizer]:
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError:
        raise EchoReelError(
            "The optimizer 'adamw8bit' needs bitsandbytes, which is not installed: install it (pip install "
            "bitsandbytes), or use 'adamw'."
        ) from None
    return AdamW8bit

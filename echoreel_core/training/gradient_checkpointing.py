"""Gradient checkpointing: less memory for activations, more time.

It is torch's own. What is added here is for models that write into their hidden states in place, as ComfyUI's LTX-Video
and HunyuanVideo do to save memory in sampling: what a block is run on again must be as it was, and so must what its
gradients need, which the rest of the block may have written into by then. So such a block runs on copies of its inputs,
and what its second run keeps are copies too. In memory that is one hidden state more than one block's activations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import save_on_cpu, saved_tensors_hooks
from torch.utils._pytree import tree_flatten, tree_unflatten
from torch.utils.checkpoint import checkpoint

from ..action.injection import let_go
from ..errors import EchoReelError

_CALL = "_compiled_call_impl"
"""What torch runs in place of a module's forward pass and its hooks, where it is set."""


@contextmanager
def gradient_checkpointed(
    modules: Sequence[nn.Module], offload: bool = False, changes_in_place: bool = False
) -> Iterator[None]:
    """Inside the `with`, these modules keep no activations: they run again in the backward pass (same `with`), and so
    do the layers that are hooked to them.

    Args:
        offload: whether even their inputs, from which they run again, wait in the computer's memory.
        changes_in_place: whether they write into their inputs, or into what their gradients need.

    Raises: EchoReelError, in the backward pass, where an input was written into after its module had run.
    """
    before = [module.__dict__.get(_CALL) for module in modules]
    try:
        for module in modules:
            setattr(module, _CALL, partial(_checkpointed, module, offload, changes_in_place))
        yield
    finally:
        for module, call in zip(modules, before, strict=True):
            module.__dict__.pop(_CALL, None)
            if call is not None:
                setattr(module, _CALL, call)


def kept_copies() -> saved_tensors_hooks:
    """Inside the `with`, autograd keeps copies of what gradients need, as it may change in place.

    torch's own `allow_mutation_on_saved_tensors` mixes tensors up whose memory is reused: wrong gradients.
    """
    return saved_tensors_hooks(_copy, lambda kept: kept)


def _copy(tensor: Tensor) -> Tensor:
    """A copy; of weights, which do not change, themselves."""
    owner = tensor if tensor._base is None else tensor._base
    return tensor if isinstance(owner, nn.Parameter) else tensor.clone()


def _checkpointed(module: nn.Module, offload: bool, changes_in_place: bool, *args: Any, **kwargs: Any) -> Any:
    # dictionaries are the host's own and are passed on as they are
    inputs, layout = tree_flatten((args, tuple(kwargs.values())), is_leaf=lambda part: isinstance(part, dict))
    names = tuple(kwargs)

    def run(*inputs: Any) -> Any:
        if changes_in_place:
            inputs = [part.clone() if isinstance(part, Tensor) else part for part in inputs]
        args, values = tree_unflatten(inputs, layout)
        try:
            return module._call_impl(*args, **dict(zip(names, values, strict=True)))
        except BaseException:  # torch breaks the second run off when it has all that it needs
            let_go(module)
            raise

    # the hooks see the inputs alone: what is made inside is not kept in the first place
    with _inputs_kept(offload, changes_in_place):
        return checkpoint(
            run,
            *inputs,
            use_reentrant=False,
            preserve_rng_state=False,
            context_fn=_copies_in_second_run if changes_in_place else _as_they_are,
        )


def _inputs_kept(offload: bool, changes_in_place: bool) -> AbstractContextManager[object]:
    """How a module's inputs wait for its second run."""
    if offload:
        return _states_on_cpu()
    # behind hooks, `kept_copies` among them, torch does not look for changes itself
    return saved_tensors_hooks(_with_version, _unchanged) if changes_in_place else nullcontext()


def _states_on_cpu() -> saved_tensors_hooks:
    """Moves the hidden states to the computer's memory, and leaves what all modules are given alike where it is."""
    cpu = save_on_cpu(pin_memory=torch.cuda.is_available())

    def pack(tensor: Tensor) -> tuple[Callable[[Any], Tensor], Any]:
        # what changes from module to module hangs on what is trained
        if tensor.requires_grad:
            return cpu.unpack_hook, cpu.pack_hook(tensor)
        return _unchanged, _with_version(tensor)

    return saved_tensors_hooks(pack, lambda packed: packed[0](packed[1]))


def _with_version(tensor: Tensor) -> tuple[Tensor, int | None]:
    return tensor, None if tensor.is_inference() else tensor._version


def _unchanged(kept: tuple[Tensor, int | None]) -> Tensor:
    tensor, version = kept
    if version is not None and tensor._version != version:
        raise EchoReelError(
            "The model writes into what its blocks were given after they have run: switch gradient_checkpointing off."
        )
    return tensor


def _as_they_are() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    return nullcontext(), nullcontext()


def _copies_in_second_run() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    return nullcontext(), _copies_kept_for_torch()


@contextmanager
def _copies_kept_for_torch() -> Iterator[None]:
    """Around a second run: collects copies of what it keeps, and hands them to torch in the same order at its end.

    torch takes what a second run keeps from its own hooks, and of nested hooks only the innermost see anything.
    """
    copies: list[Tensor] = []
    with saved_tensors_hooks(lambda tensor: copies.append(_copy(tensor)), lambda nothing: nothing):
        yield
    _Keep.apply(torch.zeros((), requires_grad=True), *copies)


class _Keep(torch.autograd.Function):
    """Has autograd keep tensors; the function itself is not derived."""

    @staticmethod
    def forward(ctx: Any, start: Tensor, *tensors: Tensor) -> Tensor:
        ctx.save_for_backward(*tensors)
        return start.clone()

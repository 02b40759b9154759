"""Whether the device gives the authors' numbers, in every precision."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))
from released_model import ReleasedModel, relative_error  # noqa: E402

from echoreel_core.lvdm.ddim import ddim_sample, guided  # noqa: E402

from .report import Bench  # noqa: E402

LIMIT = 1e-4
"""Relative error in float32."""

SAMPLED_LIMIT = 3e-4
"""Relative error in float32 of latents after ten steps at guidance 12."""

ROUNDING = 3
"""In half precision: how many times the error that rounding weights and inputs alone brings."""


def check(bench: Bench) -> None:
    """Rows: the toy model and (in full) one of the released size, in every precision."""
    for layout in ("small",) if bench.small else ("small", "released"):
        name = f"{layout} fixture"
        if layout == "released" and not bench.enough(name, 25):
            continue
        with bench.attempt(name):
            _check_layout(bench, layout, name)


def _check_layout(bench: Bench, layout: str, name: str) -> None:
    recorded = ReleasedModel.load(layout)
    model = recorded.to(torch.float32, bench.device)
    with bench.attempt(f"{name}, float32"), tf32(False):
        errors = _errors(model, recorded.recorded)
        _verdict(bench, f"{name}, float32", errors, dict.fromkeys(errors, LIMIT))
    if layout == "small":
        with bench.attempt(f"{name}, float32, sampled"), tf32(False):
            errors = {"latents": _error(_sampled(model), recorded.recorded["ddim10_cfg12"])}
            _verdict(bench, f"{name}, float32, 10 steps", errors, {"latents": SAMPLED_LIMIT})
    if bench.device.type == "cuda":
        with bench.attempt(f"{name}, float32 with TF32"), tf32(True):
            worst, remark = _in_words(_errors(model, recorded.recorded))
            bench.row(f"{name}, float32 with TF32", f"error {worst:.1e}", f"{remark}; no limit, for the record")
    for dtype in (torch.bfloat16, torch.float16):
        line = f"{name}, {str(dtype).removeprefix('torch.')}"
        with bench.attempt(line), tf32(False):
            half = model.to(dtype, bench.device)
            errors = _errors(half, recorded.recorded)
            rounded = _errors(half.to(torch.float32, bench.device), recorded.recorded)
            _verdict(bench, line, errors, {key: ROUNDING * relative for key, (relative, _) in rounded.items()})


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Inside the `with`, products of float32 numbers may or may not be made of rounded ones."""
    backends = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [backend.allow_tf32 for backend in backends]
    try:
        for backend in backends:
            backend.allow_tf32 = allowed
        yield
    finally:
        for backend, value in zip(backends, before, strict=True):
            backend.allow_tf32 = value


def _errors(model: ReleasedModel, recorded: dict[str, Tensor]) -> dict[str, tuple[float, float]]:
    """(relative, largest absolute) error of the action, the plain model, and the model with it in both forms."""
    inputs = model.recorded["x"], model.recorded["t"], model.recorded["context"]
    action = model.action()
    results = {"action": (action, "action"), "model": (model.predict_noise(*inputs, None, "plain"), "eps_base")}
    for form in ("plain", "folded"):
        results[form] = model.predict_noise(*inputs, action, form), "eps"
    return {name: _error(result, recorded[key]) for name, (result, key) in results.items()}


def _error(result: Tensor, recorded: Tensor) -> tuple[float, float]:
    result = result.cpu()
    return relative_error(result, recorded), (result.double() - recorded.double()).abs().max().item()


def _sampled(model: ReleasedModel) -> Tensor:
    positive, negative = (
        partial(model.predict_noise, context=model.recorded[context], action=model.action(context), form="folded")
        for context in ("context", "uncond_context")
    )
    return ddim_sample(guided(positive, negative, 12.0), model.recorded["x_T"], 10)


def _in_words(errors: dict[str, tuple[float, float]]) -> tuple[float, str]:
    parts = [f"{name} {relative:.1e} ({most:.1e})" for name, (relative, most) in errors.items()]
    return max(relative for relative, _ in errors.values()), "relative (largest): " + ", ".join(parts)


def _verdict(bench: Bench, line: str, errors: dict[str, tuple[float, float]], limits: dict[str, float]) -> None:
    worst = max(errors, key=lambda name: errors[name][0] / limits[name])
    verdict = "holds" if errors[worst][0] <= limits[worst] else "DOES NOT HOLD"
    result = f"{verdict}: error {errors[worst][0]:.1e}, limit {limits[worst]:.1e}"
    bench.row(line, result, _in_words(errors)[1])

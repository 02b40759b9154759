"""One call of a model, set up as the host's sampler sets it up."""

from __future__ import annotations

import copy

import comfy.model_management
import torch
from comfy.patcher_extension import copy_nested_dicts
from tiny_families import Tiny


def call(tiny: Tiny, model=None, sigma: float = 0.7, gradients: bool = False, **options) -> torch.Tensor:
    """The model's denoised prediction for the case's inputs: negative half first, as a guided sampler batches them."""
    model = model or tiny.model
    comfy.model_management.load_models_gpu([model, *model.get_nested_additional_models()])
    both = tiny.x.shape[0] > 1
    transformer_options = copy_nested_dicts(model.model_options["transformer_options"])
    transformer_options["wrappers"] = copy_nested_dicts(model.wrappers)
    transformer_options |= {"cond_or_uncond": [1, 0] if both else [0], "sigmas": torch.tensor([sigma])}
    chunk = tiny.options.get("ar_state")
    if chunk is not None:  # its caches are written to
        transformer_options["ar_state"] = copy.deepcopy(chunk)
    transformer_options |= options
    conds = {key: value.clone() if isinstance(value, torch.Tensor) else value for key, value in tiny.conds.items()}
    timestep = torch.full((tiny.x.shape[0],), sigma)
    model.pre_run()
    comfy.model_management.in_training = gradients  # the host's fast kernels have no gradients
    try:
        with torch.set_grad_enabled(gradients):
            return model.model.apply_model(tiny.x.clone(), timestep, transformer_options=transformer_options, **conds)
    finally:
        comfy.model_management.in_training = False
        model.cleanup()

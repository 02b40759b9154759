"""How large an adapter of the default size is for every family, and what training it takes, by arithmetic.

    python benchmarks/adapter_memory.py

Nothing is run: parameters are counted on torch's meta device, memory is added up. The account is for one clip of 81
frames at 832 x 480 per step (16 frames at 512 x 512 for the UNets), the frozen model in bfloat16, the adapter, its
gradients and Adam's two moments in float32, and gradient checkpointing of the model's blocks: each block's input is
kept, and one block at a time has all its activations. The prism keeps all of its own. VAE and text encoder are not
loaded, their results are cached.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from echoreel_core.training.default_sizes import REFERENCE_PIXELS, AdapterInputs, general_form, parameter_count

KEPT_IN_A_BLOCK = 20
"""Activations of a block while it is recomputed, in sizes of its input: norms and modulation 5, projections 6, a
feed-forward of 4.5 times the width before and after its nonlinearity 9."""

KEPT_IN_THE_PRISM = 80
"""Of one of its layers: four attentions of 5, four feed-forwards of twice 4 before their gate, 4 after it, and 3."""

GB = 1e9


@dataclass(frozen=True)
class Model:
    """A model's sizes.

    Attributes:
        family: as in the table of families. sites: (number of blocks, width), ….
        parameters: of the frozen model. channels, factor: of the VAE's latents. text: width of the text's tokens.
        frames: of the latents. tokens: per frame, at the width they have most of.
    """

    family: str
    sites: tuple[tuple[int, int], ...]
    parameters: float
    channels: int
    factor: int
    text: int
    frames: int
    tokens: int


UNET_SITES = ((5, 320), (5, 640), (6, 1280))
MODELS = {
    "SVD": Model("svd", UNET_SITES, 1.52e9, 4, 8, 1024, 16, 4096),
    "AnimateDiff (SD 1.5)": Model("animatediff", UNET_SITES, 1.28e9, 4, 8, 768, 16, 4096),
    "Wan 2.1 1.3B": Model("wan", ((30, 1536),), 1.42e9, 16, 8, 4096, 21, 1560),
    "Wan 2.2 5B": Model("wan", ((30, 3072),), 5.0e9, 48, 16, 4096, 21, 390),
    "Wan 2.1 / 2.2 14B": Model("wan", ((40, 5120),), 14.3e9, 16, 8, 4096, 21, 1560),
    "LTX-Video 2B": Model("ltxv", ((28, 2048),), 1.92e9, 128, 32, 4096, 11, 390),
    "LTX-Video 13B": Model("ltxv", ((48, 4096),), 13.0e9, 128, 32, 4096, 11, 390),
    "LTX-2 19B": Model("ltxav", ((48, 4096),), 19.0e9, 128, 32, 3840, 11, 390),
    "HunyuanVideo": Model("hunyuan_video", ((60, 3072),), 12.8e9, 16, 8, 4096, 21, 1560),
    "HunyuanVideo 1.5": Model("hunyuan_video", ((54, 2048),), 8.3e9, 32, 16, 3584, 21, 1560),
    "Mochi": Model("mochi", ((48, 3072),), 10.0e9, 12, 8, 4096, 14, 1560),
    "Cosmos 1 7B": Model("cosmos", ((28, 4096),), 7.0e9, 16, 8, 1024, 11, 1560),
    "Cosmos Predict 2 2B": Model("cosmos_predict2", ((28, 2048),), 2.0e9, 16, 8, 1024, 21, 1560),
    "CogVideoX 5B": Model("cogvideox", ((42, 3072),), 5.6e9, 16, 8, 4096, 21, 1560),
    "MiniMax H3": Model("minimax_h3", ((50, 5376),), 25.0e9, 24, 16, 5376, 24, 390),
    "Kandinsky 5 lite": Model("kandinsky5", ((32, 1792),), 2.0e9, 16, 8, 3584, 21, 1560),
}


def account(model: Model) -> dict[str, float]:
    """Parameters of the adapter, and the parts of the memory a training step takes, in bytes."""
    side = REFERENCE_PIXELS // model.factor
    inputs = AdapterInputs(
        host=model.family,
        sites=[(f"{width}.{i}", width) for count, width in model.sites for i in range(count)],
        latent_channels=model.channels,
        latent_size=(side, side),
        latent_frames=model.frames,
        text_width=model.text,
    )
    config = general_form(inputs)
    parameters = parameter_count(config)
    # a UNet has fewer positions where it is wider, so its widest level has its tokens at the first width
    hidden = model.frames * model.tokens * model.sites[0][1] * 2
    prism = model.frames * config.prism.grid[0] * config.prism.grid[1] * config.prism.width * 4
    return {
        "parameters": parameters,
        "frozen model": model.parameters * 2,
        "adapter": parameters * 4,
        "gradients": parameters * 4,
        "Adam": parameters * 8,
        "block inputs": hidden * sum(count for count, _ in model.sites),
        "one block": hidden * KEPT_IN_A_BLOCK,
        "prism": prism * KEPT_IN_THE_PRISM * config.prism.depth,
    }


def main() -> None:
    """Prints one line per model."""
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    parts = list(account(MODELS["Wan 2.1 1.3B"]))[1:]
    print(f"{'in GB':>22}{'parameters':>12}" + "".join(f"{part:>14}" for part in parts) + f"{'in all':>10}")
    for name, model in MODELS.items():
        sizes = account(model)
        parameters = sizes.pop("parameters")
        row = "".join(f"{size / GB:>14.2f}" for size in sizes.values())
        print(f"{name:>22}{parameters / 1e6:>10.0f} M{row}{sum(sizes.values()) / GB:>10.1f}")


if __name__ == "__main__":
    main()

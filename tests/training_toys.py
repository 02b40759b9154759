"""A toy LVDM model, adapter and pairs: the small fixture's sizes, random weights."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from released_weights import make_state_dict
from torch import Tensor, nn
from video_clips import write_clip

from echoreel_core.action.adapter import AdapterConfig, EchoReelAdapter, SiteConfig
from echoreel_core.action.injection import Site
from echoreel_core.action.prism import ActionPrismConfig
from echoreel_core.files import write_safetensors
from echoreel_core.lvdm.autoencoder import Autoencoder, AutoencoderConfig
from echoreel_core.lvdm.checkpoint import split_released
from echoreel_core.lvdm.text_encoder import CLIPTextEncoder, TextConfig
from echoreel_core.lvdm.unet import LVDMUNet
from echoreel_core.training.data.batches import Batch
from echoreel_core.training.lvdm.trainable import TrainableLVDM
from echoreel_core.training.trainable import NoiseLevel, TrainableModel

FRAMES, SIDE, TEXT_WIDTH, TOKENS = 4, 8, 64, 5


def toy_model() -> TrainableLVDM:
    """The small fixture's UNet without its EchoReel parts."""
    parts = split_released(make_state_dict("small", "model.diffusion_model."), "small")
    unet = LVDMUNet(parts.unet_config)
    unet.load_state_dict(parts.unet)
    return TrainableLVDM(unet)


class _Preconditioned(TrainableLVDM):
    """Passes the noise through beside the UNet, as a trained model would: random weights alone predict nothing."""

    def predict(self, noisy: Tensor, time: Tensor, text: Tensor, conditioning=()) -> Tensor:
        noise = (1 - self._schedule[time]).sqrt().float()
        return 0.2 * super().predict(noisy, time, text) + noise.view(-1, 1, 1, 1, 1) * noisy


def preconditioned_model() -> TrainableLVDM:
    """The toy UNet, with an untrained model's worst fault mended."""
    return _Preconditioned(toy_model().model)


class _Block(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm, self.linear = nn.LayerNorm(dim), nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.linear(self.norm(x)).tanh()


class _Flow(nn.ModuleDict):
    def forward(self, x: Tensor) -> Tensor:
        x = self["into"](x)
        for block in self["blocks"]:
            x = block(x)
        return self["out"](x)


class TrainableFlow(TrainableModel):
    """A flow-matching model of two blocks over tokens in a row, two latent frames to a token, like the DiTs."""

    family, prediction = "toy-flow", "flow"

    def __init__(self) -> None:
        dim = 32
        with torch.random.fork_rng():
            torch.manual_seed(0)
            blocks = nn.ModuleList([_Block(dim), _Block(dim)])
            self.model = _Flow({"into": nn.Linear(8, dim), "blocks": blocks, "out": nn.Linear(dim, 8)})

    def sites(self) -> list[Site]:
        return [Site(f"blocks.{i}", block, block.norm) for i, block in enumerate(self.model["blocks"])]

    def noise_level(self, u: Tensor) -> NoiseLevel:
        u = u.clamp(0.05, 1)
        return NoiseLevel(1 - u, u, u)

    def token_frames(self, latent_frames: int) -> int:
        return latent_frames // 2

    def predict(self, noisy: Tensor, time: Tensor, text: Tensor, conditioning=()) -> Tensor:
        b, c, t, h, w = noisy.shape
        x = self.model(noisy.reshape(b, c, t // 2, 2, h * w).permute(0, 2, 4, 1, 3).reshape(b, -1, 8))
        x = x.view(b, t // 2, h * w, c, 2).permute(0, 3, 1, 4, 2).reshape(noisy.shape)
        time = time.to(noisy).view(-1, 1, 1, 1, 1)
        return x + noisy * (2 * time - 1) / (time**2 + (1 - time) ** 2)  # the best guess for normal latents


def toy_adapter(trainable: TrainableModel, seed: int = 0) -> EchoReelAdapter:
    """A fresh adapter with a prism of one layer."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        prism = ActionPrismConfig(
            latent_channels=4,
            grid=(SIDE, SIDE),
            text_width=TEXT_WIDTH,
            context_width=16,
            width=32,
            depth=1,
            heads=2,
            head_dim=16,
            out_channels=1,
            max_frames=FRAMES,
        )
        sites = tuple(SiteConfig(s.name, s.dim, 2, 16) for s in trainable.sites())
        return EchoReelAdapter(AdapterConfig(trainable.family, prism, sites, "relative_bias", FRAMES))


class ToyPairs:
    """Pairs whose reference and target flicker alike, each on a pattern of its own; implements `PairSource`."""

    def __init__(self, count: int = 4, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        motion = torch.randn(count, 1, 4, FRAMES, 1, 1, generator=generator)
        clips = motion + 0.1 * torch.randn(count, 2, 4, FRAMES, SIDE, SIDE, generator=generator)
        texts = torch.randn(count, 2, TOKENS, TEXT_WIDTH, generator=generator)
        self.target, self.reference = clips.unbind(1)
        self.prompt, self.caption = texts.unbind(1)
        self.empty_text = torch.randn(TOKENS, TEXT_WIDTH, generator=generator)
        self.asked: list[list[int]] = []

    def __len__(self) -> int:
        return len(self.target)

    def batch(self, indices: Sequence[int], seeds: Sequence[int]) -> Batch:
        rows = list(indices)
        self.asked.append(rows)
        return Batch(self.target[rows], self.reference[rows], self.prompt[rows], self.caption[rows])


CLIP_SIDE = 16


def write_toy_checkpoint(path: Path) -> Path:
    """An all-in-one checkpoint: the small fixture's UNet, an autoencoder of factor 2, a text encoder of one layer."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        vae = Autoencoder(AutoencoderConfig(channels=32, multipliers=(1, 1), blocks=1))
        text = CLIPTextEncoder(TextConfig(len(_vocabulary()), TEXT_WIDTH, 1, 77, 64))
    weights = make_state_dict("small", "model.diffusion_model.")
    weights = {key: weight for key, weight in weights.items() if "video_inject" not in key}
    weights |= {f"first_stage_model.{key}": weight for key, weight in vae.state_dict().items()}
    weights |= {f"cond_stage_model.transformer.{key}": weight for key, weight in text.state_dict().items()}
    write_safetensors(path, weights, {})
    return path


def _vocabulary() -> dict[str, int]:
    letters = [chr(code) for code in range(33, 127)]
    names = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    return {name: number for number, name in enumerate(names)}


def write_toy_tokenizer(folder: Path) -> Path:
    """CLIP's vocabulary files with single letters only."""
    folder.mkdir()
    (folder / "vocab.json").write_text(json.dumps(_vocabulary()))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return folder


def write_actions(folder: Path, actions: Sequence[str] = ("JumpRope", "Swing"), clips: int = 2) -> Path:
    """A folder of actions with clips named like UCF-101's, each from a recording of its own."""
    for number, action in enumerate(actions):
        (folder / action).mkdir(parents=True)
        for group in range(1, clips + 1):
            name = f"v_{action}_g{group:02}_c01.avi"
            write_clip(folder / action / name, 12 + group + clips * number, codec="mpeg4", size=(32, 32))
    return folder


def write_config(folder: Path, **sections: dict) -> Path:
    """A complete run at toy size in `folder`, with the settings of `sections` on top."""
    tables = {
        "model": {"checkpoint": "toy.safetensors", "tokenizer": "tokenizer", "device": "cpu"},
        "data": {"pairs": "actions", "cache": "cache"},
        "video": {"frames": FRAMES, "every_nth": 3, "width": CLIP_SIDE, "height": CLIP_SIDE},
        "adapter": {"width": 32, "depth": 1, "heads": 2, "head_dim": 16, "out_channels": 1},
        "training": {"steps": 4, "learning_rate": 1e-3},
        "output": {"folder": "run", "log_every": 1, "checkpoint_every": 2, "held_out_every": 0},
    }
    for name, table in sections.items():
        tables[name] = {**tables.get(name, {}), **table}
    path = folder / "config.toml"
    lines = []
    for name, table in tables.items():
        lines += [f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in table.items())]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path

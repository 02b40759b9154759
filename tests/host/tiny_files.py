"""Files of a tiny Wan and a tiny LTX-Video as the host's loaders read them: diffusion model, VAE and text encoder, with
random weights."""

from __future__ import annotations

import io
from pathlib import Path

import comfy.ops
import comfy.text_encoders.t5
import sentencepiece
import tiny_models
import tiny_vaes
import torch
from comfy.ldm.lightricks.model import LTXVModel
from tiny_families.ltxv import LTXV_CONFIG
from tiny_text import T5, UMT5, VOCABULARY


def write_wan(folder: Path) -> None:
    """Writes `wan.safetensors` into each of ComfyUI's folders for models."""
    model = tiny_models.wan().model.diffusion_model.state_dict()
    vae = tiny_vaes.wan().first_stage_model.state_dict()
    for name, weights in (("diffusion_models", model), ("vae", vae), ("text_encoders", _umt5())):
        tiny_models.write(folder / "models" / name / "wan.safetensors", weights)


def write_ltxv(folder: Path) -> None:
    """Likewise `ltxv.safetensors`, whose sizes are in the files' metadata."""
    config = {**LTXV_CONFIG, "caption_channels": T5["d_model"]}
    module = LTXVModel(**config, dtype=torch.float32, device="cpu", operations=comfy.ops.disable_weight_init)
    weights = tiny_models.randomise(module).state_dict()
    tiny_models.write(folder / "models" / "diffusion_models" / "ltxv.safetensors", weights, {"transformer": config})
    vae = tiny_vaes.ltxv().first_stage_model.state_dict()
    tiny_models.write(folder / "models" / "vae" / "ltxv.safetensors", vae, {"vae": tiny_vaes.LTX})
    text = _t5({**T5, "model_type": "t5", "vocab_size": 32128})
    tiny_models.write(folder / "models" / "text_encoders" / "ltxv.safetensors", text)


def _t5(config: dict) -> dict[str, torch.Tensor]:
    config = {"d_kv": 64, "dense_act_fn": "gelu_pytorch_tanh", "is_gated_act": True, **config}
    config |= {"relative_attention_num_buckets": 32, "layer_norm_epsilon": 1e-6}
    module = comfy.text_encoders.t5.T5(config, torch.float32, "cpu", comfy.ops.disable_weight_init)
    weights = dict(tiny_models.randomise(module).state_dict())
    weights["encoder.block.23.layer.1.DenseReluDense.wi_1.weight"] = torch.zeros(10240, 1)  # by which it is recognised
    return weights


def _umt5() -> dict[str, torch.Tensor]:
    weights = _t5({**UMT5, "d_model": 4096, "model_type": "umt5"})
    pieces = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["a cat hops and lands on its hands, then stands still"] * 4),
        model_writer=pieces,
        vocab_size=VOCABULARY,
        model_type="char",
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    return {**weights, "spiece_model": torch.frombuffer(bytearray(pieces.getvalue()), dtype=torch.uint8).clone()}

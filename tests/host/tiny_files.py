"""Files of a tiny Wan as the host's loaders read them: diffusion model, VAE and text encoder, with random weights."""

from __future__ import annotations

import io
from pathlib import Path

import comfy.ops
import comfy.text_encoders.t5
import safetensors.torch
import sentencepiece
import tiny_models
import tiny_vaes
import torch
from tiny_text import UMT5, VOCABULARY


def write_wan(folder: Path) -> None:
    """Writes `wan.safetensors` into each of ComfyUI's folders for models."""
    model = tiny_models.wan().model.diffusion_model.state_dict()
    vae = tiny_vaes.wan().first_stage_model.state_dict()
    for name, weights in (("diffusion_models", model), ("vae", vae), ("text_encoders", _text_encoder())):
        path = folder / "models" / name / "wan.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        safetensors.torch.save_file({key: value.contiguous() for key, value in weights.items()}, path)


def _text_encoder() -> dict[str, torch.Tensor]:
    config = {**UMT5, "d_kv": 64, "d_model": 4096, "dense_act_fn": "gelu_pytorch_tanh", "is_gated_act": True}
    config |= {"model_type": "umt5", "relative_attention_num_buckets": 32, "layer_norm_epsilon": 1e-6}
    module = comfy.text_encoders.t5.T5(config, torch.float32, "cpu", comfy.ops.disable_weight_init)
    weights = dict(tiny_models.randomise(module).state_dict())
    weights["encoder.block.23.layer.1.DenseReluDense.wi_1.weight"] = torch.zeros(10240, 1)  # by which it is recognised
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

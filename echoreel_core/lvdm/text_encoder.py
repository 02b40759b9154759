"""A CLIP text encoder in plain torch, for use without ComfyUI, which runs the same weights with its own CLIP."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..action.adapter import check_weights
from ..errors import EchoReelError
from ..files import reason

HEAD_DIM = 64
"""Width of an attention head in every CLIP text model; a narrower model has one head."""


@dataclass(frozen=True)
class TextConfig:
    """Sizes of a CLIP text encoder; the defaults are ViT-L/14's."""

    vocabulary: int = 49408
    width: int = 768
    depth: int = 12
    tokens: int = 77
    feed_forward: int = 3072

    @classmethod
    def from_state_dict(cls, weights: Mapping[str, Tensor]) -> TextConfig:
        """Reads the sizes off tensors named `text_model.…`.

        Raises: EchoReelError naming the first that is missing or of another shape than the others tell.
        """
        try:
            vocabulary, width = weights["text_model.embeddings.token_embedding.weight"].shape
            config = cls(
                vocabulary=vocabulary,
                width=width,
                depth=sum(1 for key in weights if key.endswith(".layer_norm1.weight")),
                tokens=weights["text_model.embeddings.position_embedding.weight"].shape[0],
                feed_forward=weights["text_model.encoder.layers.0.mlp.fc1.weight"].shape[0],
            )
            with torch.device("meta"):
                expected = {key: tensor.shape for key, tensor in CLIPTextEncoder(config).state_dict().items()}
        except KeyError as missing:
            raise EchoReelError(f"This is not a CLIP text encoder: it has no tensor named {missing}.") from None
        except (ValueError, TypeError, IndexError, ArithmeticError, RuntimeError) as error:
            raise EchoReelError(f"This is not a CLIP text encoder ({reason(error)}).") from None
        check_weights("The text encoder", weights, expected, others=True)
        return config


class CLIPTextLayer(nn.Module):
    """Pre-norm causal self-attention and feed-forward, with residuals; named as in the published models."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        width = config.width
        self.self_attn = nn.ModuleDict({f"{name}_proj": nn.Linear(width, width) for name in ("q", "k", "v", "out")})
        self.layer_norm1, self.layer_norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mlp = nn.ModuleDict(
            {"fc1": nn.Linear(width, config.feed_forward), "fc2": nn.Linear(config.feed_forward, width)}
        )

    def forward(self, x: Tensor) -> Tensor:
        """[B, L, width] → [B, L, width]."""
        y = self.layer_norm1(x)
        q, k, v = (
            self.self_attn[f"{name}_proj"](y).unflatten(-1, (-1, min(HEAD_DIM, y.shape[-1]))).transpose(1, 2)
            for name in "qkv"
        )
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(-2)
        x = x + self.self_attn["out_proj"](y)
        y = self.mlp["fc1"](self.layer_norm2(x))
        return x + self.mlp["fc2"](y * torch.sigmoid(1.702 * y))  # CLIP's "quick GELU"


class CLIPTextEncoder(nn.Module):
    """Token ids to text tokens: the last hidden state after the final norm, as the released model was trained with."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.config = config
        self.text_model = nn.ModuleDict(
            {
                "embeddings": nn.ModuleDict(
                    {
                        "token_embedding": nn.Embedding(config.vocabulary, config.width),
                        "position_embedding": nn.Embedding(config.tokens, config.width),
                    }
                ),
                "encoder": nn.ModuleDict({"layers": nn.ModuleList(CLIPTextLayer(config) for _ in range(config.depth))}),
                "final_layer_norm": nn.LayerNorm(config.width),
            }
        )

    def forward(self, ids: Tensor) -> Tensor:
        """ids [B, L] (L up to `tokens`), from the CLIP tokenizer → [B, L, width]."""
        embeddings = self.text_model["embeddings"]
        x = embeddings["token_embedding"](ids) + embeddings["position_embedding"].weight[: ids.shape[1]]
        for layer in self.text_model["encoder"]["layers"]:
            x = layer(x)
        return self.text_model["final_layer_norm"](x)

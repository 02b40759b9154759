"""CLIP's tokenizer from its published vocabulary files, with the `tokenizers` library, for use without ComfyUI."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..errors import EchoReelError
from ..files import valid_text

LENGTH = 77
SPLIT = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
IN_COMFYUI = Path("comfy") / "sd1_tokenizer"


def find_vocabulary(folder: Path | None) -> Path:
    """The folder with vocab.json and merges.txt: the given one, else that of the ComfyUI this pack is installed in.

    Raises: EchoReelError if there is none.
    """
    parents = Path(__file__).resolve().parents
    candidates = [folder] if folder else [parent / IN_COMFYUI for parent in parents]
    for candidate in candidates:
        if (candidate / "vocab.json").is_file() and (candidate / "merges.txt").is_file():
            return candidate
    where = f"are not in {folder}" if folder else "were not found"
    raise EchoReelError(
        f"CLIP's vocab.json and merges.txt {where}: set `tokenizer` in [model] to the folder that has them "
        f"({IN_COMFYUI.as_posix()} in ComfyUI)."
    )


def load_tokenizer(folder: Path) -> Callable[[Sequence[str]], Tensor]:
    """Texts → ids [N, 77], int64: start, tokens (cut to fit), then end tokens to the full length, as CLIP was trained.

    Raises: EchoReelError if `tokenizers` is not installed.
    """
    try:
        from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers
        from tokenizers.models import BPE
    except ImportError:
        raise EchoReelError("Reading captions needs the `tokenizers` library: pip install tokenizers.") from None
    vocabulary = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
    lines = (folder / "merges.txt").read_text(encoding="utf-8").splitlines()
    merges = [tuple(line.split()) for line in lines if len(line.split()) == 2 and not line.startswith("#version")]
    tokenizer = Tokenizer(BPE(vocabulary, merges, end_of_word_suffix="</w>", continuing_subword_prefix=""))
    spaces = normalizers.Replace(Regex(r"\s+"), " ")
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), spaces, normalizers.Lowercase()])
    words = pre_tokenizers.Split(Regex(SPLIT), behavior="removed", invert=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    start, end = vocabulary["<|startoftext|>"], vocabulary["<|endoftext|>"]

    def tokenize(texts: Sequence[str]) -> Tensor:
        ids = torch.full((len(texts), LENGTH), end)
        for row, encoding in zip(ids, tokenizer.encode_batch([valid_text(text) for text in texts]), strict=True):
            tokens = [start, *encoding.ids[: LENGTH - 2]]
            row[: len(tokens)] = torch.tensor(tokens)
        return ids

    return tokenize

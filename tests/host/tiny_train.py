"""train.py, with the one thing that a model file cannot tell: that its text encoder is tiny."""

import functools
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[2]), str(Path(__file__).parent)]

from tiny_text import TINY_TEXT  # noqa: E402

import train  # noqa: E402


def start_and_shrink(folder, options, start=train.start_comfyui):
    start(folder, options)
    import comfy.sd

    comfy.sd.load_clip = functools.partial(comfy.sd.load_clip, model_options=TINY_TEXT)


if __name__ == "__main__":
    train.start_comfyui = start_and_shrink
    sys.exit(train.main())

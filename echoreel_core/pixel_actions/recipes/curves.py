"""One picture of all training logs of a folder."""

from __future__ import annotations

import json
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from ...training.metrics import draw_curves

STAGES = ("autoencoder", "text", "base", "adapter/metrics", "judge")
_TITLE = 30


def draw(folder: Path, out: Path) -> None:
    """Write the loss curves of the stages whose logs are in `folder`, two beside each other."""
    pictures = []
    for stage in STAGES:
        if (path := folder / f"{stage}.jsonl").exists():
            records = [json.loads(line) for line in path.read_text().splitlines()]
            curve = draw_curves([record for record in records if "loss" in record], size=(640, 320))
            picture = Image.new("RGB", (640, 320 + _TITLE), "white")
            picture.paste(curve, (0, _TITLE))
            title = f"{stage.split('/')[0]}, {records[-1]['step'] + 1} steps"
            ImageDraw.Draw(picture).text((12, 8), title, fill="#222222", font=ImageFont.load_default(18))
            pictures.append(picture)
    sheet = Image.new("RGB", (1280, (len(pictures) + 1) // 2 * (320 + _TITLE)), "white")
    for index, picture in enumerate(pictures):
        sheet.paste(picture, (index % 2 * 640, index // 2 * (320 + _TITLE)))
    sheet.save(out, optimize=True)

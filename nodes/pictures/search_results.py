"""A picture of what was found: a numbered frame of each clip, its caption below."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from PIL import Image, ImageDraw
from torch import Tensor

from ...echoreel_core.errors import EchoReelError
from ...echoreel_core.library.search import Hit
from ...echoreel_core.video.frames import FrameSelection, read_video
from .drawing import CARD, GROUND, MARK, TEXT, letters, to_frame, to_picture

WIDTH, HEIGHT = 256, 144  # of a frame, pixels
LINES, LINE = 3, 18  # of caption below it
GAP = 8
COLUMNS = 5


def draw_hits(hits: Sequence[Hit], chosen: Hit | None, step: Callable[[], None]) -> Tensor:
    """[1, H, W, 3], floats from 0 to 1. Clips that are not on this disk have a card in place of a frame.

    Args:
        chosen: this one is framed.
        step: called after each.
    """
    columns = min(len(hits), COLUMNS)
    rows = -(-len(hits) // COLUMNS)
    cell_width, cell_height = WIDTH + GAP, HEIGHT + LINES * LINE + GAP
    picture = Image.new("RGB", (columns * cell_width + GAP, rows * cell_height + GAP), GROUND)
    draw, font = ImageDraw.Draw(picture), letters(14)
    for number, hit in enumerate(hits, start=1):
        row, column = divmod(number - 1, COLUMNS)
        left, top = GAP + column * cell_width, GAP + row * cell_height
        frame, note = _frame(hit)
        box = (left, top, left + WIDTH, top + HEIGHT)
        if frame is None:
            draw.rectangle(box, CARD)
            draw.text((left + WIDTH / 2, top + HEIGHT / 2), note, TEXT, font, anchor="mm")
        else:
            picture.paste(frame, (left, top))
        if hit is chosen:
            draw.rectangle((left - 3, top - 3, left + WIDTH + 2, top + HEIGHT + 2), outline=MARK, width=3)
        label = str(number)
        draw.rectangle((left, top, left + 12 + 9 * len(label), top + 22), MARK if hit is chosen else CARD)
        draw.text((left + 6, top + 3), label, GROUND if hit is chosen else TEXT, font)
        for index, line in enumerate(_lines(hit.caption, lambda text: draw.textlength(text, font))):
            draw.text((left, top + HEIGHT + 2 + index * LINE), line, TEXT, font)
        step()
    return to_frame(picture)[None]


def _frame(hit: Hit) -> tuple[Image.Image | None, str]:
    """A frame from the middle of the clip, or what to say in its place."""
    if hit.path is None:
        return None, "not on this disk"
    try:
        middle = read_video(hit.path, FrameSelection(3, "even"), width=WIDTH, height=HEIGHT, crop="pad").frames[1]
    except EchoReelError:
        return None, "cannot be read"
    return to_picture(middle), ""


def _lines(text: str, length: Callable[[str], float]) -> list[str]:
    """The text broken into lines of a frame's width; what does not fit is cut off."""
    lines = [""]
    for word in text[:400].split():
        longer = f"{lines[-1]} {word}".strip()
        if not lines[-1] or length(longer) <= WIDTH:
            lines[-1] = longer
        else:
            lines.append(word)
    if len(lines) > LINES:
        lines[LINES - 1] += " …"
    for index, line in enumerate(lines := lines[:LINES]):
        while length(line) > WIDTH:  # a long word, or a script without spaces
            line = line[: -max(len(line) // 20, 1)]
        lines[index] = line
    return lines

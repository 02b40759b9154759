"""Makes the templates' thumbnails from the screenshots that the browser tests keep.

python tests/run.py -k test_browser
.venv-test/bin/python tests/web/thumbnails.py
"""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageOps

# Around the canvas lie the page's own bars; the note on the left cannot be read in small.
TOP, LEFT, RIGHT = 75, 0.16, 0.80
DARKEST = 30  # of the canvas; nodes and groups are brighter

ROOT = Path(__file__).resolve().parents[2]
SHOTS = ROOT / "tests" / "output" / "web"


def graph(shot: Image.Image) -> Image.Image:
    """The part of a screenshot with the nodes, without the note."""
    canvas = shot.crop((round(shot.width * LEFT), TOP, shot.width, round(shot.height * 0.95)))
    bright = canvas.convert("L").point(lambda value: 255 * (value > DARKEST))
    bright.paste(0, (round(shot.width * (RIGHT - LEFT)), 0, canvas.width, 60))  # the Run button and its messages
    return canvas.crop(bright.getbbox())


def main() -> None:
    for workflow in sorted((ROOT / "workflows").glob("*.json")):
        # with the toy weights of the tests only noise comes out
        when = "ran" if "Pixel Actions" in workflow.read_text(encoding="utf-8") else "opened"
        shot = Image.open(SHOTS / f"{workflow.stem}, {when} nodes2.png").convert("RGB")
        thumbnail = ImageOps.pad(graph(shot), (640, 400), Image.Resampling.LANCZOS, color=(22, 22, 22))
        thumbnail.save(workflow.with_suffix(".jpg"), quality=82, optimize=True)
        print(f"{workflow.with_suffix('.jpg').stat().st_size / 1000:6.1f} kB  {workflow.stem}")


if __name__ == "__main__":
    main()

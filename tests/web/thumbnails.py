"""Makes the templates' thumbnails and the README's graph from the screenshots that the browser tests keep.

python tests/run.py -k test_browser
.venv-test/bin/python tests/web/thumbnails.py
"""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageOps

ROOT = Path(__file__).resolve().parents[2]
SHOTS = ROOT / "tests" / "output" / "web"
NOTE = 0.17  # of the picture's width: the note on the left can not be read in small


def main() -> None:
    for workflow in sorted((ROOT / "workflows").glob("*.json")):
        # with the toy weights of the tests only noise comes out
        when = "ran" if "Pixel Actions" in workflow.read_text(encoding="utf-8") else "opened"
        shot = Image.open(SHOTS / f"{workflow.stem}, {when} classic.png").convert("RGB")
        graph = ImageOps.crop(shot, (round(shot.width * NOTE), 0, 0, 0))
        thumbnail = ImageOps.fit(graph, (640, 400), Image.Resampling.LANCZOS)
        thumbnail.save(workflow.with_suffix(".jpg"), quality=82, optimize=True)
        print(f"{workflow.with_suffix('.jpg').stat().st_size / 1000:6.1f} kB  {workflow.stem}")


if __name__ == "__main__":
    main()

"""Makes the templates' thumbnails and the README's gallery anew, by running the templates.

    COMFYUI_PATH=... python tests/web/thumbnails.py [NAME ...]

Run it in ComfyUI's Python; a NAME is the start of a template's number and name. A template that needs nothing
downloaded runs as it opens: its gallery file is what it makes, as an animated WebP that holds the workflow, and its
thumbnail shows moments of the reference above those of the outcome. For models that have to be downloaded there is no
result to show: the thumbnail has the reference, blank where only the user has one, and the words of the prompt.
"""

from __future__ import annotations

import json
import sys
import tempfile
import textwrap
import urllib.request
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(HERE.parent / "host"), str(HERE.parent)]
sys.path.append(str(ROOT))

from comfy_server import ComfyServer, Run  # noqa: E402
from PIL import Image, ImageDraw, ImageFont, ImageSequence  # noqa: E402
from workflow_files import SHIPPED, Prompt, Workflow, id_of, load, of_type, to_prompt  # noqa: E402

from echoreel_core.video.frames import FrameSelection, read_video  # noqa: E402

GALLERY = ROOT / "docs" / "gallery"
EXAMPLES = ROOT / "echoreel_core" / "pixel_actions" / "example_clips"
SIZE, TILE, GAP = (640, 400), 118, 8
MOMENTS = (0, 3, 6, 9, 12)
DARK, LIGHT, DIM = (24, 24, 28), (235, 235, 240), (150, 150, 160)
BLANK = Image.new("RGB", (TILE, TILE), (44, 44, 52))
"""In place of a clip that only the user has."""
HEADING, PANEL = 26, 260  # of Compare's pictures: the labels above, and from one panel to the next


def font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)


def run(server: ComfyServer, prompt: Prompt, workflow: Workflow) -> Run:
    """Runs a prompt as the page sends it, so that what it saves holds the workflow."""
    body = {"prompt": prompt, "extra_data": {"extra_pnginfo": {"workflow": workflow}}}
    request = urllib.request.Request(server.url + "/prompt", json.dumps(body).encode())
    with urllib.request.urlopen(request) as answer:
        return server.wait(json.load(answer)["prompt_id"], 3600)


def with_gallery(prompt: Prompt) -> Prompt:
    """The prompt, with its references and its outcome side by side as an animated WebP in place of the video."""
    made = prompt[id_of(prompt, "CreateVideo")]["inputs"]["images"]
    prompt = {id_: node for id_, node in prompt.items() if node["class_type"] not in ("SaveVideo", "CreateVideo")}
    if not of_type(prompt, "EchoReelCompare"):
        clips = [id_ for id_, node in prompt.items() if node["class_type"] == "EchoReelLoadReferenceVideo"]
        scale = {"upscale_method": "nearest-exact", "width": 256, "height": 256, "crop": "disabled"}
        for id_ in clips:
            prompt[f"large {id_}"] = {"class_type": "ImageScale", "inputs": {"image": [id_, 0], **scale}}
        shown = {f"clips.clip_{i}": [f"large {id_}", 0] for i, id_ in enumerate(clips)} | {
            f"clips.clip_{len(clips)}": made
        }
        labels = "reference\nresult" if len(clips) == 1 else "first\nthen\nresult"
        settings = {"labels": labels, "layout": "a video, side by side", "height": 256, "moments": 6}
        prompt["compare"] = {"class_type": "EchoReelCompare", "inputs": {**shown, **settings}}
        made = ["compare", 0]
    saving = {"filename_prefix": "gallery", "fps": 8.0, "lossless": True, "quality": 100, "method": "slowest"}
    return {**prompt, "gallery": {"class_type": "SaveAnimatedWEBP", "inputs": {"images": made, **saving}}}


def rows_of(film: Path, without: int | None) -> list[list[Image.Image]]:
    """Moments of each panel of a gallery file, but the one that nothing was added to."""
    frames = [frame.convert("RGB") for frame in ImageSequence.Iterator(Image.open(film))]
    count = (frames[0].width + PANEL - 256) // PANEL
    panels = [index for index in range(count) if index != without]
    return [
        [frames[moment].crop((PANEL * i, HEADING, PANEL * i + 256, HEADING + 256)) for moment in MOMENTS]
        for i in panels
    ]


def picture(rows: list[list[Image.Image]], words: str = "", source: str = "") -> Image.Image:
    """Rows of moments, and below them words where there is no outcome."""
    card = Image.new("RGB", SIZE, DARK)
    draw = ImageDraw.Draw(card)
    tile = TILE if len(rows) < 3 else 112
    top = 24 if words else (SIZE[1] - len(rows) * (tile + GAP) + GAP) // 2
    for row in rows:
        left = (SIZE[0] - len(row) * (tile + GAP) + GAP) // 2
        for frame in row:
            card.paste(frame.resize((tile, tile), Image.Resampling.NEAREST), (left, top))
            left += tile + GAP
        top += tile + GAP
    if words:
        middle = (top + SIZE[1] - 44) / 2
        lines = "\n".join(textwrap.wrap(words, 40))
        draw.multiline_text((SIZE[0] / 2, middle), lines, LIGHT, font(26), anchor="mm", align="center", spacing=8)
        draw.text((SIZE[0] / 2, SIZE[1] - 40), source, DIM, font(18), anchor="ma")
    return card


def example(name: str) -> list[Image.Image]:
    """Moments of a clip that comes with the pack."""
    film = read_video(EXAMPLES / f"{name}.mp4", FrameSelection(16, "even"), width=32, height=32).frames
    return [Image.fromarray((film[moment] * 255).round().byte().numpy()) for moment in MOMENTS]


def not_run(workflow: Workflow) -> Image.Image:
    """The thumbnail of what needs a download: the reference, if it comes with the pack, and the prompt."""
    files = [node["widgets_values"][0] for node in of_type(workflow, "EchoReelLoadReferenceVideo")]
    rows = [example(file.removesuffix(" [echoreel]")) if file else [BLANK] * len(MOMENTS) for file in files]
    models = [hint["name"] for node in all_nodes(workflow) for hint in node["properties"].get("models", ())]
    words = [f"“{node['widgets_values'][0]}”" for node in of_type(workflow, "CLIPTextEncode")]
    words = words or ["your clips make an adapter"]
    return picture(rows or [[BLANK] * len(MOMENTS)], words[0], models[0].removesuffix(".safetensors"))


def all_nodes(workflow: Workflow) -> list[dict]:
    inside = workflow.get("definitions", {}).get("subgraphs", ())
    return [node for graph in (workflow, *inside) for node in graph["nodes"]]


def main(names: list[str]) -> None:
    chosen = [path for path in SHIPPED if not names or any(path.stem.startswith(f"EchoReel {name}") for name in names)]
    GALLERY.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, ComfyServer(Path(folder)) as server:
        info = server.get("/object_info")
        for path in chosen:
            workflow, thumbnail = load(path), path.with_suffix(".jpg")
            prompt = to_prompt(workflow, info)
            if "Pixel Actions" not in path.read_text(encoding="utf-8"):
                card = not_run(workflow)
            elif of_type(prompt, "EchoReelTrain"):
                curve = Image.open(server.file(run(server, prompt, workflow), ".png")).convert("RGB")
                card = Image.new("RGB", SIZE, curve.getpixel((1, 1)))
                curve.thumbnail((SIZE[0] - 40, SIZE[1] - 40))
                card.paste(curve, ((SIZE[0] - curve.width) // 2, (SIZE[1] - curve.height) // 2))
            else:
                made = server.file(run(server, with_gallery(prompt), workflow), ".webp")
                film = GALLERY / f"{path.stem[12:].replace(',', '').replace(' ', '-')}.webp"
                film.write_bytes(made.read_bytes())
                card = picture(rows_of(film, 1 if of_type(prompt, "EchoReelCompare") else None))
                print(f"{film.stat().st_size / 1000:6.1f} kB  {film.name}", flush=True)
            card.save(thumbnail, quality=85, optimize=True)
            print(f"{thumbnail.stat().st_size / 1000:6.1f} kB  {path.stem}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])

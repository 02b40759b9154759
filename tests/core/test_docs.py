"""Documentation that names things of the code names them as they are."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "web" / "docs").rglob("*.md")]
HOLE = "…"
MOST_PICTURE_BYTES = 1_500_000


def sentences() -> set[str]:
    """Every text in the pack's code, with … for each value that is put in."""
    found = set()
    for path in [ROOT / "train.py", *(ROOT / "echoreel_core").rglob("*.py"), *(ROOT / "nodes").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                found.add("".join(part.value if isinstance(part, ast.Constant) else HOLE for part in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.add(node.value)
    return found


def messages() -> list[str]:
    """The messages in the tables of troubleshooting.md that have a column of messages."""
    rows, in_table = [], False
    for line in (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8").splitlines():
        if not line.startswith("|"):
            in_table = False
        elif line.startswith("| message "):
            in_table = True
        elif in_table and not line.startswith("| ---"):
            rows.append(line.split("|")[1].strip())
    return rows


def test_every_message_in_the_troubleshooting_table_is_one_of_the_codes():
    documented = messages()
    assert len(documented) > 40
    assert sorted(set(documented) - sentences()) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    # the page of ComfyUI resolves pictures of <node id>/en.md from docs/, as it does those of <node id>.md
    folder = ROOT / "web" / "docs" if (ROOT / "web" / "docs") in page.parents else page.parent
    text = page.read_text(encoding="utf-8")
    targets = [target for target in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in target]
    own = r"https://github\.com/echoreel/comfyui-echoreel/blob/main/([\w./-]+)"
    missing = [target for target in targets if not (folder / target.split("#")[0]).exists()]
    missing += [target for target in re.findall(own, text) if not (ROOT / target).exists()]
    assert missing == []


def test_templates_are_called_by_their_names():
    names = {path.stem for path in (ROOT / "workflows").glob("*.json")}
    texts = [*PAGES, *(ROOT / "workflows").glob("*.json")]
    called = {name for path in texts for name in re.findall(r"\*(EchoReel \d\d [^*]+)\*", path.read_text("utf-8"))}
    assert called
    assert called <= names


def test_the_gallery_is_small_and_in_the_readme():
    gallery = list((ROOT / "docs" / "gallery").iterdir())
    assert max(path.stat().st_size for path in gallery) <= 300_000
    assert sum(path.stat().st_size for path in gallery) <= MOST_PICTURE_BYTES
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [path.name for path in gallery if f"docs/gallery/{path.name}" not in readme] == []


@pytest.mark.parametrize("picture", sorted((ROOT / "docs" / "gallery").iterdir()), ids=lambda path: path.stem)
def test_a_picture_of_the_gallery_moves_and_holds_its_template(picture):
    with Image.open(picture) as film:
        assert film.n_frames == 16
        notes = [str(value) for value in film.getexif().values()]
    (held,) = (json.loads(note.removeprefix("workflow:")) for note in notes if note.startswith("workflow:"))
    names = {path.stem[12:].replace(",", "").replace(" ", "-"): path for path in (ROOT / "workflows").glob("*.json")}
    template = json.loads(names[picture.stem].read_text(encoding="utf-8"))
    for part in ("nodes", "definitions"):
        assert without_versions(held[part]) == without_versions(template[part])


def without_versions(part: object) -> str:
    """A part of a workflow as text; the version of the pack that its nodes name may be newer."""
    return re.sub(r'"ver": "[^"]*"', "", json.dumps(part))


def test_the_pictures_of_the_help_pages_are_small():
    pictures = list((ROOT / "web" / "docs" / "pictures").iterdir())
    used = " ".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert [picture.name for picture in pictures if f"pictures/{picture.name}" not in used] == []
    everything = [*pictures, *(ROOT / "docs").glob("*.jpg"), *(ROOT / "docs").glob("*.png")]
    assert sum(picture.stat().st_size for picture in everything) <= MOST_PICTURE_BYTES

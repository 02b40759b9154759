"""Every node has a help page that speaks of each of its inputs, at both addresses that the page asks for."""

from __future__ import annotations

import asyncio
import json
import re
import urllib.request
from collections import Counter
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[2] / "web" / "docs"
LOCALES = DOCS.parents[1] / "locales"
SERVED = "/extensions/comfyui-echoreel/docs"


@pytest.fixture(scope="module")
def schemas(pack):
    return [node.GET_SCHEMA() for node in asyncio.run(pack.comfy_entrypoint().get_node_list())]


def test_there_is_one_for_every_node_and_no_other(schemas):
    ids = {schema.node_id for schema in schemas}
    assert {path.stem for path in DOCS.glob("*.md")} == ids
    assert {path.name for path in DOCS.iterdir() if path.is_dir()} == ids | {"pictures"}


def test_it_is_about_this_node(schemas):
    for schema in schemas:
        text = (DOCS / f"{schema.node_id}.md").read_text(encoding="utf-8")
        assert text.startswith(f"# {schema.display_name}\n"), schema.node_id
        assert "](pictures/" in text, schema.node_id


def test_it_speaks_of_every_input_and_output(schemas):
    for schema in schemas:
        text = (DOCS / f"{schema.node_id}.md").read_text(encoding="utf-8")
        bold = set(re.findall(r"\*\*([^*]+)\*\*", text))
        for name, first, last in re.findall(r"\*\*(\w+_)(\d+) … \w+_(\d+)\*\*", text):
            bold |= {f"{name}{number}" for number in range(int(first), int(last) + 1)}
        named = [field.display_name or field.id for field in schema.inputs]
        named += [field.display_name or field.get_io_type() for field in schema.outputs]
        assert [name for name in named if name not in bold] == [], schema.node_id


def test_the_page_for_english_is_the_one_for_all(schemas):
    """The page asks for <node id>/en.md first and logs an error where it is missing, then for <node id>.md."""
    for schema in schemas:
        for_all, for_english = DOCS / f"{schema.node_id}.md", DOCS / schema.node_id / "en.md"
        assert for_english.read_bytes() == for_all.read_bytes(), f"copy {for_all.name} to {for_english}"


@pytest.mark.parametrize("language", ["zh", "ja", "ko"])
def test_translated_pages_say_the_same_of_the_same_things(schemas, language):
    """Their names are those that the page of this language shows; numbers, code and pictures are the English ones."""
    names = json.loads((LOCALES / language / "nodeDefs.json").read_text(encoding="utf-8"))
    kept = re.compile(r"`[^`]+`|\d+(?:\.\d+)?|\]\([^)]+\)")
    for schema in schemas:
        english = (DOCS / schema.node_id / "en.md").read_text(encoding="utf-8")
        text = (DOCS / schema.node_id / f"{language}.md").read_text(encoding="utf-8")
        entry = names[schema.node_id]
        assert text.startswith(f"# {entry['display_name']}\n"), schema.node_id
        assert Counter(kept.findall(text)) == Counter(kept.findall(english)), schema.node_id
        bold = set(re.findall(r"\*\*([^*]+)\*\*", text))
        for name, first, last in re.findall(r"\*\*(\D+)(\d+) … \D+(\d+)\*\*", text):
            bold |= {f"{name}{number}" for number in range(int(first), int(last) + 1)}
        assert [part["name"] for part in entry["inputs"].values() if part["name"] not in bold] == [], schema.node_id
        for shape in (r"^#+ ", r"^\|", r"^[-*] ", r"^\d+\. "):
            count = [len(re.findall(shape, page, re.M)) for page in (text, english)]
            assert count[0] == count[1], (schema.node_id, shape, count)


def test_the_host_serves_pages_and_pictures(server, schemas):
    paths = [f"{schema.node_id}/en.md" for schema in schemas] + [f"{schema.node_id}.md" for schema in schemas]
    paths += [f"pictures/{picture.name}" for picture in (DOCS / "pictures").iterdir()]
    for path in paths:
        with urllib.request.urlopen(f"{server.url}{SERVED}/{path}", timeout=60) as answer:
            assert answer.headers.get_content_type() != "text/html", path  # the page takes that for its own start page
            assert answer.read() == (DOCS / path).read_bytes()

"""The nodes' words in other languages: complete, nothing left over, and all that must not be translated still there.

English is the schema itself: a locales/en would override it and go stale.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_schema import FILES

LOCALES = Path(__file__).resolve().parents[2] / "locales"
SCRIPTS = {"zh": r"[一-鿿]", "ja": r"[ぁ-ヿ]", "ko": r"[가-힣]"}
"""Letters that a sentence in this language has."""

NAMES = {"none", "clean", "velocity", "min-snr", "float16", "bfloat16", "float32"}
NAMES |= {"bf16", "fp16", "adamw", "adamw8bit", "muon"}
"""Choices that are called so in every language."""

KEPT = re.compile(r"(?<!\w)'[^']+'(?!\w)|\d+(?:\.\d+)?|\b\w+(?:[/._]\w+)+|\.\w+\b")
"""Option names and examples in quotes, numbers, folders and files."""


@pytest.fixture(scope="module")
def schemas(pack):
    """Schema by node id."""
    return {
        node.GET_SCHEMA().node_id: node.GET_SCHEMA() for node in asyncio.run(pack.comfy_entrypoint().get_node_list())
    }


@pytest.fixture(params=SCRIPTS)
def language(request):
    return request.param


@pytest.fixture
def translated(language):
    return json.loads((LOCALES / language / "nodeDefs.json").read_text(encoding="utf-8"))


def pairs(schemas, translated) -> Iterator[tuple[str, str, str, list[str]]]:
    """(where, English, translation, the options it speaks of) of every sentence."""
    for node_id, schema in schemas.items():
        entry = translated[node_id]
        yield node_id, schema.description, entry["description"], []
        for field in schema.inputs:
            options = [option for option in getattr(field, "options", None) or () if isinstance(option, str)]
            yield f"{node_id}.{field.id}", field.tooltip or "", entry["inputs"][field.id]["tooltip"], options
        for index, field in enumerate(schema.outputs):
            yield f"{node_id} output {index}", field.tooltip, entry["outputs"][str(index)]["tooltip"], []


def test_the_languages_are_these():
    assert {path.name for path in LOCALES.iterdir()} == set(SCRIPTS)


def test_every_node_input_and_output_is_there_and_no_other(schemas, translated):
    assert translated.keys() == schemas.keys()
    for node_id, schema in schemas.items():
        entry = translated[node_id]
        assert list(entry["inputs"]) == [field.id for field in schema.inputs], node_id
        assert list(entry["outputs"]) == [str(index) for index in range(len(schema.outputs))], node_id
        named = [
            entry["display_name"],
            *(field["name"] for part in ("inputs", "outputs") for field in entry[part].values()),
        ]
        assert all(name.strip() for name in named), node_id


def test_every_sentence_is_in_the_language(schemas, translated, language):
    untranslated = [where for where, _, text, _ in pairs(schemas, translated) if not re.search(SCRIPTS[language], text)]
    assert untranslated == []


def test_what_must_not_be_translated_is_still_there(schemas, translated):
    lost = []
    for where, english, text, options in pairs(schemas, translated):
        kept = set(KEPT.findall(english))
        kept |= {option for option in options if re.search(rf"\b{re.escape(option)}\b", english, re.IGNORECASE)}
        lost += [(where, part) for part in sorted(kept) if part not in text]
    assert lost == []


def test_what_the_page_says_itself(language):
    """Every sentence of the scripts, with the same values to fill in, and every choice that a node offers."""
    script = (LOCALES.parent / "web" / "english.js").read_text(encoding="utf-8")
    english = dict(re.findall(r"^  (\w+): '(.*)',$", script, re.MULTILINE))
    assert len(english) > 20
    own = json.loads((LOCALES / language / "main.json").read_text(encoding="utf-8"))["echoreel"]
    options = own.pop("options")
    assert own.keys() == english.keys()
    for name, sentence in english.items():
        assert sorted(re.findall(r"\{\w+\}", own[name])) == sorted(re.findall(r"\{\w+\}", sentence)), name
        assert re.search(SCRIPTS[language] + "|[一-鿿]", own[name]), name
    assert all(re.search(SCRIPTS[language] + "|[一-鿿]|fps", text) for text in options.values())


def test_every_choice_is_translated(schemas, language):
    options = json.loads((LOCALES / language / "main.json").read_text(encoding="utf-8"))["echoreel"]["options"]
    offered = {
        option
        for schema in schemas.values()
        for field in schema.inputs
        if f"{schema.node_id}.{field.id}" not in FILES
        for option in getattr(field, "options", None) or ()
        if isinstance(option, str)
    }
    assert offered - options.keys() == NAMES
    assert options.keys() <= offered


def test_nothing_the_page_would_take_for_its_own_marks(translated):
    """It reads names as messages in which these stand for parameters, links and plurals."""

    def texts(value):
        return [value] if isinstance(value, str) else [text for part in value.values() for text in texts(part)]

    assert [text for text in texts(translated) if re.search(r"[{}|@]", text)] == []


def test_the_host_serves_them(server, translated, language):
    served = server.get("/i18n")[language]["nodeDefs"]
    assert {node_id: served[node_id] for node_id in translated} == translated

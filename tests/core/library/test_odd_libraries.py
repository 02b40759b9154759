"""Libraries that are old, made to do harm or built by two at once; captions without spaces; endless tables."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from contextlib import closing

import pytest

from echoreel_core.errors import EchoReelError
from echoreel_core.library import database
from echoreel_core.library.build import build_library
from echoreel_core.library.search import find_clips

TEXTS = {
    "zh": "女孩在公园里跳绳",
    "ja": "犬が走っているところ",
    "ko": "강아지가 공원에서 달린다",
    "th": "เด็กกำลังกระโดดเชือก",
    "wide": "ＪＵＭＰＩＮＧ over a ﬁeld",
    "half": "ﾈｺが寝る",
    "hi": "लड़की कूदती है",
    "en": "a dog jumps",
}


def make_clips(folder, texts):
    folder.mkdir(exist_ok=True)
    for name, text in texts.items():
        (folder / f"{name}.mp4").touch()
        (folder / f"{name}.txt").write_text(text, encoding="utf-8")
    return folder


def found(library, query) -> set[str]:
    return {hit.file.removesuffix(".mp4") for hit in find_clips(library, query, 25)}


def vocabulary(library) -> list[tuple[str, int, int]]:
    db = sqlite3.connect(library)
    db.execute("CREATE VIRTUAL TABLE temp.vocabulary USING fts5vocab(main, captions, row)")
    return db.execute("SELECT * FROM vocabulary").fetchall()


QUERIES = {
    "跳绳": {"zh"},
    "绳": {"zh"},
    "公园": {"zh"},
    "绳跳": set(),
    "走って": {"ja"},
    "犬": {"ja"},
    "공원": {"ko"},
    "달": {"ko"},
    "กระโดด": {"th"},
    "เด็ก": {"th"},
    "กิ": set(),
    "कूदती": {"hi"},
    "कूद": set(),
    "jumping": {"wide", "en"},
    "ｊｕｍｐ": {"wide", "en"},
    "field": {"wide"},
    "ネコ": {"half"},
    "dog 跳绳": {"en", "zh"},
}


@pytest.mark.parametrize("query", QUERIES)
def test_words_in_scripts_without_spaces(tmp_path, query):
    library = tmp_path / "l.sqlite"
    build_library(library, make_clips(tmp_path / "clips", TEXTS))
    assert found(library, query) == QUERIES[query]


def test_such_captions_can_be_changed_and_removed(tmp_path):
    library, clips = tmp_path / "l.sqlite", make_clips(tmp_path / "clips", TEXTS)
    build_library(library, clips)
    (clips / "zh.txt").write_text("男孩在海边游泳", encoding="utf-8")
    (clips / "ja.mp4").unlink()
    build_library(library, clips)
    assert (found(library, "跳绳"), found(library, "游泳"), found(library, "犬")) == (set(), {"zh"}, set())
    build_library(tmp_path / "new.sqlite", clips)
    assert vocabulary(library) == vocabulary(tmp_path / "new.sqlite")


OLD = """
CREATE TABLE facts (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE clips (id INTEGER PRIMARY KEY, caption TEXT NOT NULL, link TEXT NOT NULL, file TEXT, stamp TEXT);
CREATE INDEX clips_by_file ON clips (file) WHERE file IS NOT NULL;
CREATE TABLE words (stem TEXT PRIMARY KEY, clips INTEGER NOT NULL) WITHOUT ROWID;
CREATE VIRTUAL TABLE captions USING fts5(
    caption, {content}, tokenize='porter unicode61', detail=none, columnsize=0);
INSERT INTO clips VALUES (1, 'a dog jumps', '', 'en.mp4', 'x');
INSERT INTO captions(rowid, caption) VALUES (1, 'a dog jumps');
INSERT INTO words VALUES ('a', 1), ('dog', 1), ('jump', 1);
INSERT INTO facts VALUES ('kind', 'folder'), ('source', 'clips'), ('root', '{root}'), ('captions', 1), ('on_disk', 1),
    ('words_per_caption', 3.0), ('signature', 'x'), ('complete', 1);
PRAGMA application_id = 1164142703;
PRAGMA user_version = {version};
"""


WITHOUT_BLOCKS = """
CREATE TABLE facts (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE VIRTUAL TABLE captions USING fts5(words, caption UNINDEXED, link UNINDEXED, file UNINDEXED, stamp UNINDEXED,
    detail=none, columnsize=0, tokenize="porter unicode61 categories 'L* N* Co M*'");
INSERT INTO captions VALUES ('a dog jumps', NULL, '', 'en.mp4', 'x');
INSERT INTO facts VALUES ('source', 'clips'), ('root', '{root}'), ('captions', 1), ('on_disk', 1), ('signature', ''),
    ('complete', 1);
PRAGMA application_id = 1164142703;
PRAGMA user_version = 3;
"""


@pytest.mark.parametrize(
    "script, version, content",
    [(OLD, 1, "content='clips', content_rowid='id'"), (OLD, 2, "content=''"), (WITHOUT_BLOCKS, 3, "")],
    ids=["1", "2", "3"],
)
def test_a_library_in_an_older_format_is_built_anew(tmp_path, script, version, content):
    library, clips = tmp_path / "l.sqlite", make_clips(tmp_path / "clips", TEXTS)
    with closing(sqlite3.connect(library)) as db:
        db.executescript(script.format(content=content, version=version, root=clips))
    before = library.read_bytes()
    with pytest.raises(
        EchoReelError, match=r"l\.sqlite is in an older format: run Build Reference Library again; it rebuilds"
    ):
        found(library, "jumping")
    make_clips(tmp_path / "others", {"a": "a jump"})
    with pytest.raises(EchoReelError, match="built from clips"):
        build_library(library, tmp_path / "others")
    assert library.read_bytes() == before
    report = build_library(library, clips)
    assert report.captions == len(TEXTS) and "older format" in report.summary()
    assert found(library, "jumping") == {"en", "wide"} and found(library, "跳绳") == {"zh"}
    assert "older format" not in build_library(library, clips).summary()


def test_two_builds_of_a_new_library_at_once(tmp_path):
    clips = make_clips(tmp_path / "clips", {f"jump{i}": f"jump number {i}" for i in range(300)})
    answers = []

    def build():
        try:
            answers.append(build_library(tmp_path / "l.sqlite", clips).captions)
        except EchoReelError as error:
            answers.append(str(error))

    threads = [threading.Thread(target=build) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 300 in answers
    assert all(answer == 300 or "in use" in answer for answer in answers), answers
    assert build_library(tmp_path / "l.sqlite", clips).captions == 300


def test_a_build_that_waits_does_not_keep_the_other_from_finishing(tmp_path):
    library, clips = tmp_path / "l.sqlite", make_clips(tmp_path / "clips", TEXTS)
    build_library(library, clips)
    with closing(sqlite3.connect(library, timeout=1, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        other.execute("UPDATE facts SET value = value")
        waiting = threading.Thread(target=build_library, args=(library, clips))
        waiting.start()
        waiting.join(0.5)
        assert waiting.is_alive()
        other.execute("COMMIT")  # refused while anybody so much as reads
    waiting.join()


ENDLESS = [
    "DROP TABLE facts",
    "CREATE VIEW facts AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) "
    "SELECT 'root' AS name, max(i) AS value FROM n",
]
HARM = {
    "a view without end": ENDLESS,
    "a trigger": ["CREATE TRIGGER captions_t AFTER INSERT ON facts BEGIN DELETE FROM facts; END"],
    "facts of other types": ["UPDATE facts SET value = x'00' WHERE name = 'captions'"],
    "no root": ["DELETE FROM facts WHERE name = 'root'"],
    "a table too many": ["CREATE TABLE other (a)"],
}


@pytest.mark.parametrize("name", HARM)
def test_a_library_made_to_do_harm_is_refused_at_once(tmp_path, name):
    library = tmp_path / "l.sqlite"
    build_library(library, make_clips(tmp_path / "clips", TEXTS))
    db = sqlite3.connect(library)
    for statement in HARM[name]:
        db.execute(statement)
    db.commit()
    db.close()
    begin = time.perf_counter()
    with pytest.raises(EchoReelError, match=r"l\.sqlite"):
        found(library, "jump")
    assert time.perf_counter() - begin < 5


def test_an_older_format_made_to_take_forever(tmp_path, monkeypatch):
    library, clips = tmp_path / "l.sqlite", make_clips(tmp_path / "clips", TEXTS)
    build_library(library, clips)
    with closing(sqlite3.connect(library)) as db:
        for statement in [*ENDLESS, "PRAGMA user_version = 2"]:
            db.execute(statement)
    monkeypatch.setattr(database, "PATIENCE", 0.1)
    with pytest.raises(EchoReelError, match=r"l\.sqlite.*too slow"):
        build_library(library, clips)


def test_captions_of_other_types_are_shown_as_text(tmp_path):
    library = tmp_path / "l.sqlite"
    build_library(library, make_clips(tmp_path / "clips", {"a": "a jump"}))
    db = sqlite3.connect(library)
    db.execute("UPDATE captions_content SET c1 = x'00ff', c2 = 3")
    db.commit()
    db.close()
    assert [(hit.caption, hit.link) for hit in find_clips(library, "jump")] == [(r"b'\x00\xff'", "3")]


# Names


@pytest.mark.parametrize("name", ["a\0b.sqlite", "x" * 300 + ".sqlite", "folder.sqlite"])
def test_names_that_no_library_can_have(tmp_path, name):
    (tmp_path / "folder.sqlite").mkdir()
    clips = make_clips(tmp_path / "clips", {"a": "a jump"})
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(EchoReelError, match="choose another name"):
        build_library(tmp_path / name, clips)
    with pytest.raises(EchoReelError, match="choose another name|There is no library"):
        find_clips(tmp_path / name, "jump")
    assert sorted(os.listdir(tmp_path)) == before


def test_linked_clips_are_counted(tmp_path):
    clips = make_clips(tmp_path / "clips", {"a": "a jump"})
    (clips / "b.mp4").symlink_to(clips / "a.mp4")
    (clips / "more").symlink_to(tmp_path)
    (clips / "notes.md").symlink_to(clips / "a.txt")
    report = build_library(tmp_path / "l.sqlite", clips)
    assert (report.captions, report.passed_over) == (1, 2) and "they are links" in report.summary()


# Tables and queries without end


@pytest.mark.parametrize(
    "name, start, words",
    [
        ("t.csv", "name\na jump\n", "line 3 has no end"),
        ("t.jsonl", '{"name": "a jump"}\n', "entry 2, is not valid JSON"),
    ],
)
def test_a_line_without_end(tmp_path, name, start, words):
    """4 GB of zeros, which take no place on the disk."""
    (tmp_path / name).write_text(start)
    os.truncate(tmp_path / name, 4 << 30)
    with pytest.raises(EchoReelError, match=words):
        build_library(tmp_path / "l.sqlite", tmp_path / name)


def test_a_query_of_ten_thousand_words(tmp_path):
    library = tmp_path / "l.sqlite"
    build_library(library, make_clips(tmp_path / "clips", TEXTS))
    begin = time.process_time()
    assert found(library, " ".join(f"word{i}" for i in range(10_000)) + " jump") == {"en", "wide"}
    assert time.process_time() - begin < 3

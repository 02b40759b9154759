"""Reference libraries: what is found, that nothing typed can break it, and that a build survives whatever happens."""

import csv
import json
import math
import os
import re
import sqlite3
import subprocess
import sys
import tracemalloc
from contextlib import closing
from pathlib import Path

import pytest

from echoreel_core.errors import EchoReelError
from echoreel_core.library import build as reference_library
from echoreel_core.library import database
from echoreel_core.library import search as library_search
from echoreel_core.library import tables as caption_tables
from echoreel_core.library.build import build_library
from echoreel_core.library.database import ELSEWHERE, connect
from echoreel_core.library.search import find_clips
from echoreel_core.video.captions import caption_of_names, name_in_words

WEBVID = "videoid contentUrl duration page_dir name".split()


@pytest.fixture
def clips(tmp_path):
    """A folder of empty files: nothing may open them."""
    folder = tmp_path / "clips"
    for name in ("JumpRope/v_JumpRope_g01_c01.avi", "JumpRope/v_JumpRope_g02_c01.avi", "dogs/rex.mp4", "walk.webm"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (folder / "dogs" / "rex.txt").write_text("A brown dog jumps over a fence", encoding="utf-8")
    (folder / "notes.txt").write_text("not a clip")
    return folder


def write_webvid(path: Path, captions: list[str]) -> Path:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(WEBVID)
        for i, caption in enumerate(captions):
            writer.writerow([1000 + i, f"https://example.org/{1000 + i}.mp4", "PT00H00M10S", "000001_000050", caption])
    return path


def captions(library: Path, query: str, limit: int = 10) -> list[str]:
    return [hit.caption for hit in find_clips(library, query, limit)]


def contents(library: Path) -> list[tuple]:
    """All of a finished library, and its index checked against it by FTS5 itself."""
    with closing(connect(library)) as db:
        db.execute("INSERT INTO captions(captions, rank) VALUES ('integrity-check', 1)")
        clips = db.execute("SELECT rowid, * FROM captions ORDER BY rowid").fetchall()
        facts = dict(db.execute("SELECT * FROM facts"))
    assert (facts["complete"], facts["captions"]) == (1, len(clips))
    return clips


# ── captions ──


@pytest.mark.parametrize(
    "name, words",
    [
        ("ApplyEyeMakeup", "apply eye makeup"),
        ("YoYo", "yo yo"),
        ("hammer_throw", "hammer throw"),
        ("Clean-And Jerk", "clean and jerk"),
        ("TVShow", "tv show"),
        ("a.b  c", "a b c"),
    ],
)
def test_names_in_words(name, words):
    assert name_in_words(name) == words


@pytest.mark.parametrize(
    "path, caption",
    [
        ("JumpRope/v_JumpRope_g01_c02.avi", "jump rope"),
        ("dogs/JumpRope/rope_03-red.mp4", "dogs jump rope red"),
        ("0042.mp4", "0042"),
        ("Sauter à la corde.mp4", "sauter la corde"),
    ],
)
def test_captions_of_names(path, caption):
    assert caption_of_names(path) == caption


# ── from a folder ──


def test_a_folder(tmp_path, clips):
    library = tmp_path / "made" / "here.sqlite"
    report = build_library(library, clips)
    assert (report.captions, report.on_disk, report.added) == (4, 4, 4)
    hits = find_clips(library, "jumping")
    assert [hit.caption for hit in hits] == ["jump rope", "jump rope", "A brown dog jumps over a fence"]
    assert hits[2].path == os.path.realpath(clips / "dogs" / "rex.mp4")
    assert hits[2].score > 0
    assert captions(library, "ROPES") == ["jump rope"] * 2
    assert captions(library, "walked") == ["walk"]
    assert captions(library, "zebra") == []
    assert captions(library, "notes") == []


def test_building_again_takes_what_changed_and_only_that(tmp_path, clips, monkeypatch):
    library = tmp_path / "l.sqlite"
    build_library(library, clips)
    read = []
    real = reference_library.sidecar_caption
    monkeypatch.setattr(reference_library, "sidecar_caption", lambda path: read.append(path.name) or real(path))
    again = build_library(library, clips)
    assert (again.added, again.changed, again.removed, read) == (0, 0, 0, [])
    assert "Nothing has changed" in again.summary()

    (clips / "dogs" / "rex.txt").write_text("A cat sleeps")
    (clips / "walk.txt").write_text("Somebody strolls")
    (clips / "JumpRope" / "v_JumpRope_g01_c01.avi").unlink()
    (clips / "swim.mp4").write_bytes(b"x")
    report = build_library(library, clips)
    assert (report.captions, report.added, report.changed, report.removed) == (4, 1, 2, 1)
    assert sorted(read) == ["rex.mp4", "walk.webm"]
    assert captions(library, "dog") == []  # nor do names stand in where there is a text
    assert captions(library, "jump") == ["jump rope"]
    assert captions(library, "sleeping strolling swims") == ["swim", "Somebody strolls", "A cat sleeps"]
    contents(library)


def test_links_are_not_followed(tmp_path, clips):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret.mp4").touch()
    (outside / "secret.txt").write_text("passwords")
    (clips / "out").symlink_to(outside)
    (clips / "secret.mp4").symlink_to(outside / "secret.mp4")
    (clips / "walk.txt").symlink_to(outside / "secret.txt")
    (clips / "circle").symlink_to(clips)
    assert build_library(tmp_path / "l.sqlite", clips).captions == 4
    assert captions(tmp_path / "l.sqlite", "secret passwords") == []


def test_an_emptied_folder_empties_no_library(tmp_path, clips):
    library = tmp_path / "l.sqlite"
    build_library(library, clips)
    clips.rename(tmp_path / "away")
    clips.mkdir()  # a disk that is not mounted looks like this
    with pytest.raises(EchoReelError, match="has no videos in it"):
        build_library(library, clips)
    assert len(captions(library, "jump")) == 3


def test_a_clip_that_has_gone_since_is_not_handed_on(tmp_path, clips):
    build_library(tmp_path / "l.sqlite", clips)
    (clips / "dogs" / "rex.mp4").unlink()
    hits = find_clips(tmp_path / "l.sqlite", "jump", 3)
    assert [hit.path is None for hit in hits] == [False, False, True]
    assert (hits[2].file, hits[2].link) == ("dogs/rex.mp4", "")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such file names")
def test_names_that_are_no_text_are_passed_over(tmp_path, clips):
    (Path(os.fsdecode(os.fsencode(clips) + b"/b\xffd.mp4"))).touch()
    report = build_library(tmp_path / "l.sqlite", clips)
    assert (report.captions, report.passed_over) == (4, 1)
    assert "1 file" in report.summary()


# ── from a table ──


def test_webvid(tmp_path):
    table = write_webvid(
        tmp_path / "results.csv", ["A man, jumping", 'The "jump" of a dog', "", "Sea", "Jumps on sand"]
    )
    (tmp_path / "clips" / "000001_000050").mkdir(parents=True)
    clip = tmp_path / "clips" / "000001_000050" / "1004.mp4"
    clip.touch()
    report = build_library(tmp_path / "l.sqlite", table, tmp_path / "clips")
    assert (report.captions, report.on_disk) == (4, 1)
    hits = find_clips(tmp_path / "l.sqlite", "jumped")
    assert [hit.caption for hit in hits] == ["Jumps on sand", "A man, jumping", 'The "jump" of a dog']
    assert [hit.path for hit in hits] == [str(clip), None, None]
    assert hits[1].link == "https://example.org/1000.mp4"
    # of each kind as many as asked for
    assert captions(tmp_path / "l.sqlite", "jumped", 1) == ["Jumps on sand", "A man, jumping"]


JSON_ROWS = [
    {"reference_text": "a dog runs", "reference_video_path": "in/dog.mp4", "input_text": "a cat runs"},
    {"caption": "une fille saute à la corde", "id": "girl", "extra": {"deep": [1, 2]}},
    {"Name": "nobody", "URL": "https://example.org/x"},
    {"caption": None, "path": "in/dog.mp4"},
    {"caption": "half \ud800 a pair", "path": "../outside.mp4"},
]


@pytest.mark.parametrize("suffix, chunk", [(".json", 1 << 20), (".json", 7), (".jsonl", 1 << 20), (".jsonl", 7)])
def test_json(tmp_path, monkeypatch, suffix, chunk):
    monkeypatch.setattr(caption_tables, "_CHUNK", chunk)
    text = json.dumps(JSON_ROWS, indent=1) if suffix == ".json" else "\n\n".join(map(json.dumps, JSON_ROWS))
    table = tmp_path / ("t" + suffix)
    table.write_text(text, encoding="utf-8-sig")
    (tmp_path / "in").mkdir()
    for name in ("in/dog.mp4", "in/girl.mov"):
        (tmp_path / name).touch()
    (tmp_path.parent / "outside.mp4").touch()
    report = build_library(tmp_path / "l.sqlite", table)
    assert (report.captions, report.on_disk) == (4, 2)
    assert find_clips(tmp_path / "l.sqlite", "running")[0].path == str(tmp_path / "in" / "dog.mp4")
    assert find_clips(tmp_path / "l.sqlite", "a la corde")[0].path == str(tmp_path / "in" / "girl.mov")
    assert captions(tmp_path / "l.sqlite", "cat") == []
    assert find_clips(tmp_path / "l.sqlite", "nobody")[0].link == "https://example.org/x"
    assert find_clips(tmp_path / "l.sqlite", "pair")[0].path is None


def test_paths_in_a_table(tmp_path, clips):
    paths = [str(clips / "walk.webm"), "./walk.webm", "dogs\\rex.mp4", "rex", "../clips/walk.webm", "dogs", "", "none"]
    table = tmp_path / "t.jsonl"
    table.write_text("\n".join(json.dumps({"path": path, "text": "a stroll"}) for path in paths))
    assert build_library(tmp_path / "l.sqlite", table, clips).on_disk == 4
    assert [hit.file for hit in find_clips(tmp_path / "l.sqlite", "stroll")][:4] == ["walk.webm"] * 2 + [
        "dogs/rex.mp4"
    ] * 2


@pytest.mark.parametrize(
    "name, text, words",
    [
        ("t.csv", "a,b\n1,2\n", "no column of captions"),
        ("t.csv", "", "is empty"),
        ("t.csv", 'name\n"' + "x" * 200000, "damaged at line"),
        ("t.csv", "name\n", "has no captions in it"),
        ("t.json", '{"a": 1}', "has no captions in it"),
        ("t.json", '[{"name": "a"},', "cut off"),
        ("t.json", '[{"name": "a"', "damaged or cut off"),
        ("t.json", "[1]", "entry 1, is not an object"),
        ("t.json", "[" * 100000, "not valid JSON"),
        ("t.jsonl", '{"name": "a"}\n{"na', "entry 2, is not valid JSON"),
        ("t.parquet", "", "not a caption table"),
    ],
)
def test_damaged_tables(tmp_path, name, text, words):
    (tmp_path / name).write_text(text)
    with pytest.raises(EchoReelError, match=words) as error:
        build_library(tmp_path / "l.sqlite", tmp_path / name)
    assert name in str(error.value) and "\n" not in str(error.value)
    with pytest.raises(EchoReelError, match="is incomplete"):
        find_clips(tmp_path / "l.sqlite", "jump")


def test_a_table_that_changed_gives_the_library_of_a_new_build(tmp_path, monkeypatch):
    monkeypatch.setattr(reference_library, "BATCH", 7)
    texts = [f"clip number{i} of a jumping dog" for i in range(40)]
    table = write_webvid(tmp_path / "t.csv", texts)
    library = tmp_path / "l.sqlite"
    assert build_library(library, table).added == 40
    for name in ("1003.mp4", "1033.mp4"):
        (tmp_path / name).touch()
    report = build_library(library, table)
    assert (report.added, report.changed, report.removed, report.on_disk) == (0, 2, 0, 2)
    texts[5:7] = ["new words"]
    texts += ["at the end"]
    write_webvid(table, texts[:-6])
    (tmp_path / "1003.mp4").unlink()
    report = build_library(library, table)
    assert (report.captions, report.on_disk, report.removed) == (34, 1, 6)
    build_library(tmp_path / "new.sqlite", table)
    assert contents(library) == contents(tmp_path / "new.sqlite")


# ── interruptions ──


class Stop(Exception):
    pass


@pytest.mark.parametrize("kind", ["folder", "table"])
def test_interrupted_anywhere_it_goes_on_to_the_same_library(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(reference_library, "BATCH", 10)
    monkeypatch.setattr(reference_library, "FILES_BATCH", 10)
    if kind == "table":
        source = write_webvid(tmp_path / "t.csv", [f"jump {i} dog{i % 3}" for i in range(50)])
        (tmp_path / "1007.mp4").touch()
    else:
        source = tmp_path / "clips"
        for i in range(50):
            (source / f"dog{i % 3}").mkdir(parents=True, exist_ok=True)
            (source / f"dog{i % 3}" / f"jump {'abcdefghij'[i % 10] * 3}{i}.mp4").touch()
    steps = []
    build_library(tmp_path / "whole.sqlite", source, progress=lambda *step: steps.append(step))
    whole = contents(tmp_path / "whole.sqlite")

    assert len(steps) > 5
    for allowed in range(len(steps)):
        library, left = tmp_path / f"{allowed}.sqlite", iter(range(allowed))

        def progress(done, of, left=left):
            if next(left, None) is None:
                raise Stop

        with pytest.raises(Stop):
            build_library(library, source, progress=progress)
        with pytest.raises(EchoReelError, match="is incomplete"):
            find_clips(library, "jump")
        build_library(library, source)
        assert contents(library) == whole


def test_a_killed_build_goes_on(tmp_path):
    table = write_webvid(tmp_path / "t.csv", [f"jump number{i}" for i in range(300)])
    code = (
        "import os, sys; sys.path.insert(0, sys.argv[1])\n"
        "from echoreel_core.library import build as r\n"
        "r.BATCH = 100; real = r._Build._write\n"
        "def write(self, old, new):\n"
        "    if new[0].id % (1 << 32) == 200:\n"
        "        self.db.execute('PRAGMA cache_size = 1'); self.db.execute('BEGIN IMMEDIATE')\n"
        "        insert = 'INSERT INTO captions(words, caption, link, file, stamp) VALUES (?, ?, ?, ?, ?)'\n"
        "        self.db.executemany(insert, (clip[1:] for clip in new))\n"
        "        os._exit(9)\n"
        "    real(self, old, new)\n"
        "r._Build._write = write; r.build_library(sys.argv[2], sys.argv[3])\n"
    )
    root = Path(__file__).parents[3]
    library = tmp_path / "l.sqlite"
    assert subprocess.run([sys.executable, "-c", code, root, library, table]).returncode == 9
    assert (tmp_path / "l.sqlite-journal").exists()
    with pytest.raises(EchoReelError, match="is incomplete"):
        find_clips(library, "jump")
    assert build_library(library, table).added == 100
    build_library(tmp_path / "whole.sqlite", table)
    assert contents(library) == contents(tmp_path / "whole.sqlite")


def test_memory_does_not_grow_with_the_table(tmp_path, monkeypatch):
    monkeypatch.setattr(reference_library, "BATCH", 500)
    peaks = []
    for count in (2_000, 20_000):
        table = tmp_path / f"{count}.json"
        table.write_text(json.dumps([{"name": f"a dog jumps over fence number {i}"} for i in range(count)]))
        tracemalloc.start()
        build_library(tmp_path / f"{count}.sqlite", table)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 2 * peaks[0] + (2 << 20)  # 2 MiB: the chunk in which JSON is read


# ── queries ──


HOSTILE = """jump' OR 1=1; DROP TABLE clips; --|jump*|"jump|jump"|"jump dog"|jump NOT dog|NEAR(jump dog, 2)|caption:jump
(((jump|jump AND|OR|-jump|+jump|^jump|{caption} : jump|%jump%|_jump_|jump\\|\0jump\0|jump\ud800|jump😀|?1 :jump $jump
jump""".replace("\n", "|").split("|")


@pytest.mark.parametrize("query", HOSTILE)
def test_nothing_typed_is_an_operator(tmp_path, query):
    texts = ["jump", "dog", "or and not near", "caption", "1", "drop table clips", "jumper2"]
    library = tmp_path / "l.sqlite"
    build_library(library, write_webvid(tmp_path / "t.csv", texts))
    before = library.read_bytes()
    found = captions(library, query, 10)
    assert ("jump" in found) == ("jump" in query)
    assert "jumper2" not in found  # no wildcards
    words = query.lower()
    assert ("dog" in found) == ("dog" in words)
    assert ("drop table clips" in found) == ("drop table clips" in words)
    assert library.read_bytes() == before


@pytest.mark.parametrize("query", ["", "  ", "*", '"', "()", "\0", "😀"])
def test_a_query_without_words(tmp_path, query):
    build_library(tmp_path / "l.sqlite", write_webvid(tmp_path / "t.csv", ["jump"]))
    with pytest.raises(EchoReelError, match="query has no words"):
        find_clips(tmp_path / "l.sqlite", query)


def test_stems_that_have_stems_of_their_own(tmp_path):
    # Porter's stem of "universities" is "univers", of that "univ": a query made of stems would miss them.
    build_library(tmp_path / "l.sqlite", write_webvid(tmp_path / "t.csv", ["universities", "other"]))
    assert captions(tmp_path / "l.sqlite", "university") == ["universities"]


def test_very_long_queries(tmp_path):
    build_library(tmp_path / "l.sqlite", write_webvid(tmp_path / "t.csv", [f"word{i}" for i in range(300)]))
    found = captions(tmp_path / "l.sqlite", " ".join(f"word{i}" for i in range(5000)), 300)
    assert len(found) == library_search.MOST_WORDS


def test_scores_sum_up_the_rarity_of_the_words(tmp_path):
    texts = ["jump", "jump jump dog", "a dog in the sun", "the sun", "a red ball", "a blue ball jumps on a blue sea"]
    library = tmp_path / "l.sqlite"
    build_library(library, write_webvid(tmp_path / "t.csv", texts))
    rarity = {"jump": math.log(1 + 6 / 3), "ball": math.log(1 + 6 / 2)}
    expected = [  # of equal ones the shorter caption first
        (texts[5], rarity["jump"] + rarity["ball"]),
        (texts[4], rarity["ball"]),
        (texts[0], rarity["jump"]),
        (texts[1], rarity["jump"]),
    ]
    assert [(hit.caption, pytest.approx(hit.score)) for hit in find_clips(library, "jumping balls")] == expected


def test_a_common_word_is_counted_in_part_and_still_counts_less_than_a_rare_one(tmp_path, monkeypatch):
    monkeypatch.setattr(library_search, "VISITED", 5)
    texts = [f"man {i}" if i % 2 else f"woman {i}" for i in range(50)] + ["a man", "a dog"]
    library = tmp_path / "l.sqlite"
    build_library(library, write_webvid(tmp_path / "t.csv", texts))
    scores = {hit.caption: hit.score for hit in find_clips(library, "man dog woman", 60)}
    assert scores["a dog"] == pytest.approx(math.log(1 + 52 / 1))
    # the first five are on rows 1 to 9 and 0 to 8
    assert scores["a man"] == pytest.approx(math.log(1 + 10 / 5))
    assert scores["woman 0"] == pytest.approx(math.log(1 + 9 / 5))
    assert len(scores) == 52


def test_where_too_many_match_those_with_all_the_words_come_first(tmp_path, monkeypatch):
    monkeypatch.setattr(library_search, "CANDIDATES", 5)
    texts = [f"man {i}" for i in range(50)] + [f"jump {i}" for i in range(50)] + ["a man who jumps", "a jump by a man"]
    build_library(tmp_path / "l.sqlite", write_webvid(tmp_path / "t.csv", texts))
    assert set(captions(tmp_path / "l.sqlite", "man jumping", 2)) == {"a man who jumps", "a jump by a man"}


def test_words_that_are_too_common_to_be_read_to_the_end_are_joined_block_by_block(tmp_path, monkeypatch):
    """Those that meet in the blocks that are read come first; those that meet later are found by one of the words."""
    for module in (database, library_search):
        monkeypatch.setattr(module, "BLOCK", 8)
    monkeypatch.setattr(library_search, "JOINED", 20)
    monkeypatch.setattr(library_search, "CANDIDATES", 60)
    texts = [f"a {'man' if i % 2 else 'woman'} number{i}" for i in range(100)]
    for meet in (3, 12, 90):
        texts[meet] = f"a man and a woman number{meet}"
    library = tmp_path / "l.sqlite"
    build_library(library, write_webvid(tmp_path / "t.csv", texts))
    asked = []
    real = sqlite3.connect

    def traced(*arguments, **options):
        db = real(*arguments, **options)
        db.set_trace_callback(asked.append)
        return db

    monkeypatch.setattr(sqlite3, "connect", traced)
    hits = [hit.caption for hit in find_clips(library, "man woman", 5)]
    assert hits[:2] == [texts[3], texts[12]]
    blocks = {int(text) for line in asked for text in re.findall("\U000f0000(\\d+)", line)}
    first = ELSEWHERE // 8
    assert blocks == {first, first + 1, first + 2}  # half of the captions hold each word: 20 entries are 20 captions


def test_clips_on_disk_are_found_among_many_that_are_not(tmp_path, monkeypatch):
    monkeypatch.setattr(library_search, "CANDIDATES", 5)
    (tmp_path / "1099.mp4").touch()
    build_library(tmp_path / "l.sqlite", write_webvid(tmp_path / "t.csv", [f"jump {i}" for i in range(100)]))
    hits = find_clips(tmp_path / "l.sqlite", "jump", 2)
    assert [(hit.caption, hit.path is None) for hit in hits][0] == ("jump 99", False)
    assert len(hits) == 3


# ── files that are no libraries ──


def test_other_and_damaged_files(tmp_path):
    good = tmp_path / "good.sqlite"
    table = write_webvid(tmp_path / "t.csv", [f"jump {i}" for i in range(500)])
    build_library(good, table)

    def refused(name: str, words: str) -> None:
        path = tmp_path / name
        before = path.read_bytes()
        for act in (lambda: find_clips(path, "jump"), lambda: build_library(path, table)):
            with pytest.raises(EchoReelError, match=words) as error:
                act()
            assert name in str(error.value) and "\n" not in str(error.value)
        assert path.read_bytes() == before

    (tmp_path / "text.sqlite").write_text("not a database, but of some length " * 10)
    refused("text.sqlite", "not a reference library")
    other = sqlite3.connect(tmp_path / "other.sqlite")
    other.execute("CREATE TABLE clips (id INTEGER PRIMARY KEY)")
    other.close()
    refused("other.sqlite", "not a reference library")
    newer = tmp_path / "newer.sqlite"
    newer.write_bytes(good.read_bytes())
    db = sqlite3.connect(newer)
    db.execute("PRAGMA user_version = 99")
    db.close()
    refused("newer.sqlite", "update the pack")
    with pytest.raises(EchoReelError, match=r"no library none\.sqlite"):
        find_clips(tmp_path / "none.sqlite", "jump")
    assert not (tmp_path / "none.sqlite").exists()
    data = good.read_bytes()
    (tmp_path / "cut.sqlite").write_bytes(data[: len(data) // 3])
    with pytest.raises(EchoReelError, match=r"cut\.sqlite cannot be used.*damaged"):
        find_clips(tmp_path / "cut.sqlite", "jump")


def test_a_library_is_not_filled_from_another_source(tmp_path, clips):
    library = tmp_path / "l.sqlite"
    build_library(library, clips)
    table = write_webvid(tmp_path / "t.csv", ["jump"])
    with pytest.raises(EchoReelError, match=r"built from clips.*another name.*t\.csv"):
        build_library(library, table)
    assert len(captions(library, "jump")) == 3


def test_a_library_of_somebody_else_leads_nowhere_else(tmp_path, clips):
    library = tmp_path / "l.sqlite"
    build_library(library, clips)
    secret = tmp_path / "secret.mp4"
    secret.touch()
    db = connect(library)
    for id, file in ((1, "../secret.mp4"), (2, str(secret)), (3, "dogs/\0.mp4")):
        db.execute("UPDATE captions SET file = ? WHERE rowid = ?", (file, id))
    db.close()
    assert [hit.path for hit in find_clips(library, "jump")] == [None] * 3


def test_a_second_build_at_the_same_time_is_refused(tmp_path, clips, monkeypatch):
    library = tmp_path / "l.sqlite"
    build_library(library, clips)
    (clips / "new.mp4").touch()
    other = sqlite3.connect(library, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    monkeypatch.setattr(sqlite3, "connect", lambda *args, real=sqlite3.connect, **kw: real(*args, timeout=0, **kw))
    with pytest.raises(EchoReelError, match="in use"):
        build_library(library, clips)
    other.execute("ROLLBACK")
    other.close()
    assert build_library(library, clips).added == 1


def test_ids_tell_where_a_clip_is(tmp_path):
    (tmp_path / "1001.mp4").touch()
    build_library(tmp_path / "l.sqlite", write_webvid(tmp_path / "t.csv", ["a", "b", "c"]))
    assert [(row[0], row[4]) for row in contents(tmp_path / "l.sqlite")] == [
        (1, "1001.mp4"),
        (ELSEWHERE, None),
        (ELSEWHERE + 2, None),
    ]

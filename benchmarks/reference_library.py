"""Queries in a reference library beside the authors' demo's way, which looks at every caption in memory.

    python benchmarks/reference_library.py [--captions 200000] [--folder FOLDER]

Captions are generated, in WebVid's table, as many as asked for and a tenth of that; 10 million of them take 5 GB in the
folder (a temporary one by default). Each part runs in a process of its own; memory is the peak above that process with
everything imported. On a busy machine the processor's time is the steadier figure.
"""

import argparse
import csv
import json
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from echoreel_core.library.build import build_library  # noqa: E402
from echoreel_core.library.search import find_clips  # noqa: E402

VERBS = (
    "walk run jump cook play look talk work swim climb dance paint ride jog smile throw push pull lift kick spin wave"
    " clap bow crawl roll row sail surf skate box punch stretch bend squat knit sew type pour stir chop peel mop polish"
).split()
CHINESE = "跳绳 跑步 游泳 做饭 唱歌 跳舞 画画 骑车 走路 打球 爬山 滑雪 划船 挥手 鼓掌 鞠躬".split()
THAI = "กระโดด วิ่ง ว่ายน้ำ ทำอาหาร ร้องเพลง เต้นรำ วาดรูป เดิน ปีนเขา พายเรือ โบกมือ ปรบมือ".split()
COMMON = [
    "a",
    "the",
    "in the",
    "a man in the",
    "man woman",
    "with a in the an old is",
    "在",
    "的",
    "人在",
    "男人 女人",
    "ที่",
    "คน",
]
"""Words that a large part of the captions hold, together or, as man and woman, never together."""
SYLLABLES = [a + b for a in "bdfghklmnprstvz" for b in ("a", "e", "i", "o", "u", "an", "er", "il", "om", "un")]
SCANS = 5


def generated(count: int):
    """Captions whose words are as unequally common as words are, each with an action in one of its forms.

    Half are in English, a third in Chinese, a sixth in Thai.
    """
    rng = random.Random(0)
    nouns = ["".join(rng.choices(SYLLABLES, k=rng.choice((2, 2, 3)))) for _ in range(40_000)]
    people = [f"{a} {p}" for a in ("a", "the", "young", "an old", "happy") for p in ("man", "woman", "dog", "child")]
    forms = [form for verb in VERBS for form in (verb + "s", "is " + verb + "ing", verb + "ing", verb + "ed")]
    characters = [chr(code) for code in range(0x4E00, 0x5A00)]
    chinese = ["".join(rng.choices(characters, k=rng.choice((1, 2, 2, 3)))) for _ in range(40_000)]
    consonants = [chr(code) for code in range(0x0E01, 0x0E2F)]
    thai = ["".join(rng.choice(consonants) + rng.choice("ัาิีุู่") for _ in range(2)) for _ in range(40_000)]
    draw = rng.random
    for i in range(count):
        a, b, c = (int(40_000 * draw() ** 4) for _ in range(3))
        person, act = int(20 * draw() ** 2), draw() ** 2
        if i % 2 == 0:
            yield f"{people[person]} {forms[int(len(forms) * act)]} with {nouns[a]} {nouns[b]} in the {nouns[c]}"
        elif i % 6 == 1:
            who = ("คน", "ผู้ชาย", "ผู้หญิง", "เด็ก")[person % 4]
            yield f"{who}{THAI[int(len(THAI) * act)]}ที่{thai[a]}{thai[b]}"
        else:
            who = ("男人", "女人", "小狗", "孩子")[person % 4]
            yield f"{who}在{chinese[a]}的{chinese[b]}{CHINESE[int(len(CHINESE) * act)]}"


def queries() -> dict[str, list[str]]:
    """Of each kind some; in English one word, two words, and a sentence for each action."""
    rng = random.Random(1)
    english = []
    for verb in VERBS:
        person = rng.choice(("woman", "dog", "child"))
        english += [verb + "ing", f"{person} {verb}s", f"an old man is {verb}ing in the sun"]
    unspaced = [text for verb in CHINESE for text in (verb[0], verb, f"男人在{verb}", f"{verb} 孩子")]
    unspaced += [text for verb in THAI for text in (verb[:1], verb, f"คน{verb}")]
    return {"English": english, "Chinese and Thai": unspaced, "the commonest words": COMMON}


def write_table(path: Path, count: int) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("videoid", "contentUrl", "duration", "page_dir", "name"))
        for i, caption in enumerate(generated(count)):
            link = f"https://example.org/videos/{i}/preview/stock-footage-{caption[:40].replace(' ', '-')}.mp4"
            writer.writerow((i, link, "PT00H00M10S", "000001_000050", caption))


def memory(what: str) -> float:
    """Megabytes by Linux; elsewhere nan."""
    status = Path("/proc/self/status")
    return int(re.search(what + r":\s*(\d+) kB", status.read_text())[1]) / 1024 if status.exists() else float("nan")


def build(table: Path) -> dict:
    begin = time.perf_counter()
    build_library(table.with_suffix(".sqlite"), table)
    return {"seconds": time.perf_counter() - begin}


def search(table: Path) -> dict:
    """As the node does: the library is opened for each query."""
    library = table.with_suffix(".sqlite")
    return {
        "kinds": {kind: timed(lambda query: find_clips(library, query), texts) for kind, texts in queries().items()}
    }


def scan(table: Path) -> dict:
    """The authors' demo: all captions in memory, and of these each that holds the word."""
    with open(table, newline="", encoding="utf-8") as file:
        captions = [row[4] for row in csv.reader(file)]
    return {"kinds": {"scan": timed(lambda verb: [c for c in captions if verb in c], VERBS[:SCANS])}}


def timed(act: Callable[[str], object], texts: list[str]) -> dict:
    milliseconds, busy = [], []
    for text in texts:
        begin, begin_busy = time.perf_counter(), time.process_time()
        act(text)
        milliseconds.append((time.perf_counter() - begin) * 1000)
        busy.append((time.process_time() - begin_busy) * 1000)
    return {"milliseconds": milliseconds, "busy": busy}


def report(result: dict) -> dict[str, float]:
    """Prints what `search` or `scan` took; returns the medians, in milliseconds of the processor."""
    for kind, part in result["kinds"].items():
        times, busy = part["milliseconds"], part["busy"]
        print(f"  {kind:19} median {statistics.median(times):7.1f} ms, most {max(times):7.1f} ms", end="; ")
        print(f"of the processor {statistics.median(busy):7.1f} ms, most {max(busy):7.1f} ms; {len(times)} of them")
    print(f"  {'':19} peak {result['megabytes']:,.0f} MB", flush=True)
    return {kind: statistics.median(part["busy"]) for kind, part in result["kinds"].items()}


PARTS = {"build": build, "search": search, "scan": scan}


def measure(part: str, table: Path) -> dict:
    command = [sys.executable, __file__, "--part", part, "--table", str(table)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--captions", type=int, default=200_000)
    parser.add_argument("--folder", type=Path, help="where to put table and library")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--table", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.part:
        idle = memory("VmRSS")
        result = PARTS[arguments.part](arguments.table)
        print(json.dumps({**result, "megabytes": memory("VmHWM") - idle}))
        return
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        medians = []
        for count in (arguments.captions // 10, arguments.captions):
            table = Path(folder) / f"{count}.csv"
            write_table(table, count)
            built = measure("build", table)
            again = measure("build", table)
            size = table.with_suffix(".sqlite").stat().st_size / 2**20
            print(f"{count:,} captions, table {table.stat().st_size / 2**20:,.0f} MB, library {size:,.0f} MB", end="; ")
            print(f"built in {built['seconds']:,.1f} s, peak {built['megabytes']:,.0f} MB", end="; ")
            print(f"again, nothing changed: {again['seconds'] * 1000:,.0f} ms", flush=True)
            medians.append(report(measure("search", table)))
        scan = report(measure("scan", table))["scan"]
        print("ratios of the medians, of the processor's time:")
        for kind in medians[0]:
            few, many = (of[kind] for of in medians)
            print(f"  {kind:19} ten times the captions {many / few:.2f}; scan / query {scan / many:.0f}")


if __name__ == "__main__":
    main()

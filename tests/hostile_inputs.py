"""Files and values made to do harm, drawn from a seed, and what the core makes of them.

    python tests/hostile_inputs.py --cases 2000 [--first 0]

Each case is a well-formed input that was damaged or exaggerated, read as a node or command reads it. It must be taken
or refused with an EchoReelError within ten seconds; nothing in it may run, and nothing half-written may stay. The cases
run in a process of their own, which is watched: one that crashes or hangs is named, and a new one goes on behind it.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import queue
import random
import sqlite3
import struct
import subprocess
import sys
import tempfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

LIMIT = 10  # seconds a case may take
STRANGE = [0, -1, 1, 1 << 31, 1 << 63, 10**400, 1e308, -1e308, 1e-320, True, None, "", "a" * 10_000, [], {}, [[]], "\0"]
STRANGE += [float("nan"), float("inf"), -float("inf"), "\ud800", "../../x", "🙂" * 9, [0] * 5000, {"a": {"b": [None]}}]


class Case:
    """One input: where it may put files, its chance, and the good files that it begins with."""

    def __init__(self, number: int, folder: Path, good: dict[str, bytes]) -> None:
        self.random, self.folder, self.good = random.Random(number), folder, good
        self.mark = folder.parent / f"executed-{number}"

    def write(self, name: str, data: bytes) -> Path:
        path = self.folder / name
        path.write_bytes(data)
        return path

    def damaged(self, data: bytes) -> bytes:
        """Bits turned, pieces cut off, repeated, swapped or made zero, numbers made huge."""
        data = bytearray(data)
        for _ in range(self.random.choice((1, 1, 2, 5, 30))):
            if not data:
                break
            # damage near the beginning, where headers are, is the more telling one
            at = int(len(data) * self.random.random() ** self.random.choice((1, 1, 4)))
            length = self.random.choice((1, 4, 16, 300, 5000))
            match self.random.randrange(7):
                case 0:
                    data[at : at + 1] = bytes([data[at] ^ 1 << self.random.randrange(8)]) if at < len(data) else b""
                case 1:
                    del data[at:]
                case 2:
                    del data[at : at + length]
                case 3:
                    data[at:at] = data[at : at + length] * self.random.choice((1, 3))
                case 4:
                    data[at : at + length] = bytes(length)
                case 5:
                    data[at : at + length] = self.random.randbytes(length)
                case 6:
                    data[at : at + 4] = self.random.choice(
                        (b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x00\x00\x00\x80")
                    )
        return bytes(data)

    def exaggerated(self, value: object) -> object:
        """A JSON value with a part of it changed for a strange one, taken out, repeated or put deep down."""
        match value:
            case dict() if value and self.random.random() < 0.8:
                key = self.random.choice(list(value))
                changed = self.exaggerated(value[key])
                kept = {k: v for k, v in value.items() if k != key}
                return kept if self.random.random() < 0.15 else {**kept, key: changed}
            case list() if value and self.random.random() < 0.8:
                at = self.random.randrange(len(value))
                return [*value[:at], self.exaggerated(value[at]), *value[at + 1 :]]
        if self.random.random() < 0.1:
            for _ in range(self.random.choice((10, 200, 900))):
                value = [value]
            return value
        return self.random.choice(STRANGE)


def read_safetensors(case: Case, kind: str, read: Callable) -> None:
    """The bytes damaged, or the description exaggerated in a file that is otherwise whole."""
    data = case.good[kind]
    if case.random.random() < 0.5:
        data = case.damaged(data)
    else:
        (length,) = struct.unpack_from("<Q", data)
        header = json.loads(data[8 : 8 + length])
        description = case.exaggerated(json.loads(header["__metadata__"]["echoreel"]))
        header["__metadata__"]["echoreel"] = json.dumps(description)
        text = json.dumps(header).encode()
        data = struct.pack("<Q", len(text)) + text + data[8 + length :]
    read(case.write(f"{kind}.safetensors", data))


def adapter(case: Case) -> None:
    from echoreel_core.action.adapter import read_adapter

    read_safetensors(case, "adapter", read_adapter)


def action(case: Case) -> None:
    from echoreel_core.action.file import load_action

    read_safetensors(case, "action", load_action)


class _Calls:
    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def checkpoint(case: Case) -> None:
    """Damaged bytes, a pickle of random instructions, or one that calls; read, and converted."""
    from echoreel_core.commands.convert import convert

    data = case.good["checkpoint"]
    chance = case.random.random()
    if chance < 0.4:
        data = case.damaged(data)
    else:
        pickled = _random_pickle(case) if chance < 0.8 else _calling_pickle(case)
        path = case.write("again.zip", data)
        with zipfile.ZipFile(path) as file:
            parts = {name: file.read(name) for name in file.namelist()}
        with zipfile.ZipFile(path, "w") as file:
            for name, part in parts.items():
                file.writestr(name, pickled if name.endswith("data.pkl") else part)
        data = path.read_bytes()
        path.unlink()
    convert(str(case.write("a.pt", data)), str(case.folder / "out.safetensors"))


def _calling_pickle(case: Case) -> bytes:
    inner: object = _Calls(f"touch '{case.mark}'")
    for _ in range(case.random.randrange(4)):
        inner = case.random.choice(([inner], {"a": inner}, (inner,)))
    return pickle.dumps({"module": {"model.diffusion_model.a": inner}}, case.random.choice((0, 2, 4)))


def _random_pickle(case: Case) -> bytes:
    names = [b"ctorch._utils\n_rebuild_tensor_v2\n", b"ctorch\nFloatStorage\n", b"ccollections\nOrderedDict\n"]
    names += [b"cdeepspeed.a\nB\n", b"cos\nsystem\n", b"cbuiltins\nset\n", b"cnumpy\nndarray\n"]
    values = [
        b"K\1",
        b"J\xff\xff\xff\x7f",
        b"X\7\0\0\0storage",
        b"X\1\0\0\x000",
        b"N",
        b")",
        b"}",
        b"]",
        b"\x8f",
        b"\x88",
    ]
    acts = [b"R", b"b", b"t", b"(", b"\x85", b"\x86", b"\x87", b"s", b"u", b"a", b"e", b"Q", b"\x81", b"o", b"2", b"0"]
    acts += [b"q\0", b"h\0", b"\x90", b"\x91", b"\x92", b"l", b"d", b"1", b"2\x86" * 40]
    parts = [case.random.choice(case.random.choice((names, values, values, acts, acts))) for _ in range(60)]
    return b"\x80\4}X\6\0\0\0module}(X\1\0\0\0a" + b"".join(parts[: case.random.randrange(60)]) + b"uu."


def clip(case: Case) -> None:
    """A damaged clip, with strange wishes."""
    from echoreel_core.video.frames import FrameSelection, read_video, video_length

    name = case.random.choice([name for name in case.good if name.startswith("clip.")])
    path = case.write(name, case.damaged(case.good[name]))
    (case.folder / "clip.txt").write_bytes(case.random.randbytes(50))
    pick = case.random.choice
    selection = FrameSelection(
        frames=pick((1, 2, 16, 100)),
        mode=pick(("even", "fps", "every_nth")),
        every_nth=pick((1, 4, 1000)),
        fps=pick((0.001, 8, 1e6)),
        start=pick((0, 0, 0.3, -0.5, 1e9, -1e9)),
        duration=pick((0, 0, 1e-9, 0.5, 1e9)),
    )
    read_video(path, selection, width=pick((1, 64)), height=pick((1, 64)), crop=pick(("stretch", "center", "pad")))
    video_length(path)


def table(case: Case) -> None:
    """A damaged caption table; what is built of it is searched."""
    name = case.random.choice([name for name in case.good if name.startswith("table.")])
    data = case.good[name]
    if name.endswith("json") and case.random.random() < 0.5:
        data = json.dumps(case.exaggerated(json.loads(data))).encode()
    else:
        data = case.damaged(data)
    _build_and_search(case, case.write(name, data))


def folder(case: Case) -> None:
    """Names and captions of a folder."""
    clips = case.folder / "clips"
    clips.mkdir()
    for _ in range(5):
        name = "".join(chr(case.random.choice((32, 46, 65, 0x4E00, 0xE31, 0xFF21, 0x1F600, 10))) for _ in range(6))
        (clips / f"{name}x.mp4").touch()
        (clips / f"{name}x.txt").write_bytes(case.random.randbytes(case.random.choice((0, 5, 70_000))))
    os.symlink(clips, clips / "circle")
    _build_and_search(case, clips)


def _build_and_search(case: Case, source: Path) -> None:
    from echoreel_core.library.build import build_library
    from echoreel_core.library.search import find_clips

    library = case.folder / "l.sqlite"
    build_library(library, source)
    find_clips(library, _query(case))


def _query(case: Case) -> str:
    return (
        "".join(case.random.choice(["jump", " ", '"', "*", "\0", "跳", "ก็", "\ud800", "a " * 3000]) for _ in range(6))
        + "dog"
    )


def library(case: Case) -> None:
    """A damaged library, or one whose tables hold other things; searched, and built again."""
    from echoreel_core.library.build import build_library
    from echoreel_core.library.search import find_clips

    path = case.write("l.sqlite", case.good["library"])
    if case.random.random() < 0.6:
        path.write_bytes(case.damaged(case.good["library"]))
    else:
        db = sqlite3.connect(path)
        names = [name for (name,) in db.execute("SELECT name FROM facts")]
        harm = [
            "UPDATE captions_content SET c0 = x'00ff00', c1 = x'00ff00'",
            "UPDATE captions SET file = '../../../etc/passwd'",
            "UPDATE captions_content SET id = id + 4294967296",
            "UPDATE facts SET value = 'many' WHERE name = 'captions'",
            "DELETE FROM facts",
            "DROP TABLE captions",
            f"PRAGMA user_version = {case.random.randrange(5)}",
            "DELETE FROM captions_data",
            f"UPDATE facts SET value = {case.random.choice(('NULL', '-1', '1e400', repr('x'), 'x00'.join('xx')))}"
            f" WHERE name = '{case.random.choice(names)}'",
        ]
        try:
            for statement in case.random.sample(harm, 2):
                db.execute(statement)
            db.commit()
        except sqlite3.Error:
            pass  # SQLite itself would not have it
        db.close()
    try:
        find_clips(path, _query(case))
    finally:
        build_library(path, case.write("table.csv", case.good["table.csv"]))


KINDS = (adapter, action, checkpoint, clip, clip, table, folder, library)


def good_files(folder: Path) -> dict[str, bytes]:
    """One well-formed file of each kind, small."""
    import torch
    from PIL import Image
    from released_weights import make_state_dict
    from video_clips import write_clip

    from echoreel_core.action.action import Action, Reference
    from echoreel_core.action.adapter import AdapterConfig, EchoReelAdapter, SiteConfig
    from echoreel_core.action.file import save_action
    from echoreel_core.action.prism import ActionPrismConfig
    from echoreel_core.library.build import build_library

    torch.manual_seed(0)
    prism = ActionPrismConfig(3, (4, 6), 20, 16, 24, 2, 2, 10, patch=2)
    EchoReelAdapter(AdapterConfig("wan", prism, (SiteConfig("blocks.1", 32, 2, 12),))).save(folder / "adapter")
    tokens = torch.zeros(1, 2, 3)
    save_action(Action.of(Reference(tokens, tokens, 1.0, {"caption": "a jump"}), "a", "lvdm"), folder / "action")
    torch.save({"module": make_state_dict("small"), "lr": 1e-4}, folder / "checkpoint")
    for name, arguments in {
        "clip.mp4": {},
        "clip.mkv": {},
        "clip.avi": {"codec": "mpeg4"},
        "clip.ts": {},
        "clip.mpg": {"codec": "mpeg2video"},
        "clip.gif": {"codec": "gif", "pix_fmt": "rgb8"},
    }.items():
        write_clip(folder / name, 30, **arguments)
    pictures = [Image.new("RGB", (16, 8), (i * 20, 0, 0)) for i in range(5)]
    pictures[0].save(folder / "clip.webp", save_all=True, append_images=pictures[1:], duration=100)
    rows = [
        {"videoid": f"{i}", "contentUrl": "https://example.org/a", "name": f"a dog jumps {i} 跳绳"} for i in range(40)
    ]
    (folder / "table.json").write_text(json.dumps(rows))
    (folder / "table.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "table.csv").write_text("\n".join([",".join(rows[0]), *(",".join(row.values()) for row in rows)]))
    build_library(folder / "library", folder / "table.csv")
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def run_cases(first: int, count: int) -> None:
    """Runs cases in this process; prints a line for each, as JSON."""
    from echoreel_core.errors import EchoReelError

    with tempfile.TemporaryDirectory() as place:
        (made := Path(place) / "good").mkdir()
        good = good_files(made)
        for number in range(first, first + count):
            folder = Path(place) / str(number)
            folder.mkdir()
            case = Case(number, folder, good)
            kind = KINDS[number % len(KINDS)]
            print(json.dumps({"begun": number, "kind": kind.__name__}), flush=True)
            problem = None
            try:
                kind(case)
            except EchoReelError as error:
                if "\n" in str(error) or len(str(error)) > 1000:
                    problem = f"no short sentence: {error}"[:300]
            except Exception as error:
                problem = f"{type(error).__name__}: {error}"[:300]
            left = [path.name for path in folder.rglob("*") if path.name.endswith(".part")]
            if left or case.mark.exists():
                problem = f"left {left}, executed {case.mark.exists()}"
            print(json.dumps({"done": number, "problem": problem}), flush=True)


def problems(first: int, count: int) -> Iterator[str]:
    """One sentence for each case that went wrong."""
    end = first + count
    while first < end:
        command = [sys.executable, __file__, "--first", str(first), "--cases", str(end - first), "--within"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        lines: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=lambda p=process, q=lines: [q.put(line) for line in p.stdout] + [q.put(None)]).start()
        kind, wait = "before the first case", 120  # for imports and the good files
        while True:
            try:
                line = lines.get(timeout=wait)
            except queue.Empty:
                yield f"case {first} ({kind}) hung for more than {wait} s"
                process.kill()
                line = None
            if line is None:
                if process.wait() and line is None and first < end and process.returncode != -9:
                    yield f"case {first} ({kind}) ended the process ({process.returncode})"
                first += 1
                break
            said = json.loads(line)
            wait = LIMIT
            if "begun" in said:
                first, kind = said["begun"], said["kind"]
            else:
                if said["problem"]:
                    yield f"case {said['done']} ({kind}): {said['problem']}"
                first = said["done"] + 1
                if first == end:
                    process.wait()
                    return


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=2000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--within", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.within:
        run_cases(arguments.first, arguments.cases)
        return
    found = 0
    for problem in problems(arguments.first, arguments.cases):
        found += 1
        print(problem, flush=True)
    print(f"{arguments.cases} cases, {found} problems")


if __name__ == "__main__":
    main()

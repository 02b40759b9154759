"""What choosing before decoding saves: 16 frames of a 1080p clip by `read_video`, and by decoding all of it.

    python benchmarks/video_reading.py [--minutes 10]

Each way runs in a process of its own; memory is the peak above that process with everything imported.
"""

import argparse
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import av  # noqa: E402
import torch  # noqa: E402
from video_clips import write_long_clip  # noqa: E402

from echoreel_core.video.frames import FrameSelection, fit, read_video  # noqa: E402

FRAMES = 16


def decode_all(path: str) -> None:
    """The plain way: decode every frame, keep and resize those wanted."""
    with av.open(path) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        wanted = {round(i * (stream.frames - 1) / (FRAMES - 1)) for i in range(FRAMES)}
        frames = []
        for index, frame in enumerate(container.decode(stream)):
            if index in wanted:
                frames.append(fit(torch.from_numpy(frame.to_ndarray(format="rgb24")), 256, 256))


WAYS = {
    "spread evenly": lambda path: read_video(path, FrameSelection(FRAMES, "even")),
    "every 4th from the start": lambda path: read_video(path, FrameSelection(FRAMES)),
    "the last two seconds": lambda path: read_video(path, FrameSelection(FRAMES, "even", start=-2)),
    "decode everything": decode_all,
}


def measure(way: str, path: str) -> tuple[float, float]:
    """Seconds and megabytes, in a fresh process."""
    output = subprocess.run(
        [sys.executable, __file__, "--way", way, "--clip", path], check=True, capture_output=True, text=True
    ).stdout
    seconds, megabytes = output.split()
    return float(seconds), float(megabytes)


def memory(what: str) -> float:
    """Megabytes by Linux; elsewhere nan."""
    status = Path("/proc/self/status")
    return int(re.search(what + r":\s*(\d+) kB", status.read_text())[1]) / 1024 if status.exists() else float("nan")


def run(way: str, path: str) -> None:
    idle = memory("VmRSS")
    begin = time.perf_counter()
    WAYS[way](path)
    seconds = time.perf_counter() - begin
    print(seconds, memory("VmHWM") - idle)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10, help="length of the clip")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--clip", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.way:
        run(arguments.way, arguments.clip)
        return
    with tempfile.TemporaryDirectory() as folder:
        clip = Path(folder) / "clip.mp4"
        group = write_long_clip(clip, arguments.minutes)
        print(f"{arguments.minutes:g} minutes of 1080p H.264, 30 fps, keyframes {group} frames apart,", end=" ")
        print(f"{clip.stat().st_size / 2**20:.0f} MB; {FRAMES} frames of 256 x 256")
        results = {way: measure(way, str(clip)) for way in WAYS}
        whole = results["decode everything"][0]
        for way, (seconds, megabytes) in results.items():
            print(f"{way:26} {seconds:7.2f} s  {whole / seconds:6.1f} x  {megabytes:6.0f} MB")


if __name__ == "__main__":
    main()

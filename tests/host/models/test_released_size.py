"""The shipped workflow at the released size, with random weights: only on request, it takes minutes and 12 GB.

ECHOREEL_RELEASED_SIZE=1 python -m pytest -s tests/host/test_released_size.py
"""

import multiprocessing
import os
import threading
import time

import pytest
from checkpoints import SHIPPED_NAME, released_size_state_dict, save_as_deepspeed
from comfy_server import ComfyServer
from video_clips import read_back, write_clip
from workflow_files import shipped, to_prompt

THREADS = int(os.environ.get("OMP_NUM_THREADS", os.cpu_count()))

on_request = pytest.mark.skipif(
    not os.environ.get("ECHOREEL_RELEASED_SIZE"), reason="minutes of work: set ECHOREEL_RELEASED_SIZE=1 to run it"
)


def write_checkpoint(path):
    save_as_deepspeed(released_size_state_dict(), path)


@on_request
@pytest.mark.heavy
def test_released_size_only_on_request(tmp_path):
    """2 steps of the text-to-video workflow with every tensor of the released layout, in half precision."""
    checkpoint = tmp_path / "models" / "checkpoints" / SHIPPED_NAME
    checkpoint.parent.mkdir(parents=True)
    try:
        # in a process of its own, which gives its memory back before the server wants it
        writer = multiprocessing.get_context("spawn").Process(target=write_checkpoint, args=(checkpoint,))
        writer.start()
        writer.join()
        gigabytes = checkpoint.stat().st_size / 1e9
        with ComfyServer(tmp_path, threads=THREADS) as server, PeakMemory(server.process_id) as memory:
            write_clip(tmp_path / "input" / "clip.mp4", 80, size=(256, 256))
            prompt = to_prompt(shipped("text to video", steps=2, size=(256, 256)), server.get("/object_info"))
            version = server.get("/system_stats")["system"]["comfyui_version"]
            run = server.run(prompt, seconds=3600)
            passes = server.probe()
        frames, facts = read_back(server.file(run, ".mp4"))
    finally:
        checkpoint.unlink(missing_ok=True)
    print(
        f"ComfyUI {version}: checkpoint {gigabytes:.2f} GB, run {run.seconds:.0f} s, "
        f"peak memory {memory.gigabytes:.1f} GB, calls {passes}, video {frames.shape} {facts}"
    )
    assert frames.shape == (16, 256, 256, 3)
    assert facts["fps"] == 8 and facts["codec"] == "h264"
    assert frames.std() > 1
    assert passes["ActionPrism"] == 2 and passes["ActionPrismLayer"] == 36 and passes["hooks"] == 0


class PeakMemory:
    """The most memory a process has held inside the `with`, map_tensors files not counted (Linux)."""

    def __init__(self, process_id: int) -> None:
        self._status = f"/proc/{process_id}/status"
        self.gigabytes = 0.0

    def __enter__(self):
        self._running = True
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._running = False
        self._thread.join()

    def _watch(self):
        while self._running and os.path.exists(self._status):
            with open(self._status) as status:
                held = [int(line.split()[1]) for line in status if line.startswith("RssAnon")]
            self.gigabytes = max(self.gigabytes, *(kilobytes / 1e6 for kilobytes in held), 0.0)
            time.sleep(0.5)

"""A real ComfyUI of its own on a free port, driven through its HTTP API."""

from __future__ import annotations

import asyncio
import json
import os
import queue
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
from places import COMFYUI, ROOT
from workflow_files import Prompt

PROBE = Path(__file__).parent / "probe"
START_SECONDS = 240
TEXT = (3).to_bytes(4, "big")
"""What begins a message with a node's line of text."""


class PromptRefused(Exception):
    """The server did not accept a prompt, or not all of it."""

    def __init__(self, answer: dict[str, Any]) -> None:
        self.answer = answer
        super().__init__(json.dumps(answer)[:2000])

    @property
    def sentences(self) -> list[str]:
        """What the user reads, per node."""
        errors = (error for node in self.answer["node_errors"].values() for error in node["errors"])
        return [error["details"] or error["message"] for error in errors]


class Run:
    """What the server remembers of a finished prompt."""

    def __init__(self, entry: dict[str, Any]) -> None:
        self.status: str = entry["status"]["status_str"]
        self.outputs: dict[str, Any] = entry["outputs"]
        self._messages: dict[str, dict] = dict(entry["status"]["messages"])

    @property
    def interrupted(self) -> bool:
        return "execution_interrupted" in self._messages

    @property
    def error(self) -> dict[str, Any] | None:
        """node_type, exception_type, exception_message, … of the node that failed."""
        return self._messages.get("execution_error")

    @property
    def cached(self) -> set[str]:
        """Ids of the nodes that did not have to run."""
        return set(self._messages.get("execution_cached", {}).get("nodes", ()))

    @property
    def seconds(self) -> float:
        start, end = (self._messages[f"execution_{name}"]["timestamp"] for name in ("start", "success"))
        return (end - start) / 1000


class ComfyServer:
    """Starts ComfyUI on the CPU with the pack, and with the probe that counts passes; a context manager.

    Args:
        base: folder for its models, input, output and user data.
        comfyui, python: the ComfyUI to start and its interpreter.
        threads: for its arithmetic; more than one only hold toy models up.
    """

    def __init__(self, base: Path, comfyui: Path = COMFYUI, python: str = sys.executable, threads: int = 1) -> None:
        self.base = base
        self._environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        self._command = [python, "main.py", "--cpu", "--disable-auto-launch", "--disable-api-nodes"]
        self._comfyui = comfyui
        self._log = base / "comfyui.log"
        for folder in ("models/checkpoints", "models/echoreel", "input", "output", "user", "custom_nodes"):
            (base / folder).mkdir(parents=True, exist_ok=True)
        _install(ROOT, base / "custom_nodes" / "comfyui-echoreel")
        _install(PROBE, base / "custom_nodes" / "echoreel_probe")

    def __enter__(self) -> ComfyServer:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        database = f"sqlite:///{(self.base / 'user' / 'comfyui.db').as_posix()}"
        options = ["--port", str(port), "--base-directory", str(self.base), "--database-url", database]
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [*self._command, *options],
                cwd=self._comfyui,
                env=self._environment,
                # the probe ends the server when this pipe closes, however this process ends
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        try:
            self._wait_until_it_answers()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._process.stdin.close()
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _wait_until_it_answers(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise RuntimeError(f"ComfyUI ended with {self._process.returncode}:\n{self.log[-4000:]}")
            try:
                self.get("/system_stats")
                return
            except OSError:
                time.sleep(0.2)
        raise RuntimeError(f"ComfyUI did not answer within {START_SECONDS} s:\n{self.log[-4000:]}")

    @property
    def process_id(self) -> int:
        return self._process.pid

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def get(self, path: str) -> Any:
        return json.loads(self.read(path))

    def read(self, path: str) -> bytes:
        """What it answers. Raises: urllib.error.HTTPError."""
        with urllib.request.urlopen(self.url + path, timeout=60) as answer:
            return answer.read()

    def post(self, path: str, content: dict[str, Any]) -> Any:
        """The JSON answer, None where it is empty. Raises: urllib.error.HTTPError."""
        request = urllib.request.Request(
            self.url + path, json.dumps(content).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            text = answer.read()
        return json.loads(text) if text.strip() else None

    def submit(self, prompt: Prompt) -> str:
        """Queues a prompt and returns its id. Raises: PromptRefused, also where only a part was accepted."""
        try:
            answer = self.post("/prompt", {"prompt": prompt, "client_id": uuid.uuid4().hex})
        except urllib.error.HTTPError as refused:
            raise PromptRefused(json.load(refused)) from None
        if answer["node_errors"]:
            self.interrupt()
            raise PromptRefused(answer)
        return answer["prompt_id"]

    def wait(self, prompt_id: str, seconds: float = 120) -> Run:
        """The finished run. Raises: TimeoutError, with the end of the log, after stopping it."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if prompt_id in (history := self.get(f"/history/{prompt_id}")):
                return Run(history[prompt_id])
            if self._process.poll() is not None:
                raise RuntimeError(f"ComfyUI ended with {self._process.returncode}:\n{self.log[-4000:]}")
            time.sleep(0.05)
        self.interrupt()
        raise TimeoutError(f"the prompt did not end within {seconds} s:\n{self.log[-4000:]}")

    def run(self, prompt: Prompt, seconds: float = 120) -> Run:
        """Queues a prompt and waits for it. Raises: AssertionError where it did not succeed."""
        run = self.wait(self.submit(prompt), seconds)
        assert run.status == "success", run.error or run.status
        return run

    @contextmanager
    def progress_texts(self) -> Iterator[Callable[[str], str]]:
        """Inside the `with`, what nodes write on themselves: a call waits for the next line with a word in it."""
        lines: queue.Queue[str] = queue.Queue()
        stop = threading.Event()

        async def listen() -> None:
            async with aiohttp.ClientSession() as session, session.ws_connect(f"{self.url}/ws") as socket:
                listening.set()
                while not stop.is_set():
                    try:
                        message = await socket.receive(timeout=0.2)
                    except asyncio.TimeoutError:
                        continue
                    if message.type == aiohttp.WSMsgType.BINARY and message.data[:4] == TEXT:
                        length = int.from_bytes(message.data[4:8], "big")
                        lines.put(message.data[8 + length :].decode())

        def next_line(word: str) -> str:
            deadline = time.monotonic() + 120
            while word not in (line := lines.get(timeout=max(0.1, deadline - time.monotonic()))):
                assert time.monotonic() < deadline, f"no line with {word!r} within two minutes"
            return line

        listening = threading.Event()
        thread = threading.Thread(target=lambda: asyncio.run(listen()), daemon=True)
        thread.start()
        assert listening.wait(30)
        try:
            yield next_line
        finally:
            stop.set()
            thread.join(10)

    def interrupt(self) -> None:
        self.post("/interrupt", {})

    def forget(self) -> None:
        """Before the next prompt the server drops every cached result."""
        self.post("/free", {"free_memory": True})

    def probe(self, **settings: float) -> dict[str, int]:
        """Calls of each class of module so far, by its name; `delay` makes every layer of the prism that slow."""
        return self.post("/echoreel_probe", settings)

    def file(self, run: Run, suffix: str) -> Path:
        """The one file of a kind that a run's output nodes wrote."""
        entries = [entry for output in run.outputs.values() for kind in output.values() for entry in kind]
        (entry,) = (e for e in entries if isinstance(e, dict) and e["filename"].endswith(suffix))
        return self.base / entry["type"] / entry["subfolder"] / entry["filename"]


def _install(pack: Path, place: Path) -> None:
    """Links a pack into a ComfyUI; copies it where links need a privilege."""
    if place.exists():
        return
    try:
        place.symlink_to(pack, target_is_directory=True)
    except OSError:
        shutil.copytree(pack, place, ignore=shutil.ignore_patterns(".*", "tests", "__pycache__"))

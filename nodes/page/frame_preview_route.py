"""GET /echoreel/filmstrip: the frames that Load Reference Video takes with the values in the address.
GET /echoreel/overview: `count` pictures of the whole `file`.

Read one clip at a time, off the event loop. The page's own cache keeps what it was given: it asks again with a tag, and
where neither clip nor values have changed nothing is decoded.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from aiohttp import web
from comfy_api.latest import io

from ...echoreel_core.errors import EchoReelError
from ..clip_files import clip_stamp, input_path
from ..load_reference_video import LoadReferenceVideo
from .frame_preview import clip_overview, frame_preview

PATH, OVERVIEW_PATH = "/echoreel/filmstrip", "/echoreel/overview"
MOST = 64  # pictures of a whole clip
READER = ThreadPoolExecutor(1, "echoreel-filmstrip")  # starts its thread with the first clip
STARTED = uuid.uuid4().hex  # after an update, frames may be chosen or drawn in another way


class PageLeft(Exception):
    """Nobody waits for the answer any more."""


def register_routes() -> None:
    """Adds the route to the host's server, if there is one."""
    from server import PromptServer

    server = getattr(PromptServer, "instance", None)
    if server is not None:
        server.routes.get(PATH)(answer)
        server.routes.get(OVERVIEW_PATH)(answer_overview)


async def answer(request: web.Request) -> web.Response:
    """JSON from `frame_preview`, 304 if the page has it, 400 and {"error": a sentence} for what cannot be shown."""
    return await _answer(request, lambda step: frame_preview(widget_values(request.query), step))


async def answer_overview(request: web.Request) -> web.Response:
    """The same from `clip_overview`."""
    file, count = request.query.get("file", ""), request.query.get("count", "")
    most = min(int(count), MOST) if count.isdecimal() and len(count) < 9 else 0
    return await _answer(request, lambda step: clip_overview(file, most, step))


Make = Callable[[Callable[..., None]], dict[str, Any]]


async def _answer(request: web.Request, make: Make) -> web.Response:
    def step(*_: int) -> None:
        if request.transport is None:
            raise PageLeft

    def look() -> web.Response:
        step()
        tag = _tag(input_path(request.query.get("file", "")), request.query)
        headers = {"ETag": f'"{tag}"', "Cache-Control": "private, no-cache"}
        if any(known.value == tag for known in request.if_none_match or ()):
            return web.Response(status=304, headers=headers)
        return web.json_response(make(step), headers=headers)

    try:
        return await asyncio.get_running_loop().run_in_executor(READER, look)
    except EchoReelError as error:
        return web.json_response({"error": str(error)}, status=400)
    except PageLeft:
        return web.Response()


def widget_values(query: Mapping[str, str]) -> dict[str, Any]:
    """The node's widgets by name: what `query` says, else their defaults, within the limits of the node.

    Raises:
        EchoReelError: not a number, or one beyond the limits.
    """
    values: dict[str, Any] = {}
    for widget in LoadReferenceVideo.define_schema().inputs:
        if isinstance(widget, io.Int.Input | io.Float.Input):
            values[widget.id] = _number(widget, query.get(widget.id, widget.default))
        elif isinstance(widget, io.Combo.Input):
            values[widget.id] = query.get(widget.id, widget.default)
    return values


def _number(widget: io.Int.Input | io.Float.Input, text: str | float) -> float:
    kind = int if isinstance(widget, io.Int.Input) else float
    try:
        number = kind(text)
    except ValueError:
        number = math.nan
    if not widget.min <= number <= widget.max:
        what = "a whole number" if kind is int else "a number"
        name = widget.display_name or widget.id
        raise EchoReelError(f"{name!r} is {text!r}: use {what} from {widget.min} to {widget.max}.")
    return number


def _tag(path: str, query: Mapping[str, str]) -> str:
    facts = (STARTED, clip_stamp(path), sorted(query.items()))
    return hashlib.blake2b(repr(facts).encode(), digest_size=16).hexdigest()

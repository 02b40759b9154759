"""The player's address of an example clip: /view?filename=zigzag [echoreel].

The page makes this address from the name in the list, in half a dozen places, for a file in the input folder. Answering
it here shows the clip in all of them and leaves the user's folders alone.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from aiohttp import web

from ..clip_files import EXAMPLE, input_path

PATHS = ("/view", "/api/view")


@web.middleware
async def show_example(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Serves the example clips, and passes on every other request."""
    name = request.query.get("filename", "") if request.path in PATHS else ""
    if not name.endswith(EXAMPLE):
        return await handler(request)
    try:
        return web.FileResponse(input_path(name))
    except ValueError as error:
        return web.Response(status=404, text=str(error))


def register_routes() -> None:
    """Puts itself before the host's routes, if there is a server."""
    from server import PromptServer

    server = getattr(PromptServer, "instance", None)
    if server is not None:
        server.app.middlewares.append(show_example)

"""GET /echoreel/takes: the frames that the adapter in a file was made for, so that Load Reference Video can follow it.

Asked for by the widget of the node that loads it: ?adapter=… or ?checkpoint=…. No weights are read.
"""

from __future__ import annotations

import asyncio
import functools

import folder_paths
from aiohttp import web

from ...echoreel_core.action.adapter import AdapterConfig, read_adapter
from ...echoreel_core.errors import EchoReelError
from ...echoreel_core.lvdm.autoencoder import AutoencoderConfig
from ...echoreel_core.lvdm.checkpoint import load_released
from ...echoreel_core.pixel_actions.model.files import EMBEDDED_FILE
from ..clip_files import clip_stamp
from ..families import family_named
from ..load_echoreel import ADAPTER_FOLDER, EMBEDDED

PATH = "/echoreel/takes"


def register_routes() -> None:
    """Adds the route to the host's server, if there is one."""
    from server import PromptServer

    server = getattr(PromptServer, "instance", None)
    if server is not None:
        server.routes.get(PATH)(answer)


async def answer(request: web.Request) -> web.Response:
    """JSON: frames, and where they are known width and height, in pixels; {} where the file has no adapter in it."""
    return web.json_response(await asyncio.to_thread(taken_by, dict(request.query)))


def taken_by(asked: dict[str, str]) -> dict[str, int]:
    """The same for {"adapter": name} or {"checkpoint": name}."""
    if "adapter" in asked:
        path, read = folder_paths.get_full_path(ADAPTER_FOLDER, asked["adapter"]), _of_adapter
    elif asked.get("checkpoint") == EMBEDDED:
        path, read = str(EMBEDDED_FILE), _of_checkpoint
    else:
        path, read = folder_paths.get_full_path("checkpoints", asked.get("checkpoint", "")), _of_checkpoint
    return _read_once(read, path, tuple(clip_stamp(path))) if path else {}


@functools.lru_cache(64)
def _read_once(read, path: str, _stamp: tuple) -> dict[str, int]:
    try:
        return read(path)
    except EchoReelError:  # the node that loads the file says what is wrong with it
        return {}


def _of_adapter(path: str) -> dict[str, int]:
    config, _ = read_adapter(path)
    size = {side: config.training.get(side) for side in ("width", "height")}
    plain = all(isinstance(pixels, int) and 8 <= pixels <= 4096 for pixels in size.values())
    return {**_frames(config), **(size if plain else {})}


def _of_checkpoint(path: str) -> dict[str, int]:
    checkpoint = load_released(path)
    config = checkpoint.adapter_config
    if config is None:
        return {}
    height, width = config.prism.latent_size
    factor = AutoencoderConfig.from_state_dict(checkpoint.vae).factor if checkpoint.vae else 0
    return {**_frames(config), **({"width": width * factor, "height": height * factor} if factor else {})}


def _frames(config: AdapterConfig) -> dict[str, int]:
    per_latent = family_named(config.host).frames_per_latent
    return {"frames": round(1 + (config.prism.max_frames - 1) * per_latent)}

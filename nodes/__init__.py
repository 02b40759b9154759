"""The ComfyUI nodes: thin, and the only code of the pack that imports ComfyUI, the host."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from . import (
    action_prism_encode,
    apply_echoreel,
    combine_actions,
    compare,
    follow_motion,
    load_echoreel,
    load_reference_video,
    place_reference,
    preview_action,
    reference_library,
    save_adapter,
    save_load_action,
    train_echoreel,
)
from .page import adapter_route, example_route, frame_preview_route


class EchoReelExtension(ComfyExtension):
    """Registers the nodes."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        modules = (
            load_echoreel,
            load_reference_video,
            action_prism_encode,
            combine_actions,
            apply_echoreel,
            save_load_action,
            reference_library,
            train_echoreel,
            save_adapter,
            preview_action,
            compare,
            follow_motion,
            place_reference,
        )
        return [node for module in modules for node in module.NODES]


def register() -> EchoReelExtension:
    """Registers the pack's folders and its routes with the host and returns its nodes."""
    load_echoreel.register_folders()
    save_load_action.register_folders()
    reference_library.register_folders()
    frame_preview_route.register_routes()
    example_route.register_routes()
    adapter_route.register_routes()
    return EchoReelExtension()

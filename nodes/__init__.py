"""The ComfyUI nodes: thin, and the only code of the pack that imports the host."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from . import (
    action_files,
    action_prism_encode,
    apply_echoreel,
    combine_actions,
    compare,
    example_route,
    filmstrip_route,
    load_reference_video,
    loaders,
    preview_action,
    reference_library,
    train_echoreel,
)


class EchoReelExtension(ComfyExtension):
    """Registers the nodes."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        modules = (
            loaders,
            load_reference_video,
            action_prism_encode,
            combine_actions,
            apply_echoreel,
            action_files,
            reference_library,
            train_echoreel,
            preview_action,
            compare,
        )
        return [node for module in modules for node in module.NODES]


def register() -> EchoReelExtension:
    """Registers the pack's folders and its routes with the host and returns its nodes."""
    loaders.register_folders()
    action_files.register_folders()
    reference_library.register_folders()
    filmstrip_route.register_routes()
    example_route.register_routes()
    return EchoReelExtension()

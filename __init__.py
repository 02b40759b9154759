"""EchoReel for ComfyUI: show a video model a clip of an action, and it performs that action on your own subject."""

WEB_DIRECTORY = "./web"


def comfy_entrypoint():
    """The host's way in; nothing is imported before it is called."""
    from .nodes import register

    return register()


__all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]

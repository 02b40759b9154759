"""Where the pack and the ComfyUI that it is tested in are."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
COMFYUI = Path(os.environ.get("COMFYUI_PATH", Path.home() / "ComfyUI")).expanduser()

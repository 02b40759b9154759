"""Pixel Actions: a small procedural world in which EchoReel's claim can be measured exactly."""

from pathlib import Path

EMBEDDED_FILE = Path(__file__).parent / "pixel_actions.safetensors"
"""The embedded model, as it is shipped: a released all-in-one checkpoint in half precision."""

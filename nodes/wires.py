"""The pack's own wire types."""

from __future__ import annotations

from comfy_api.latest import io

EchoReelWire = io.Custom("ECHOREEL")
"""Carries a `LoadedAdapter`."""

ActionWire = io.Custom("ECHOREEL_ACTION")
"""Carries an `Action`."""

"""The one error that users meet, and grammar for its sentences."""


class EchoReelError(ValueError):
    """One sentence for the user: what is wrong, with which value, and what to do about it."""

    __module__ = "echoreel"  # ComfyUI shows it with the sentence; the real one holds a path of the server


def counted(number: int, noun: str) -> str:
    """The number with its noun: "1 frame", "2 frames"."""
    return f"{number:,} {noun}{'s' * (number != 1)}"

"""The one error that users meet."""


class EchoReelError(ValueError):
    """One sentence for the user: what is wrong, with which value, and what to do about it."""

"""Content hashes of files, remembered so that large ones are read once only."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from ...errors import EchoReelError
from ...files import whole_file


class Digests:
    """Content hashes by file, with the size and time of change at which they were taken.

    Args:
        path: of the file that remembers them; one that is damaged is begun anew. None for none.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self._known: dict[str, list] = {}
        if path is not None:
            try:
                known = json.loads(path.read_text(encoding="utf-8"))
            except (OSError, ValueError, RecursionError):
                known = {}
            if isinstance(known, dict):
                self._known = {name: entry for name, entry in known.items() if _is_entry(entry)}

    def of(self, path: Path) -> str:
        """The hash of a file's content. Raises: EchoReelError where it cannot be read."""
        try:
            stat = path.stat()
            stamp, name = [stat.st_size, stat.st_mtime_ns], str(path.resolve())
            if self._known.get(name, [])[:2] != stamp:
                self._known[name] = [*stamp, _hash(path)]
        except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
            raise EchoReelError(f"it cannot be read ({getattr(error, 'strerror', None) or error})") from None
        return self._known[name][2]

    def save(self) -> None:
        """Writes what is known to `path`."""
        with whole_file(self.path) as temporary:
            temporary.write_text(json.dumps(self._known), encoding="utf-8")


def _hash(path: Path) -> str:
    digest = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _is_entry(entry: object) -> bool:
    return isinstance(entry, list) and [type(part) for part in entry] == [int, int, str]

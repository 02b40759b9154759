"""Every room imports from rooms below it only, as ARCHITECTURE.md shows them."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

CORE = [
    "commands",
    "pixel_actions.wan",
    "pixel_actions.recipes",
    "pixel_actions.evaluation",
    "pixel_actions.model",
    "pixel_actions.world",
    "training.__main__",
    "training.lvdm",
    "training",
    "training.data",
    "lvdm",
    "guide",
    "action",
    "library",
    "video",
    "modules",
    "files",
    "progress",
    "errors",
]
"""From the top down."""

NODES = ["(nodes)", "page", "pictures", "training", "sampling", "models", "families", "wires"]

BOTH_WAYS = {("training", "training.data")}
"""Pairs of rooms that are one subject: the trainer's settings say how its data are framed."""


def imports(package: str) -> Iterator[tuple[Path, str, str]]:
    """(file, its module, a module it imports), names relative to `package`."""
    for path in (ROOT / package).rglob("*.py"):
        module = path.relative_to(ROOT / package).with_suffix("").parts
        own = module[:-1]
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.level:
                ups = node.level - 1
                if ups > len(own):
                    continue  # leads out of the package
                base = own[: len(own) - ups]
                names = [node.module] if node.module else [alias.name for alias in node.names]
                for name in names:
                    yield path, ".".join(module), ".".join((*base, *name.split(".")))


def room(module: str, rooms: list[str]) -> str | None:
    """The most particular of the rooms that a module is in."""
    found = [name for name in rooms if module == name or module.startswith(f"{name}.")]
    return max(found, key=len, default=None)


@pytest.mark.parametrize(("package", "rooms"), [("echoreel_core", CORE), ("nodes", NODES)], ids=["core", "nodes"])
def test_rooms_import_from_below_only(package, rooms):
    wrong = []
    for path, module, imported in imports(package):
        above = room(module, rooms) or ("(nodes)" if package == "nodes" and "." not in module else None)
        below = room(imported, rooms)
        if (
            above is None
            or below is None
            or above == below
            or (above, below) in BOTH_WAYS
            or (below, above) in BOTH_WAYS
        ):
            continue
        if rooms.index(below) < rooms.index(above):
            wrong.append(f"{path.relative_to(ROOT)} ({above}) imports {imported} ({below})")
    assert wrong == []


@pytest.mark.parametrize(("package", "rooms"), [("echoreel_core", CORE), ("nodes", NODES)], ids=["core", "nodes"])
def test_every_folder_is_a_room_that_says_what_it_is(package, rooms):
    for init in (ROOT / package).rglob("__init__.py"):
        name = ".".join(init.parent.relative_to(ROOT / package).parts)
        assert ast.get_docstring(ast.parse(init.read_text(encoding="utf-8"))), init
        assert not name or name == "pixel_actions" or name in rooms, f"{name} has no place in the order of rooms"


def test_the_core_knows_no_host():
    for path in (ROOT / "echoreel_core").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            hosts = [
                name
                for name in names
                if name.split(".")[0] in ("comfy", "comfy_api", "comfy_extras", "folder_paths", "nodes")
            ]
            assert not hosts, (path, hosts)

"""docs/model-families.md beside the table of families: what of the page follows from the code."""

from __future__ import annotations

from pathlib import Path

PAGE = Path(__file__).resolve().parents[2] / "docs" / "model-families.md"


def tables(page: str) -> list[list[list[str]]]:
    """The cells of each table on a page, row by row, without its head."""
    found, inside = [], False
    for line in page.splitlines():
        if not line.startswith("|"):
            inside = False
        elif not inside:
            found.append([])
            inside = True
        elif not line.startswith("| ---"):
            found[-1].append([cell.strip() for cell in line.strip("|").split("|")])
    return found


def problems(page: str, families) -> list[str]:
    """What the page's two tables say otherwise than the table of families, one line each; none where they agree."""
    summary, variants = tables(page)
    names = [f"`{family.name}`" for family in families]
    found = []
    if [row[0] for row in summary] != names:
        found.append(f"the first table has the rows {[row[0] for row in summary]}, the table of families {names}")
    if sorted({row[0] for row in variants}) != sorted(names):
        found.append(f"the second table has rows for {sorted({row[0] for row in variants})}, not for {sorted(names)}")
    rows = {row[0]: row[1:] for row in summary}
    for name, family in zip(names, families, strict=True):
        if name in rows:
            found += [f"{name}: {problem}" for problem in _row_problems(*rows[name], family)]
    return found


def _row_problems(title: str, fps: str, train: str, given: str, family) -> list[str]:
    found = []
    if title != family.title:
        found.append(f"is called {family.title!r}, not {title!r}")
    if fps.split(",")[0] != f"{family.fps:g}" or ("," in fps) != (family.fps_of is not None):
        variants = "" if family.fps_of is None else " and others by variant"
        found.append(f"was made for {family.fps:g} frames per second{variants}, not {fps!r}")
    if not train.startswith("yes") or ("except" in train) != (family.untrainable is not None):
        refused = "some models" if family.untrainable else "none"
        found.append(f"of it training refuses {refused}: {train!r} must begin with yes and say what is excepted")
    if (given == "nothing") != (family.clip_conditioning is None):
        found.append(f"is given {'something' if family.clip_conditioning else 'nothing'} of the clip, not {given!r}")
    return found


def frame_rates(page: str, name: str) -> set[float]:
    """The frame rates that the page gives for a family and its variants."""
    (cell,) = (row[2] for row in tables(page)[0] if row[0] == f"`{name}`")
    return {float(part.split()[-1]) for part in cell.split(",")}

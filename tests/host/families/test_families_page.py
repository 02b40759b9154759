"""docs/model-families.md says what the entries say, and nothing outside of nodes/families knows a family by name."""

import ast

import comfy.model_base
import pytest
from families_page import PAGE, frame_rates, problems
from places import ROOT
from tiny_families import CASES, build


def test_the_page_says_what_the_entries_say(pack):
    from echoreel_pack.nodes.families import FAMILIES

    assert problems(PAGE.read_text(encoding="utf-8"), FAMILIES) == []
    assert len({family.name for family in FAMILIES}) == len({family.title for family in FAMILIES}) == len(FAMILIES)


@pytest.mark.parametrize("name", CASES)
def test_a_variants_frame_rate_is_on_the_page(pack, name):
    from echoreel_pack.nodes.families import family_named

    tiny = build(name)
    if tiny is None:
        pytest.skip(f"this ComfyUI has no {name}")
    rate = family_named(tiny.family).frame_rate(tiny.model.model.diffusion_model)
    assert rate in frame_rates(PAGE.read_text(encoding="utf-8"), tiny.family)


def decisions(tree: ast.AST, names: set[str], classes: set[str]) -> list[int]:
    """The lines where something is decided by a family: `names` are of families, `classes` of the host's models.

    A comparison, a table or a match with a family's name in it, a comparison of something called "family", and any
    mention of one of the classes.
    """
    found = []
    for node in ast.walk(tree):
        parts: list[ast.AST] = []
        if isinstance(node, ast.Compare):
            parts = [node.left, *node.comparators]
            if not all(isinstance(op, (ast.Is, ast.IsNot)) for op in node.ops):
                found += [node.lineno for part in parts if (_last_name(part) or "") in ("family", "_family")]
        elif isinstance(node, ast.Dict):
            parts = [key for key in node.keys if key is not None]
        elif isinstance(node, (ast.Subscript, ast.MatchValue)):
            parts = [node.slice if isinstance(node, ast.Subscript) else node.value]
        elif isinstance(node, ast.Constant) and node.value in classes:
            found.append(node.lineno)
        found += [
            node.lineno
            for part in parts
            for constant in ast.walk(part)
            if isinstance(constant, ast.Constant) and constant.value in names
        ]
    return found


def _last_name(node: ast.AST) -> str | None:
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else None


def known(families) -> tuple[set[str], set[str]]:
    """Names of families, and of the host's model classes."""
    classes = {
        name
        for name, value in vars(comfy.model_base).items()
        if isinstance(value, type) and issubclass(value, comfy.model_base.BaseModel)
    }
    return {family.name for family in families}, classes


def test_nothing_else_knows_a_family_by_name(pack):
    from echoreel_pack.nodes.families import FAMILIES

    names, classes = known(FAMILIES)
    found = []
    for folder in ("nodes", "echoreel_core"):
        for path in (ROOT / folder).rglob("*.py"):
            if (ROOT / "nodes" / "families") not in path.parents:
                lines = decisions(ast.parse(path.read_text(encoding="utf-8")), names, classes)
                found += [f"{path.relative_to(ROOT)}:{line}" for line in lines]
    assert found == []


@pytest.mark.parametrize(
    "code",
    [
        'if family == "wan": pass',
        "if model.family in WITH_SOUND: pass",
        'if name in ("svd", "animatediff"): pass',
        'heads = {"lvdm": 8}.get(name, 16)',
        'heads = sizes["lvdm"]',
        'match name:\n  case "wan": pass',
        'TABLE = {"WAN21": 1}',
    ],
)
def test_what_counts_as_knowing_one(pack, code):
    from echoreel_pack.nodes.families import FAMILIES

    assert decisions(ast.parse(code), *known(FAMILIES))

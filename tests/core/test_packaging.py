"""What `comfy node pack` would publish, by its own rule: what git knows without what .comfyignore names."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
MOST_BYTES = 25 * 2**20
MAKING = tuple(
    f"echoreel_core/pixel_actions/{part}" for part in ("__main__.py", "recipes/", "evaluation/", "results/", "wan/")
)
"""How the embedded models are made and measured: in the repository only."""
SHOWN = ("docs/gallery/", "docs/brand/")
"""What the repository's page and the registry show: not in the archive either."""


def git(*arguments: str) -> list[str]:
    """The paths a git command lists. .comfyignore is written in git's own patterns, so git reads it."""
    done = subprocess.run(["git", *arguments, "-z"], cwd=ROOT, check=True, capture_output=True, text=True)
    return [path for path in done.stdout.split("\0") if path]


def left_out(path: str) -> bool:
    """Whether a file there would be kept out of git or of the archive."""
    command = ["git", "-c", "core.excludesFile=.comfyignore", "check-ignore", "--quiet", "--no-index", path]
    return subprocess.run(command, cwd=ROOT).returncode == 0


@pytest.fixture(scope="module")
def archive():
    """Paths in the archive."""
    if subprocess.run(["git", "rev-parse"], cwd=ROOT, capture_output=True).returncode:
        pytest.skip("this copy has no git history to tell what is published")
    return set(git("ls-files")) - set(git("ls-files", "--cached", "--ignored", "--exclude-from=.comfyignore"))


def test_it_is_small(archive):
    size = sum((ROOT / path).stat().st_size for path in archive)  # unpacked, which is more than packed
    assert size <= MOST_BYTES, f"{size / 2**20:.1f} MB"


def test_what_only_developers_need_stays_out(archive):
    inside = {path for path in archive if path.split("/")[0] in ("tests", "benchmarks", ".ci", ".github")}
    assert not inside
    assert not {path for path in archive if path.startswith(SHOWN)}
    for path in (
        "docs/gallery/new.webp",
        "tests/core/test_new.py",
        "benchmarks/new.py",
        MAKING[0],
        *(f"{folder}new.py" for folder in MAKING[1:]),
    ):
        assert left_out(path), path
    assert left_out("echoreel_core/pixel_actions/log.jsonl")


def test_what_users_need_is_in(archive):
    folders = ("nodes", "echoreel_core", "workflows", "web/docs", "locales/zh", "locales/ja", "locales/ko", "docs")
    for folder in folders:
        tracked = [path for path in git("ls-files", folder) if not path.startswith((*MAKING, *SHOWN))]
        assert tracked, folder
        assert set(tracked) <= archive, folder
    assert {
        "__init__.py",
        "train.py",
        "pyproject.toml",
        "requirements.txt",
        "node_list.json",
        "LICENSE",
        "README.md",
    } <= archive
    assert not left_out("echoreel_core/pixel_actions/model/pixel_actions.safetensors")


def test_the_registry_finds_what_it_asks_for():
    project, comfy = PROJECT["project"], PROJECT["tool"]["comfy"]
    assert all(part.isdigit() for part in project["version"].split(".")) and project["version"].count(".") == 2
    assert project["urls"]["Repository"].startswith("https://")
    assert project["description"] and comfy["PublisherId"] and comfy["DisplayName"]
    raw = "https://raw.githubusercontent.com/echoreel/comfyui-echoreel/main/"
    for picture in (comfy["Icon"], comfy["Banner"]):
        assert (ROOT / picture.removeprefix(raw)).is_file(), picture
    floor = comfy["requires-comfyui"].removeprefix(">=")
    assert floor.count(".") == 2, "with fewer parts the registry drops it"


def test_the_version_has_its_dated_place_in_the_changelog():
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    versions = re.findall(r"^## \[(\d+\.\d+\.\d+)\] - \d{4}-\d\d-\d\d$", changelog, re.MULTILINE)
    assert versions[0] == PROJECT["project"]["version"]
    assert all(f"[{version}]: https://" in changelog for version in versions)


def test_installing_brings_no_torch_and_pins_nothing():
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").split()
    assert lines == PROJECT["project"]["dependencies"]
    assert not [line for line in lines if line.startswith("torch") or "==" in line]
    assert not (ROOT / "install.py").exists()


def test_what_ships_does_not_import_what_stays_behind(archive, tmp_path):
    modules = [path for path in archive if path.startswith("echoreel_core/") and path.endswith(".py")]
    for path in modules:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes((ROOT / path).read_bytes())
    names = [path.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for path in sorted(modules)]
    names = [name for name in names if not name.endswith("__main__")]
    code = f"import importlib\nfor name in {names}: importlib.import_module(name)"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)

"""Build Reference Library, Find Reference Video."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.utils
import folder_paths
from comfy_api.latest import InputImpl, io, ui
from comfy_execution.graph_utils import ExecutionBlocker
from server import PromptServer

from ..echoreel_core.errors import EchoReelError
from ..echoreel_core.library.build import build_library, walk_clips
from ..echoreel_core.library.search import Hit, find_clips
from ..echoreel_core.library.tables import TABLE_SUFFIXES
from ..echoreel_core.pixel_actions.model.files import CLIPS as EXAMPLE_CLIPS
from .pictures.search_results import draw_hits
from .wires import LibraryWire

LIBRARY_FOLDER = "echoreel_libraries"
SUFFIX = ".sqlite"
INPUT = "input"
EXAMPLES = "EchoReel examples"  # the clips that come with the pack
BESIDE = "beside the table"
NOT_CONNECTED = object()


def register_folders() -> None:
    """Adds models/echoreel_libraries to the host's folders; a path from extra_model_paths.yaml stays first."""
    folder_paths.add_model_folder_path(LIBRARY_FOLDER, os.path.join(folder_paths.models_dir, LIBRARY_FOLDER))
    folder_paths.folder_names_and_paths[LIBRARY_FOLDER][1].add(SUFFIX)


class BuildReferenceLibrary(io.ComfyNode):
    """Captions of a folder or table, searchable."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        # Ids and order are frozen: saved workflows depend on them. New inputs go at the end and are optional.
        folders, tables = _sources()
        return io.Schema(
            node_id="EchoReelBuildReferenceLibrary",
            display_name="Build Reference Library",
            category="EchoReel",
            description=(
                "Indexes your clips by what happens in them, using their text files, their names and their folders' "
                "names, or a table of captions such as WebVid's. Run it again after you add clips: it reads only what "
                "changed. You can stop it at any time; it continues where it stopped. Nothing is downloaded."
            ),
            search_aliases=["index clips", "video database", "caption search", "webvid", "ucf-101"],
            is_output_node=True,
            hidden=[io.Hidden.unique_id],
            inputs=[
                io.Combo.Input(
                    "source",
                    options=folders + tables,
                    tooltip=(
                        "A folder of clips with its sub-folders, or a table of captions (csv, tsv, json, jsonl), in "
                        "ComfyUI's input folder or in models/echoreel_libraries; or the clips that come with EchoReel."
                    ),
                ),
                io.Combo.Input(
                    "clips",
                    options=[BESIDE, *folders],
                    default=BESIDE,
                    tooltip=(
                        "For a table: the folder with its clips. Captions whose clips are missing are kept, with the "
                        "link from the table. A folder of clips ignores this."
                    ),
                ),
                io.String.Input(
                    "name",
                    default="",
                    tooltip="Name of the library. If empty, it is named after the folder or table.",
                ),
            ],
            outputs=[
                LibraryWire.Output("library", tooltip="For Find Reference Video."),
                io.String.Output(
                    "info", tooltip=("How many captions there are, and how many have their clip on this disk.")
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, source: str | None, clips: str | None) -> bool | str:
        try:
            for place in (source, clips):
                if place is not None and place != BESIDE:
                    _source_path(place)
        except EchoReelError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, source: str | None = None, clips: str | None = None, name: str | None = None) -> list:
        """What a build would read, so that an unchanged library, and what follows it, does not run every time."""
        try:
            path = Path(_source_path(source))
            stat = path.stat()
            folder = path.parent if clips in (BESIDE, None) else Path(_source_path(clips))
            made = os.path.exists(_library_to_build(name or "", path))
        except (EchoReelError, OSError):
            return []
        if path.is_dir():
            return [made, hash(tuple(walk_clips(path)))]
        return [made, stat.st_mtime_ns, stat.st_size, hash(tuple(walk_clips(folder)))]

    @classmethod
    def execute(cls, source: str, clips: str, name: str) -> io.NodeOutput:
        path = _source_path(source)
        library = _library_to_build(name, path)
        bar = comfy.utils.ProgressBar(1)

        def progress(done: int, of: int) -> None:
            comfy.model_management.throw_exception_if_processing_interrupted()
            bar.update_absolute(done, of)

        report = build_library(library, path, None if clips == BESIDE else _source_path(clips), progress=progress)
        _show(cls, report.summary())
        return io.NodeOutput(library, report.summary())


class FindReferenceVideo(io.ComfyNode):
    """A clip of a library, by words."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="EchoReelFindReferenceVideo",
            display_name="Find Reference Video",
            category="EchoReel",
            description=(
                "Finds a clip by what happens in it and passes it, with its caption, to Load Reference Video. Shows "
                "the numbered matches, with a frame around the one in use. Clips on this disk come first; for the "
                "others, it shows caption and link."
            ),
            search_aliases=["search clips", "retrieve reference", "reference search", "echoreel video"],
            is_output_node=True,
            hidden=[io.Hidden.unique_id],
            inputs=[
                io.Combo.Input(
                    "library",
                    options=_libraries() or [""],  # with an empty list the page sends nothing, which the host refuses
                    tooltip="A library made by Build Reference Library. Press R to see a new one.",
                ),
                io.String.Input(
                    "query",
                    default="",
                    tooltip=(
                        "What happens in the clip: 'jumping', or 'a dog jumps over a fence'. Word endings do not "
                        "matter: 'jumps' also finds 'jumping'. Rare words count more than common words."
                    ),
                ),
                io.Int.Input(
                    "top_k",
                    display_name="hits",
                    default=5,
                    min=1,
                    max=25,
                    tooltip="How many of the best matches to choose from. Higher gives more variety.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=True,
                    tooltip=(
                        "Which match to use: 0 is the best, 1 the second best, and so on; after the last, it starts "
                        "again at the first. 'randomize' uses another match for every run."
                    ),
                ),
                LibraryWire.Input(
                    "built",
                    display_name="library",
                    optional=True,
                    tooltip=(
                        "From Build Reference Library. If connected, it is used instead of the library chosen above."
                    ),
                ),
            ],
            outputs=[
                io.Video.Output("video", tooltip="The clip. Connect it to Load Reference Video."),
                io.String.Output("caption", tooltip="Its caption. Connect it to Action Prism Encode."),
                io.String.Output("hits", tooltip="All matches, with captions, files and links."),
                io.Image.Output("strip", tooltip="All matches as a picture: one frame of each."),
            ],
        )

    @classmethod
    def validate_inputs(cls, library: str | None, built: Any = NOT_CONNECTED) -> bool | str:
        # A connected input arrives as None; one that is not connected does not arrive.
        if built is not NOT_CONNECTED or library is None:
            return True
        try:
            _library_path(library)
        except EchoReelError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, library: str | None = None, **_: Any) -> list[int]:
        try:
            stat = os.stat(_library_path(library))
        except (EchoReelError, OSError):
            return []
        return [stat.st_mtime_ns, stat.st_size]

    @classmethod
    def execute(cls, library: str, query: str, top_k: int, seed: int, built: str | None = None) -> io.NodeOutput:
        path = built or _library_path(library)
        name = os.path.basename(path)
        hits = find_clips(path, query, top_k)
        if not hits:
            raise EchoReelError(f"No caption in {name} matches {query!r}: try other words.")
        here = [hit for hit in hits if hit.path]
        if not all(_is_allowed(hit.path) for hit in here):
            raise EchoReelError(
                f"The clips of {name} are outside the folders that ComfyUI may read: add their folder as "
                f"{LIBRARY_FOLDER} in extra_model_paths.yaml."
            )
        chosen = here[seed % len(here)] if here else None
        bar = comfy.utils.ProgressBar(len(hits))

        def step() -> None:
            comfy.model_management.throw_exception_if_processing_interrupted()
            bar.update(1)

        strip, text = draw_hits(hits, chosen, step), _listed(hits, chosen)
        _show(cls, text)
        if chosen:
            video, caption = InputImpl.VideoFromFile(chosen.path), chosen.caption
        else:
            video = caption = ExecutionBlocker(
                f"No clip in {name} that matches {query!r} is on this disk: download one from its link, put it with "
                "the library's clips and build the library again, or try other words."
            )
        return io.NodeOutput(video, caption, text, strip, ui=ui.PreviewImage(strip, cls=cls))


def _listed(hits: list[Hit], chosen: Hit | None) -> str:
    """One line for each hit."""
    lines = []
    for number, hit in enumerate(hits, start=1):
        where = hit.file if hit.path else f"not on this disk{': ' * bool(hit.link)}{hit.link}"
        caption = " ".join(hit.caption.split())[:200]
        lines.append(f"{number}. {caption} ({where}){' ← in use' if hit is chosen else ''}")
    return "\n".join(lines)


def _show(node: type[io.ComfyNode], text: str) -> None:
    """Draws text on the node."""
    server = getattr(PromptServer, "instance", None)
    if server is not None:
        server.send_progress_text(text, node.hidden.unique_id)


def _roots() -> list[tuple[str, str]]:
    """(how it is called in the nodes, path) of each folder that libraries may be built from."""
    libraries = [(LIBRARY_FOLDER, path) for path in folder_paths.get_folder_paths(LIBRARY_FOLDER)]
    return [(INPUT, folder_paths.get_input_directory()), *libraries, (EXAMPLES, str(EXAMPLE_CLIPS))]


def _sources() -> tuple[list[str], list[str]]:
    """The folders and tables to choose from. Only the top level, because this is called often."""
    folders, tables = {INPUT, EXAMPLES}, set()
    for label, root in _roots():
        for entry in _entries(root):
            if entry.is_dir():
                folders.add(f"{label}/{entry.name}")
            elif entry.name.lower().endswith(TABLE_SUFFIXES):
                tables.add(f"{label}/{entry.name}")
    return sorted(folders), sorted(tables)


def _libraries() -> list[str]:
    folders = folder_paths.get_folder_paths(LIBRARY_FOLDER)
    return sorted({entry.name for folder in folders for entry in _entries(folder) if entry.name.endswith(SUFFIX)})


def _entries(folder: str) -> list[os.DirEntry]:
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if not entry.name.startswith(".")]
    except OSError:
        return []


def _source_path(source: str | None) -> str:
    """The path of a folder or table named as in the list, e.g. "input/ucf101"."""
    label, _, name = (source or "").replace("\\", "/").partition("/")
    roots = [os.path.realpath(path) for known, path in _roots() if known == label]
    if not roots:
        raise EchoReelError(
            f"{source!r} is outside the folders that ComfyUI may read: choose a folder or table in ComfyUI's input "
            f"folder or in models/{LIBRARY_FOLDER}."
        )
    for root in roots:
        path = os.path.realpath(os.path.join(root, name))
        if os.path.exists(path) and _lies_in(path, root):
            return path
    raise EchoReelError(f"There is no {source!r}: choose another folder or table.")


def _library_path(library: str | None) -> str:
    if not library:
        raise EchoReelError("No library is chosen: run Build Reference Library first, or connect it.")
    path = folder_paths.get_full_path(LIBRARY_FOLDER, library) if library.endswith(SUFFIX) else None
    if path is None:
        raise EchoReelError(f"There is no library {library!r} in models/{LIBRARY_FOLDER}: build it, or choose another.")
    return path


def _library_to_build(name: str, source: str | os.PathLike) -> str:
    """The path of the library with this name, or else with its source's name, whether it exists or not."""
    name = name.strip() or os.path.splitext(os.path.basename(source))[0]
    if name.startswith(".") or len(name) > 100 or re.search(r'[\\/:*?"<>|\x00-\x1f]', name):
        raise EchoReelError(f"A library cannot be called {name[:120]!r}: use letters, digits, spaces, - and _.")
    file = name.removesuffix(SUFFIX) + SUFFIX
    known = folder_paths.get_full_path(LIBRARY_FOLDER, file)
    return known or os.path.join(folder_paths.get_folder_paths(LIBRARY_FOLDER)[0], file)


def _is_allowed(path: str) -> bool:
    return any(_lies_in(path, os.path.realpath(root)) for _, root in _roots())


def _lies_in(path: str, folder: str) -> bool:
    return path == folder or path.startswith(os.path.join(folder, ""))


NODES = [BuildReferenceLibrary, FindReferenceVideo]

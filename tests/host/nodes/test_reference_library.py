"""Build Reference Library and Find Reference Video in the real host: folders, refusals, what is handed on."""

import asyncio
import os

import comfy.model_management
import comfy.utils
import pytest
import torch
from video_clips import numbers, write_clip

BUILD = (["source", "clips", "name"], ["library", "info"])
FIND = (["library", "query", "top_k", "seed", "built"], ["video", "caption", "hits", "strip"])


@pytest.fixture
def nodes_module(pack):
    import importlib

    return importlib.import_module("echoreel_pack.nodes.reference_library")


@pytest.fixture
def build(nodes_module):
    return nodes_module.BuildReferenceLibrary


@pytest.fixture
def find(nodes_module):
    return nodes_module.FindReferenceVideo


@pytest.fixture
def folder(tmp_path, nodes_module, monkeypatch):
    """Input and library folders of our own; in input/clips two jumps and one walk."""
    import folder_paths

    before = folder_paths.get_input_directory(), folder_paths.get_temp_directory()
    folder_paths.set_input_directory(str(tmp_path / "input"))
    folder_paths.set_temp_directory(str(tmp_path / "temp"))
    monkeypatch.setitem(
        folder_paths.folder_names_and_paths, "echoreel_libraries", ([str(tmp_path / "yaml")], {".sqlite"})
    )
    monkeypatch.setattr(folder_paths, "models_dir", str(tmp_path / "models"))
    nodes_module.register_folders()
    for name in ("clips/JumpRope/v_JumpRope_g01_c01.mp4", "clips/dog.mp4", "clips/walk.mp4"):
        path = tmp_path / "input" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_clip(path, 20)
    (tmp_path / "input" / "clips" / "dog.txt").write_text("A dog jumps over a fence")
    yield tmp_path
    folder_paths.set_input_directory(before[0])
    folder_paths.set_temp_directory(before[1])


def run_build(node, source="input/clips", clips="beside the table", name=""):
    return node.execute(source=source, clips=clips, name=name).args


def run_find(node, query="jumping", library="clips.sqlite", top_k=5, seed=0, **inputs):
    return node.execute(library=library, query=query, top_k=top_k, seed=seed, **inputs)


@pytest.mark.parametrize("name, ids", [("BuildReferenceLibrary", BUILD), ("FindReferenceVideo", FIND)])
def test_ids_and_their_order_are_what_saved_workflows_know(nodes_module, folder, name, ids):
    node = getattr(nodes_module, name)
    schema = node.define_schema()
    assert schema.node_id == f"EchoReel{name}"
    assert [i.id for i in schema.inputs] == ids[0]
    assert [o.id for o in schema.outputs] == ids[1]
    assert all(i.tooltip for i in schema.inputs) and all(o.tooltip for o in schema.outputs)
    assert node in nodes_module.NODES


def test_what_can_be_chosen(build, find, folder):
    for name in ("t.csv", "u.JSONL", "notes.txt", ".hidden.csv"):
        (folder / "input" / name).touch()
    (folder / "yaml" / "mine").mkdir(parents=True)
    (folder / "yaml" / "w.json").touch()
    source, clips, _ = build.define_schema().inputs
    folders = ["EchoReel examples", "echoreel_libraries/mine", "input", "input/clips"]
    assert source.options == [*folders, "echoreel_libraries/w.json", "input/t.csv", "input/u.JSONL"]
    assert clips.options == ["beside the table", *folders]
    assert find.define_schema().inputs[0].options == [""]  # which the page sends; from an empty list it sends none
    run_build(build)
    assert find.define_schema().inputs[0].options == ["clips.sqlite"]
    assert (folder / "yaml" / "clips.sqlite").exists()  # the user's own folder comes before models/


def test_the_packs_own_clips_are_a_source(build, find, folder):
    run_build(build, source="EchoReel examples", name="examples")
    video, caption, *_ = find.execute("examples.sqlite", "somersaults", 3, 0).result
    assert caption == "somersault"
    assert video.get_frame_count() == 16


def test_what_is_found_is_handed_on(build, find, folder, pack):
    library, info = run_build(build)
    assert "3 captions, 3 with a clip on this disk" in info
    output = run_find(find, built=library, library="")
    video, caption, hits, strip = output.args
    assert caption == "jump rope"
    assert video.get_stream_source() == str(folder / "input/clips/JumpRope/v_JumpRope_g01_c01.mp4")
    assert hits.splitlines()[0].endswith("(JumpRope/v_JumpRope_g01_c01.mp4) ← in use")
    assert "2. A dog jumps over a fence (dog.mp4)" in hits and len(hits.splitlines()) == 2
    assert strip.shape[0] == 1 and strip.shape[3] == 3 and strip.dtype == torch.float32
    assert 0 <= strip.min() and strip.max() <= 1
    saved = output.ui.as_dict()["images"][0]
    assert (folder / "temp" / saved["filename"]).exists()

    load = pack.nodes.load_reference_video.LoadReferenceVideo
    frames = load.execute("", 0.0, 0.0, 4, "every nth frame", 4, 8.0, 80, 48, "stretch", video=video).args[0]
    assert numbers(frames) == [0, 4, 8, 12]


def test_seed_and_top_k(build, find, folder):
    run_build(build)
    taken = [run_find(find, seed=seed).args[1] for seed in (0, 1, 2, 2**64 - 1)]
    assert taken == ["jump rope", "A dog jumps over a fence", "jump rope", "A dog jumps over a fence"]
    assert [run_find(find, seed=seed, top_k=1).args[1] for seed in (0, 1)] == ["jump rope"] * 2


def test_the_strip_shows_a_frame_of_each(build, find, folder, nodes_module):
    run_build(build)
    strip = run_find(find).args[3][0]
    height, width = strip.shape[:2]
    assert (width, height) == (2 * (256 + 8) + 8, 144 + 3 * 18 + 8 + 8)
    from echoreel_pack.nodes.pictures.search_results import GAP, HEIGHT, WIDTH

    # from the clip's middle, frame 10 of 0 to 19: bars 2 and 4 are white
    for left in (GAP, 2 * GAP + WIDTH):
        row = strip[GAP + HEIGHT // 2, left : left + WIDTH, 1]
        picture = row[8:-8]  # 80 x 48 in 256 x 144 leaves black bars
        bright = [float(picture[int((bar + 0.5) * 240 / 10)]) > 0.5 for bar in range(10)]
        assert bright == [bool(10 >> bar & 1) for bar in range(10)]


def test_a_damaged_clip_does_not_spoil_the_search(build, find, folder):
    (folder / "input" / "clips" / "dog.mp4").write_bytes(b"no video")
    run_build(build)
    video, caption, hits, _ = run_find(find).args
    assert caption == "jump rope" and "dog.mp4" in hits


def test_clips_that_are_not_here_are_shown_with_their_link(build, find, folder):
    from comfy_execution.graph_utils import ExecutionBlocker

    table = folder / "input" / "web.csv"
    table.write_text(
        "videoid,contentUrl,duration,page_dir,name\n"
        "7,https://example.org/7.mp4,PT1S,1_2,A cat swims\n8,https://example.org/8.mp4,PT1S,1_2,A man swims\n"
    )
    _, info = run_build(build, "input/web.csv", "input/clips")
    assert "2 captions, 0 with a clip" in info
    video, caption, hits, strip = run_find(find, "swimming", "web.sqlite").args
    assert isinstance(video, ExecutionBlocker) and isinstance(caption, ExecutionBlocker)
    assert "is on this disk: download one" in video.message and "\n" not in video.message
    assert "1. A cat swims (not on this disk: https://example.org/7.mp4)" in hits
    assert "in use" not in hits

    write_clip(folder / "input" / "clips" / "8.mp4", 5)
    run_build(build, "input/web.csv", "input/clips")
    video, caption, hits, _ = run_find(find, "swimming", "web.sqlite").args
    assert caption == "A man swims" and os.path.basename(video.get_stream_source()) == "8.mp4"
    assert hits.splitlines()[1] == "2. A cat swims (not on this disk: https://example.org/7.mp4)"


def test_where_sources_may_lie(build, folder):
    (folder / "outside").mkdir()
    write_clip(folder / "outside" / "secret.mp4", 3)
    (folder / "input" / "link").symlink_to(folder / "outside")
    (folder / "input2").mkdir()
    for source in ("", "clips", "input/none", "input/../outside", "input/../input2", "input/link", str(folder), "/"):
        for place in ({"source": source}, {"clips": source, "source": "input/clips"}):
            if place.get("clips") == "":
                continue
            verdict = build.validate_inputs(**{"clips": "beside the table", **place})
            assert isinstance(verdict, str) and verdict.endswith("."), place
        with pytest.raises(ValueError):
            run_build(build, source)
    assert build.validate_inputs(source="input", clips="input/clips") is True
    assert not list((folder / "models").rglob("*.sqlite"))


@pytest.mark.parametrize("name", ["../x", "a/b", "a\\b", ".x", "a\0b", 'a"b', "x" * 101])
def test_names_that_libraries_can_not_have(build, folder, name):
    with pytest.raises(ValueError, match="cannot be called"):
        run_build(build, name=name)
    assert not list(folder.rglob("*.sqlite"))


def test_a_library_may_have_a_name_of_its_own(build, find, folder):
    run_build(build, name=" my jumps ")
    assert run_find(find, library="my jumps.sqlite").args[1] == "jump rope"


def test_refusals_are_one_sentence(build, find, folder, monkeypatch):
    run_build(build)
    for inputs, words in [
        ({"library": ""}, "No library is chosen"),
        ({"library": "none.sqlite"}, "no library 'none.sqlite'"),
        ({"library": "../../input/clips"}, "no library"),
        ({"query": "zebra"}, "No caption in clips.sqlite matches 'zebra'"),
        ({"query": " * "}, "query has no words"),
    ]:
        with pytest.raises(ValueError, match=words) as error:
            run_find(find, **inputs)
        assert "\n" not in str(error.value)
    assert "No library is chosen" in find.validate_inputs(library="")
    assert find.validate_inputs(library="", built=None) is True
    import folder_paths

    folder_paths.set_input_directory(str(folder / "elsewhere"))
    with pytest.raises(ValueError, match=r"outside the folders.*echoreel_libraries in extra_model_paths"):
        run_find(find)


def test_interrupting_a_build_loses_nothing(build, find, folder, monkeypatch):
    monkeypatch.setattr("echoreel_pack.echoreel_core.library.build.FILES_BATCH", 1)
    shown = []

    def interrupt():
        if len(shown) == 4:
            raise comfy.model_management.InterruptProcessingException

    monkeypatch.setattr(comfy.model_management, "throw_exception_if_processing_interrupted", interrupt)
    monkeypatch.setattr(comfy.utils.ProgressBar, "update_absolute", lambda self, *step: shown.append(step))
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        run_build(build)
    with pytest.raises(ValueError, match="is incomplete"):
        run_find(find)
    monkeypatch.undo()


def test_the_host_refuses_before_running(build, find, folder, monkeypatch):
    import execution

    import nodes

    monkeypatch.setitem(nodes.NODE_CLASS_MAPPINGS, "EchoReelBuildReferenceLibrary", build)
    monkeypatch.setitem(nodes.NODE_CLASS_MAPPINGS, "EchoReelFindReferenceVideo", find)

    def verdict(source, library, built):
        prompt = {
            "1": {
                "class_type": "EchoReelBuildReferenceLibrary",
                "inputs": {"source": source, "clips": "beside the table", "name": ""},
            },
            "2": {
                "class_type": "EchoReelFindReferenceVideo",
                "inputs": {"library": library, "query": "jump", "top_k": 5, "seed": 0, **built},
            },
        }
        _, _, _, errors = asyncio.run(execution.validate_prompt("id", prompt, None))
        return errors

    assert verdict("input/clips", "", {"built": ["1", 0]}) == {}
    assert list(verdict("input/clips", "", {})) == ["2"]
    assert "1" in verdict("input/none", "", {"built": ["1", 0]})
    run_build(build)
    assert verdict("input/clips", "clips.sqlite", {}) == {}


def test_changes_are_noticed(build, find, folder):
    def marks():
        inputs = {"source": "input/clips", "clips": "beside the table", "name": ""}
        return build.fingerprint_inputs(**inputs), find.fingerprint_inputs(library="clips.sqlite")

    before = marks()
    run_build(build)
    built = marks()
    assert built[0] != before[0] and built[1] != before[1]
    assert marks() == built
    (folder / "input" / "clips" / "walk.txt").write_text("strolling")
    assert marks()[0] != built[0]
    run_build(build)
    assert marks()[1] != built[1]

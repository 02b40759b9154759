"""Load Reference Video in the page, in both of its renderers; see reference_video.mjs for what the user does.

Screenshots are kept in tests/output/web.
"""

import math
from urllib.parse import urlencode

import pytest
from PIL import Image
from video_clips import bars, write_clip, write_phone_clip

pytestmark = pytest.mark.heavy
RATE = 25
FRAME = 1 / RATE
PIXEL = 0.03  # seconds that a pixel of the line and a little more stands for


@pytest.fixture(scope="module", params=["classic", "nodes2"])
def report(request, browse, tmp_path_factory):
    """What the browser found: a first clip of 4 seconds uploaded, a second one of 3 dropped."""
    clips = tmp_path_factory.mktemp("clips")
    stills = [Image.fromarray(bars(i)) for i in range(20)]
    stills[0].save(clips / f"moving_{request.param}.gif", save_all=True, append_images=stills[1:], duration=100)
    sequence, folder = {"classic": ("walk", "jump"), "nodes2": ("swim", "fly")}[request.param]  # one server for both
    (clips / folder).mkdir()
    for index, still in enumerate(stills):
        still.save(clips / f"{sequence}_{index:02}.png")
        still.save(clips / folder / f"{index}.jpg")
    (clips / "notes.txt").write_text("no clip")
    prores = clips / f"prores_{request.param}.mov"
    write_clip(prores, 40, codec="prores_ks", pix_fmt="yuv422p10le", size=(320, 240))
    return browse(
        "reference_video.mjs",
        request.param,
        gif=str(clips / f"moving_{request.param}.gif"),
        pictures=[str(path) for path in sorted(clips.glob(f"{sequence}_*.png"))],
        sequence=sequence,
        folder=str(clips / folder),
        text=str(clips / "notes.txt"),
        prores=str(prores),
        phone=str(write_phone_clip(clips / f"IMG_{request.param}.MOV")),
        clip=str(write_clip(clips / f"first_{request.param}.mp4", 4 * RATE, size=(320, 240))),
        other=str(write_clip(clips / f"second_{request.param}.mp4", 3 * RATE, size=(320, 240))),
    )


def span(report, name, index=0):
    """(start, duration) of the widgets at a moment."""
    widgets = report["states"][name][index]["widgets"]
    return widgets["start"], widgets["duration"]


def test_nothing_goes_wrong_jumps_or_is_left_over(report):
    assert not report["problems"], "\n".join(report["problems"])
    assert all(node["connected"] for nodes in report["states"].values() for node in nodes)


def test_without_a_clip_it_says_what_to_do(report):
    (node,) = report["states"]["no clip"]
    assert node["says"].startswith("Choose a clip")
    assert (node["times"], node["span"], node["focusable"]) == ([], "", False)


def test_the_frames_shown_are_the_frames_that_will_be_taken(report, server):
    """Whenever frames are shown: those of the node's own reading for the widgets' values of that moment."""
    moments = [
        (name, node)
        for name, nodes in report["states"].items()
        for node in nodes
        if not node["says"] and name != "video connected, ran"
    ]
    assert len(moments) > 15
    known = {}
    for name, node in moments:
        query = urlencode(node["widgets"])
        strip = known[query] = known.get(query) or server.get(f"/echoreel/filmstrip?{query}")
        assert node["times"] == [f"{time:.2f}" for time in strip["times"]], name
        assert node["picture"] == strip["picture"], name
        assert node["repeats"] == strip["repeated"], name
        assert node["ticks"] == len(set(strip["times"])), name
        assert node["focusable"], name


def test_the_line_shows_the_whole_clip(report):
    shown = {name: node["thumbnails"] for name, (node, *_) in report["states"].items()}
    assert shown["uploaded"] >= 4 and shown["start dragged"] == shown["uploaded"]
    assert shown["no clip"] == shown["video connected"] == 0


def test_dragging_sets_start_and_duration(report):
    assert span(report, "uploaded") == (0, 0)
    start, duration = span(report, "start dragged")
    assert (start, duration) == (pytest.approx(1, abs=PIXEL), 0)
    same, duration = span(report, "end dragged")
    assert (same, duration) == (start, pytest.approx(3 - start, abs=PIXEL))
    earlier, same = span(report, "span dragged")
    assert (earlier, same) == (pytest.approx(start - 0.5, abs=PIXEL), pytest.approx(duration, abs=0.002))
    assert report["states"]["end dragged"][0]["times"] != report["states"]["start dragged"][0]["times"]


def test_keys_set_start_and_duration(report):
    before, length = span(report, "span dragged")
    start, duration = span(report, "start by keys")
    assert start * RATE == pytest.approx(math.floor(before * RATE + 0.5) + 2)  # whole frames
    assert start + duration == pytest.approx(before + length, abs=0.002)
    assert span(report, "span by keys") == (pytest.approx(start + 1), pytest.approx(duration, abs=0.002))
    assert span(report, "end by keys") == (pytest.approx(start + 1), 0)
    assert span(report, "back at the beginning") == (0, 0)


def test_a_start_counted_from_the_end_stays_so(report):
    (node,) = report["states"]["from the end"]
    assert node["span"] == "3.00 s to 4.00 s of 4.00 s"
    assert span(report, "end by key, from the end") == (-1, 1 - FRAME)


def test_what_comes_from_another_node_is_not_guessed(report):
    (node,) = report["states"]["video connected"]
    assert node["says"] == "“video” comes from another node: run the graph to see the frames taken."
    assert (node["span"], node["focusable"]) == ("", False)
    assert report["states"]["video disconnected"] == report["states"]["back at the beginning"]


def test_after_a_run_a_connected_video_is_shown_too(report, server):
    (node, _), (file, _) = report["states"]["video connected, ran"], report["states"]["removed and undone"]
    assert "/view?filename=echoreel_" in node["picture"]
    for known in ("times", "ticks", "span", "taken", "warns", "repeats"):
        assert node[known] == file[known], known


def test_whatever_is_dropped_anywhere_on_the_node_becomes_its_clip(report):
    states = report["states"]
    lengths = {"a GIF on the player": 2, "pictures on the frames": 20 / 24, "a folder on the title": 20 / 24}
    for name, length in {**lengths, "ProRes on the timeline": 1.6}.items():
        (node,) = states[name]
        assert not node["says"] and node["span"].endswith(f"of {length:.2f} s"), name
        assert len(node["times"]) == 16, name
    (node,) = states["a text on the timeline"]
    assert node["says"].startswith("notes.txt is not a clip. Take one of .apng, .avi,")
    assert node["widgets"] == states["a folder on the title"][0]["widgets"]


def test_the_player_plays_the_frames_taken_of_a_clip_that_browsers_cannot_play(report):
    numbers = [number for number, _ in report["played"]]
    assert numbers == [1 + (numbers[0] - 1 + index) % 16 for index in range(len(numbers))]
    assert all(number == marked for number, marked in report["played"])


def test_a_phones_clip_is_watched_whole_or_it_is_said_that_the_browser_cannot(report):
    """Without the codec a browser takes such a clip for sound alone."""
    (node,) = report["states"]["a phone clip on the player"]
    assert len(node["times"]) == 16 and not node["says"]
    assert report["whole"] == "180 x 320" or report["whole"].startswith("The browser cannot play this clip")


def test_what_is_taken_and_what_repeats_is_told(report):
    (many,), (whole,) = report["states"]["many frames"], report["states"]["uploaded"]
    assert many["warns"].startswith(f"The span ends too early: its last frame is repeated {many['repeats']} times.")
    assert many["repeats"] > 100
    assert (whole["taken"], whole["warns"]) == ("16 frames taken, 0.00 s to 2.44 s", "")


def test_what_cannot_be_taken_is_said_in_the_nodes_own_words(report):
    assert report["states"]["past the end"][0]["says"].startswith("The start, 99 s, is past the end of the video")


def test_undo_takes_back_a_whole_drag(report):
    states = report["states"]
    assert span(report, "before undo") == (0, pytest.approx(2, abs=PIXEL))
    assert states["undone"] == states["back at the beginning"]
    assert states["redone"] == states["before undo"]


def test_copied_dropped_on_saved_and_reopened_it_is_the_same(report):
    states = report["states"]
    assert states["pasted"] == states["before undo"] * 2
    dropped, other = states["another clip dropped"]
    assert dropped["widgets"]["file"].startswith("second_")
    assert dropped["span"].endswith("of 3.00 s")
    assert other == states["before undo"][0]
    assert states["reopened"] == states["another clip dropped"]


def test_removed_nodes_come_back_with_undo(report):
    assert [node["widgets"]["file"] for node in report["states"]["removed and undone"]] == [
        node["widgets"]["file"] for node in report["states"]["reopened"]
    ]

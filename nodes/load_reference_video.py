"""Load Reference Video: the frames of a short clip that shows the action."""

import os
from dataclasses import replace
from fractions import Fraction
from typing import Any

import comfy.model_management
import comfy.utils
import folder_paths
from comfy_api.latest import Input, InputImpl, io

from ..echoreel_core.errors import EchoReelError
from ..echoreel_core.pixel_actions.model.files import example_clips
from ..echoreel_core.video.frames import CROPS, FrameSelection, VideoFrames, read_video, select_images
from ..echoreel_core.video.kinds import VIDEO_SUFFIXES

SAMPLING = {"every nth frame": "every_nth", "spread evenly": "even", "fixed fps": "fps"}
EXAMPLE = " [echoreel]"  # as the host's " [output]": the clip is one that comes with the pack
NOT_CONNECTED = object()


class LoadReferenceVideo(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        # Ids and order are frozen: saved workflows depend on them. New inputs go at the end and are optional.
        return io.Schema(
            node_id="EchoReelLoadReferenceVideo",
            display_name="Load Reference Video",
            category="EchoReel",
            description=(
                "Takes a few frames from a clip that shows the action. Frames are chosen by display time, so clips "
                "with a variable frame rate (phones, screen recordings) keep their speed; only the chosen frames are "
                "decoded."
            ),
            search_aliases=["reference clip", "load video frames", "echoreel video"],
            inputs=[
                io.Combo.Input(
                    "file",
                    options=_videos(),
                    upload=io.UploadType.video,
                    extra_dict={"video_suffixes": list(VIDEO_SUFFIXES)},  # for the page
                    tooltip="The clip that shows the action. A text file of the same name beside it (clip.mp4,"
                    " clip.txt) becomes the caption.",
                ),
                io.Float.Input(
                    "start",
                    default=0.0,
                    min=-100000.0,
                    max=100000.0,
                    step=0.001,
                    tooltip="Where the action begins, in seconds. A negative number counts back from the end:"
                    " -2 means the last two seconds.",
                ),
                io.Float.Input(
                    "duration",
                    default=2.5,  # what the released EchoReel saw of a clip: 16 frames, every 4th of 25 a second
                    min=0.0,
                    max=100000.0,
                    step=0.001,
                    tooltip=(
                        "How long the action lasts, in seconds; what comes later is ignored. 0 means to the end of the"
                        " clip."
                    ),
                ),
                io.Int.Input(
                    "frame_count",
                    display_name="frames",
                    default=16,
                    min=1,
                    max=1024,
                    tooltip=(
                        "How many frames to take. More frames show the action for longer or in more detail, and take "
                        "longer to encode. The released EchoReel was trained on 16."
                    ),
                ),
                io.Combo.Input(
                    "sampling",
                    options=list(SAMPLING),
                    default="spread evenly",
                    tooltip=(
                        "Which frames to take. 'every nth frame': from the start, skipping frames in between, as the "
                        "released EchoReel was trained. 'spread evenly': over the whole span, including its first and "
                        "last frame. 'fixed fps': at a rate of your choice. If the span is too short, its last frame "
                        "is repeated."
                    ),
                ),
                io.Int.Input(
                    "every_nth",
                    default=4,
                    min=1,
                    max=1000,
                    tooltip=(
                        "For 'every nth frame': 4 takes frames 1, 5, 9, ... A higher number covers more time, so the "
                        "action looks faster."
                    ),
                ),
                io.Float.Input(
                    "target_fps",
                    display_name="fps",
                    default=8.0,
                    min=0.01,
                    max=240.0,
                    step=0.01,
                    tooltip=(
                        "For 'fixed fps': how many frames to take per second of the clip. Lower covers more time; "
                        "higher shows fast motion better."
                    ),
                ),
                io.Int.Input(
                    "width",
                    default=256,
                    min=8,
                    max=4096,
                    step=8,
                    advanced=True,
                    tooltip=(
                        "Width of the frames in pixels. The released EchoReel needs 256, whatever size you generate."
                    ),
                ),
                io.Int.Input(
                    "height",
                    default=256,
                    min=8,
                    max=4096,
                    step=8,
                    advanced=True,
                    tooltip=(
                        "Height of the frames in pixels. The released EchoReel needs 256, whatever size you generate."
                    ),
                ),
                io.Combo.Input(
                    "crop",
                    options=list(CROPS),
                    default="center",
                    tooltip=(
                        "How the clip is fitted to this size. 'stretch': distorts it to fit, as the released EchoReel "
                        "was trained. 'center': keeps its shape and crops the sides. 'pad': keeps its shape and adds "
                        "black bars."
                    ),
                ),
                io.Video.Input(
                    "video",
                    optional=True,
                    tooltip=(
                        "A video from another node. If connected, it is used instead of the file, including any trim "
                        "made there."
                    ),
                ),
            ],
            outputs=[
                io.Image.Output("frames", tooltip="The chosen frames. Connect them to Action Prism Encode."),
                io.Float.Output("fps", tooltip="The frame rate at which these frames play at the clip's speed."),
                io.String.Output(
                    "caption",
                    tooltip="What the clip shows: the text file beside it, else its title, else empty.",
                ),
                io.String.Output("info", tooltip="What was loaded, and at which times the frames were shown."),
            ],
        )

    @classmethod
    def validate_inputs(cls, file: str | None, video: Any = NOT_CONNECTED) -> bool | str:
        # A connected input arrives as None; one that is not connected does not arrive.
        if video is not NOT_CONNECTED or file is None:
            return True
        try:
            input_path(file)
        except EchoReelError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, file: str | None = None, **_: Any) -> list[tuple[int, int]]:
        try:
            path = input_path(file)
        except EchoReelError:
            return []
        stats = [os.stat(p) for p in (path, os.path.splitext(path)[0] + ".txt") if os.path.exists(p)]
        return [(stat.st_mtime_ns, stat.st_size) for stat in stats]

    @classmethod
    def execute(
        cls,
        file: str,
        start: float,
        duration: float,
        frame_count: int,
        sampling: str,
        every_nth: int,
        target_fps: float,
        width: int,
        height: int,
        crop: str,
        video: Input.Video | None = None,
    ) -> io.NodeOutput:
        choice = chosen_selection(start, duration, frame_count, sampling, every_nth, target_fps)
        bar = comfy.utils.ProgressBar(frame_count)

        def progress(done: int, _total: int) -> None:
            comfy.model_management.throw_exception_if_processing_interrupted()
            bar.update_absolute(done)

        shape = {"width": width, "height": height, "crop": crop, "progress": progress}
        taken = read_video(input_path(file), choice, **shape) if video is None else _from_host(video, choice, shape)
        # No ui: on a node with a video upload a preview image breaks the preview of the clip.
        return io.NodeOutput(taken.frames, taken.fps, taken.caption, taken.summary())


def chosen_selection(
    start: float, duration: float, frame_count: int, sampling: str, every_nth: int, target_fps: float
) -> FrameSelection:
    """What the node's widgets ask for. Raises: EchoReelError."""
    if sampling not in SAMPLING:
        raise EchoReelError(f"The sampling {sampling!r} is unknown: use one of {', '.join(SAMPLING)}.")
    return FrameSelection(frame_count, SAMPLING[sampling], every_nth, target_fps, start, duration)


def _from_host(video: Input.Video, selection: FrameSelection, shape: dict[str, Any]) -> VideoFrames:
    # Other kinds keep their frames in memory, and would be encoded, lossily, just to be a stream.
    if isinstance(video, InputImpl.VideoFromFile):
        trim = video.get_active_trim_window()
        return read_video(video.get_stream_source(), replace(selection, trim=trim), **shape)
    components = video.get_components()
    rate, count = Fraction(components.frame_rate), len(components.images)
    return select_images(components.images, [i / rate for i in range(count)], count / rate, selection, **shape)


def _videos() -> list[str]:
    folder = folder_paths.get_input_directory()
    files = [name for name in os.listdir(folder) if os.path.isfile(os.path.join(folder, name))]
    # The host goes by MIME types, of which some systems lack a few.
    videos = set(folder_paths.filter_files_content_types(files, ["video"]))
    videos.update(name for name in files if name.lower().endswith(VIDEO_SUFFIXES))
    return sorted(videos) + [name + EXAMPLE for name in example_clips()]


def input_path(file: str | None) -> str:
    """The path of a file named as in the host's upload widgets ("clip.mp4", "clip.mp4 [output]")."""
    if not file:
        raise EchoReelError("No video is chosen: choose or upload one, or connect a video.")
    if file.endswith(EXAMPLE):
        path = example_clips().get(file.removesuffix(EXAMPLE))
        if path is None:
            raise EchoReelError(
                f"There is no example {file.removesuffix(EXAMPLE)!r}: use one of {', '.join(example_clips())}."
            )
        return str(path)
    name, folder = folder_paths.annotated_filepath(file)
    folder = os.path.realpath(folder or folder_paths.get_input_directory())
    try:
        path = os.path.realpath(os.path.join(folder, name))
    except ValueError:  # a zero byte
        raise EchoReelError(f"{file!r} is not a file name: choose another video.") from None
    if not path.startswith(os.path.join(folder, "")):
        raise EchoReelError(f"{file!r} is outside ComfyUI's {os.path.basename(folder)} folder: move the video into it.")
    if not os.path.isfile(path):
        raise EchoReelError(f"There is no video {file!r} in the {os.path.basename(folder)} folder: choose another one.")
    return path


NODES = [LoadReferenceVideo]

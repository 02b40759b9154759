"""Load Reference Video: the frames of a short clip that shows the action."""

import hashlib
import json
import os
from dataclasses import replace
from fractions import Fraction
from typing import Any

import comfy.model_management
import comfy.utils
import folder_paths
from comfy_api.latest import Input, InputImpl, io
from torch import Tensor

from ..echoreel_core.errors import EchoReelError
from ..echoreel_core.files import whole_file
from ..echoreel_core.video.frames import CROPS, FrameSelection, VideoFrames, read_video, select_images, video_length
from ..echoreel_core.video.kinds import PICTURE_SUFFIXES, VIDEO_SUFFIXES
from .clip_files import clip_names, clip_stamp, input_path
from .pictures.filmstrip import facts, filmstrip

SAMPLING = {"every nth frame": "every_nth", "spread evenly": "even", "fixed fps": "fps"}
NOT_CONNECTED = object()
FILMSTRIP = "echoreel_filmstrip"
"""What a run tells the page, as JSON: `facts` of the frames, the address of their picture, what the widgets said."""


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
            search_aliases=[
                "reference video",
                "video reference",
                "reference clip",
                "motion reference",
                "driving video",
                "control video",
                "pose",
                "dance",
                "action",
                "animate",
                "v2v",
                "vid2vid",
                "video to video",
                "load video frames",
                "load gif",
                "image sequence",
                "echoreel video",
            ],
            inputs=[
                io.Combo.Input(
                    "file",
                    options=clip_names(),
                    upload=io.UploadType.video,
                    # for the page
                    extra_dict={"video_suffixes": list(VIDEO_SUFFIXES), "picture_suffixes": list(PICTURE_SUFFIXES)},
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
    def fingerprint_inputs(cls, file: str | None = None, **_: Any) -> list[tuple[str, int, int]]:
        try:
            path = input_path(file)
        except EchoReelError:
            return []
        return clip_stamp(path) + clip_stamp(os.path.splitext(path)[0] + ".txt")

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
        if video is None:
            path = input_path(file)
            taken, begin, length = read_video(path, choice, **shape), Fraction(0), video_length(path)
        else:
            taken, begin, length = _from_host(video, choice, shape)
        widgets = {"start": start, "duration": duration, "frame_count": frame_count, "sampling": sampling}
        widgets |= {"every_nth": every_nth, "target_fps": target_fps, "width": width, "height": height, "crop": crop}
        shown = facts(taken, begin, length, width / height)
        shown |= {"picture": _for_the_page(taken.frames), "widgets": {"file": file, **widgets}}
        ui = {FILMSTRIP: [json.dumps(shown)]}
        return io.NodeOutput(taken.frames, taken.fps, taken.caption, taken.summary(), ui=ui)


def chosen_selection(
    start: float, duration: float, frame_count: int, sampling: str, every_nth: int, target_fps: float
) -> FrameSelection:
    """What the node's widgets ask for. Raises: EchoReelError."""
    if sampling not in SAMPLING:
        raise EchoReelError(f"The sampling {sampling!r} is unknown: use one of {', '.join(SAMPLING)}.")
    return FrameSelection(frame_count, SAMPLING[sampling], every_nth, target_fps, start, duration)


def _from_host(
    video: Input.Video, selection: FrameSelection, shape: dict[str, Any]
) -> tuple[VideoFrames, Fraction, Fraction]:
    """The frames taken, and from when on and for how long the clip lasts after its trim, seconds."""
    # Other kinds keep their frames in memory, and would be encoded, lossily, just to be a stream.
    if isinstance(video, InputImpl.VideoFromFile):
        trimmed = replace(selection, trim=video.get_active_trim_window())
        taken = read_video(video.get_stream_source(), trimmed, **shape)
        begin, end = replace(trimmed, start=0.0, duration=0.0).span(video_length(video.get_stream_source()))
        return taken, begin, end - begin
    components = video.get_components()
    rate, count = Fraction(components.frame_rate), len(components.images)
    times = [i / rate for i in range(count)]
    return select_images(components.images, times, count / rate, selection, **shape), Fraction(0), count / rate


def _for_the_page(frames: Tensor) -> str:
    """The host's address of a picture of the frames, kept until ComfyUI ends."""
    picture = filmstrip(frames)
    name = f"echoreel_{hashlib.blake2b(picture, digest_size=16).hexdigest()}.jpg"
    with whole_file(os.path.join(folder_paths.get_temp_directory(), name)) as path:
        path.write_bytes(picture)
    return f"/view?filename={name}&type=temp"


NODES = [LoadReferenceVideo]

"""Reference clips: choose frames by presentation time, decode only those, resize them one by one."""

import os
from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import torch
import torch.nn.functional as F
from av import VideoFrame
from torch import Tensor

from ..errors import EchoReelError, counted
from ..progress import Progress
from .animated_webp import AnimatedWebP
from .captions import sidecar_caption
from .frame_choice import CROPS, FrameSelection
from .image_sequence import ImageSequence
from .kinds import is_animated_webp
from .picture import orientation, upright_rgb
from .reader import VideoFile
from .source import Source

__all__ = [
    "CROPS",
    "FrameSelection",
    "VideoFacts",
    "VideoFrames",
    "read_video",
    "select_images",
    "sidecar_caption",
    "video_length",
]


View = tuple[float, float, float, float]


@dataclass(frozen=True)
class VideoFacts:
    """The clip the frames come from. Width and height are as displayed, that is, after rotation."""

    name: str
    width: int
    height: int
    codec: str = ""
    rotation: int = 0
    mirrored: bool = False
    rate: Fraction | None = None
    variable_rate: bool = False


@dataclass(frozen=True)
class VideoFrames:
    """Frames taken from a clip.

    Attributes:
        frames: [T, height, width, 3], float32, 0 to 1.
        times: when each was shown, seconds since the clip's first frame.
        fps: frames per second at which `frames` play at the clip's speed.
        repeated: how many times the last frame was repeated because the span was too short.
        view: (left, top, width, height) of what a frame shows, as shares of the clip's picture; bars lie outside it.
        caption: text of the `.txt` file beside the clip, else the clip's title, else "".
    """

    frames: Tensor
    times: tuple[Fraction, ...]
    fps: float
    repeated: int
    caption: str
    source: VideoFacts
    view: View = (0.0, 0.0, 1.0, 1.0)

    def summary(self) -> str:
        """What was taken, in a few readable lines."""
        source, times = self.source, [f"{float(t):.3f}" for t in self.times]
        facts = [f"{source.width} x {source.height}", source.codec]
        if source.rate:
            facts.append(f"{float(source.rate):.4g} fps" + (" on average, variable" if source.variable_rate else ""))
        if source.rotation:
            facts.append(f"rotated by {source.rotation} degrees")
        if source.mirrored:
            facts.append("mirrored")
        taken = len(times) - self.repeated
        lines = [
            f"{source.name}: {', '.join(filter(None, facts))}",
            f"{counted(taken, 'frame')} taken, from {times[0]} s to {times[-1]} s, {self.fps:.4g} fps",
        ]
        if self.repeated:
            lines.append(f"The span is too short: its last frame is repeated {counted(self.repeated, 'time')}.")
        elif (held := len(set(times))) < taken:
            lines.append(f"The span holds only {counted(held, 'frame')}: some are taken more than once.")
        lines.append(f"Shown at (s): {' '.join(times[:taken])}")
        return "\n".join(lines)


def read_video(
    source: Source,
    selection: FrameSelection | None = None,
    *,
    width: int = 256,
    height: int = 256,
    crop: str = "stretch",
    progress: Progress | None = None,
) -> VideoFrames:
    """Take frames from a video file. Memory follows the frames taken and the size of one picture, not the clip.

    Args:
        source: path, or seekable binary file object, of anything PyAV opens; an animated WebP, or a folder with an
            image sequence, by path.
        selection: which frames; by default the authors' 16, every 4th from the start.
        width, height: size of the frames, pixels.
        crop: "stretch" (the authors' way), "center" (fill the frame, cut what sticks out) or "pad" (black bars).

    Raises:
        EchoReelError: one sentence saying what is wrong with the file or with what was asked of it.
    """
    selection = selection or FrameSelection()
    if (pictures := open_pictures(source)) is not None:
        with pictures:
            shape = {"width": width, "height": height, "crop": crop, "progress": progress}
            taken = select_images(pictures, pictures.times, pictures.end, selection, name=pictures.name, **shape)
        return replace(taken, caption=sidecar_caption(source))
    frames = _empty_frames(selection.frames, width, height, crop)
    done = 0

    def step() -> None:
        if progress is not None:
            progress(done, selection.frames)

    with VideoFile(source) as video:
        video.scan(selection, step)
        choice = selection.choose(video.times, video.end, video.rate)
        repeats = Counter(choice.times)
        wanted_times = sorted(repeats)
        times, facts = [], None
        for wanted, (shown, picture) in zip(wanted_times, video.pictures(wanted_times, step), strict=True):
            if facts is None:
                turned = orientation(picture)
            rgb = upright_rgb(picture, turned)
            aspect = 1 / video.pixel_aspect if turned[0] else video.pixel_aspect
            if facts is None:
                facts = _facts(video, picture, rgb, turned)
                view = _view(rgb, width, height, crop, float(aspect))
            frame = fit(rgb, width, height, crop, float(aspect))
            for _ in range(repeats[wanted]):
                frames[done] = frame
                times.append(shown)
                done += 1
            step()
        caption = sidecar_caption(source) or video.title
    return VideoFrames(frames, tuple(times), choice.fps, choice.repeated, caption, facts, view)


def video_length(source: Source) -> Fraction:
    """How long a video file lasts, in seconds from its first frame, without decoding it.

    Raises:
        EchoReelError: one sentence saying what is wrong with the file.
    """
    if (pictures := open_pictures(source)) is not None:
        with pictures:
            return pictures.end
    with VideoFile(source) as video:
        return video.length()


def select_images(
    images: Sequence[Tensor] | Tensor,
    times: Sequence[Fraction],
    end: Fraction,
    selection: FrameSelection | None = None,
    *,
    name: str = "the video",
    width: int = 256,
    height: int = 256,
    crop: str = "stretch",
    progress: Progress | None = None,
) -> VideoFrames:
    """The same choice among pictures that are already decoded, or that a sequence decodes when indexed.

    Args:
        images: [N, H, W, C], C ≥ 3, floats from 0 to 1 or bytes.
        times: when each is shown, seconds, ascending from 0.
        end: when the last one leaves the screen.

    Raises:
        EchoReelError: as in `read_video`.
    """
    selection = selection or FrameSelection()
    frames = _empty_frames(selection.frames, width, height, crop)
    if not len(images):
        raise EchoReelError(f"{name!r} has no frames: connect another video.")
    rate = len(images) / end
    choice = selection.choose(times, end, rate)
    for done, time in enumerate(choice.times):
        image = images[bisect_left(times, time)]
        frames[done] = fit(image[..., :3], width, height, crop)
        if progress is not None:
            progress(done + 1, selection.frames)
    facts = VideoFacts(name, image.shape[1], image.shape[0], rate=rate, variable_rate=_variable(times))
    view = _view(image, width, height, crop)
    return VideoFrames(frames, choice.times, choice.fps, choice.repeated, "", facts, view)


def fit(image: Tensor, width: int, height: int, crop: str = "stretch", pixel_aspect: float = 1.0) -> Tensor:
    """Resize one picture [H, W, 3] (bytes, or floats from 0 to 1) to float32 [height, width, 3], 0 to 1.

    Bilinear with antialiasing: exact fractional weights at any ratio, where area averaging gives neighbouring
    pixels unequal bins and enlarges into blocks, and no overshoot, which bicubic has.

    Args:
        pixel_aspect: width of a source pixel over its height; matters to "center" and "pad".
    """
    taken, given = _places(image, width, height, crop, pixel_aspect)
    top, left, keep_rows, keep_columns = taken
    image = image[top : top + keep_rows, left : left + keep_columns]
    top, left, inner_height, inner_width = given
    out = torch.zeros(height, width, 3)
    scale = 1 / 255 if image.dtype == torch.uint8 else 1
    for channel in range(3):  # one at a time: a whole 8k picture in float32 would take 400 MB
        plane = image[..., channel].float()[None, None]
        plane = F.interpolate(plane, (inner_height, inner_width), mode="bilinear", antialias=True)
        out[top : top + inner_height, left : left + inner_width, channel] = plane[0, 0] * scale
    return out.clamp_(0, 1)


_Box = tuple[int, int, int, int]


def _places(image: Tensor, width: int, height: int, crop: str, pixel_aspect: float) -> tuple[_Box, _Box]:
    """(top, left, height, width) of what is kept of a picture [H, W, C], and of where it comes to lie in the frame."""
    rows, columns = image.shape[:2]
    ratio = (columns * pixel_aspect / rows) / (width / height)  # above 1: the picture is the wider one
    kept, inner = (rows, columns), (height, width)
    if crop == "center":
        kept = max(round(rows * min(ratio, 1)), 1), max(round(columns / max(ratio, 1)), 1)
    elif crop == "pad":
        inner = max(round(height / max(ratio, 1)), 1), max(round(width * min(ratio, 1)), 1)
    return (
        ((rows - kept[0]) // 2, (columns - kept[1]) // 2, *kept),
        ((height - inner[0]) // 2, (width - inner[1]) // 2, *inner),
    )


def _view(image: Tensor, width: int, height: int, crop: str, pixel_aspect: float = 1.0) -> View:
    """See `VideoFrames`."""
    rows, columns = image.shape[:2]
    taken, given = _places(image, width, height, crop, pixel_aspect)
    across, down = taken[3] / columns / given[3], taken[2] / rows / given[2]  # for each pixel of a frame
    return taken[1] / columns - given[1] * across, taken[0] / rows - given[0] * down, width * across, height * down


def _empty_frames(count: int, width: int, height: int, crop: str) -> Tensor:
    if width < 1 or height < 1:
        raise EchoReelError(f"The frame size is {width} x {height}: both must be at least 1.")
    if crop not in CROPS:
        raise EchoReelError(f"The crop {crop!r} is unknown: use one of {', '.join(CROPS)}.")
    try:
        return torch.empty(count, height, width, 3)
    except RuntimeError:
        size = count * height * width * 12 / 2**30
        raise EchoReelError(
            f"{counted(count, 'frame')} of {width} x {height} pixels would take {size:.1f} GB, more memory than there "
            "is: take fewer or smaller frames."
        ) from None


def open_pictures(source: Source) -> AnimatedWebP | ImageSequence | None:
    """What is not read as a video file; to be used as a context manager."""
    if not isinstance(source, (str, os.PathLike)):
        return None
    if os.path.isdir(source):
        return ImageSequence(source)
    return AnimatedWebP(source) if is_animated_webp(source) else None


def _facts(video: VideoFile, picture: VideoFrame, rgb: Tensor, turned: tuple[bool, bool, bool]) -> VideoFacts:
    height, width = rgb.shape[:2]
    swapped, left, up = turned
    mirrored = swapped ^ left ^ up
    return VideoFacts(
        video.name,
        width,
        height,
        video.codec,
        rotation=0 if mirrored else picture.rotation,
        mirrored=mirrored,
        rate=video.rate,
        variable_rate=_variable(video.times),
    )


def _variable(times: Sequence[Fraction]) -> bool:
    """Whether the frames seen differ in how long they stay by more than the rounding of a container."""
    gaps = [b - a for a, b in zip(times, times[1:], strict=False)]
    return bool(gaps) and max(gaps) - min(gaps) > Fraction(1, 200)

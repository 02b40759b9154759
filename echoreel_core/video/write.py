"""Write frames as an mp4 video that plays everywhere."""

import os
from fractions import Fraction

import av
import torch
import torch.nn.functional as F
from av.video.reformatter import Colorspace
from torch import Tensor

from ..errors import EchoReelError
from ..files import valid_text, whole_file

ENCODERS = {"libx264": {"crf": "18"}, "libopenh264": {}, "mpeg4": {"qscale": "2"}}
BT709 = 1  # of ColorPrimaries, ColorTrc and Colorspace alike


def write_video(path: str | os.PathLike, frames: Tensor, fps: float | Fraction, *, title: str = "") -> None:
    """Write frames [T, H, W, 3], floats from 0 to 1, as H.264 (MPEG-4 part 2 where PyAV has no H.264 encoder).

    Odd widths and heights get one more column or row, a copy of the last: yuv420p needs even ones. The file appears
    under its name only when it is whole; an existing one is replaced.

    Raises:
        EchoReelError: frames of another shape, none, not finite; a rate that is none; a file that cannot be written.
    """
    if frames.ndim != 4 or frames.shape[-1] != 3 or 0 in frames.shape:
        raise EchoReelError(f"The frames have the shape {list(frames.shape)}: [frames, height, width, 3] is needed.")
    if not 0 < fps < float("inf"):
        raise EchoReelError(f"The frame rate is {fps} fps: use a number above 0.")
    rate = Fraction(fps).limit_denominator(1001)
    if not rate:
        raise EchoReelError(f"The frame rate is {fps} fps: use 0.001 or more.")
    path = os.fspath(path)
    try:
        with whole_file(path) as temporary:
            _encode(os.fspath(temporary), frames, rate, title)
    except (av.error.FFmpegError, OSError) as error:
        raise EchoReelError(
            f"The video {os.path.basename(path)!r} cannot be written ({error.strerror}): check the folder and the free "
            "space."
        ) from None


def _encode(path: str, frames: Tensor, rate: Fraction, title: str) -> None:
    _, height, width, _ = frames.shape
    encoder = next(name for name in ENCODERS if name in av.codecs_available)
    with av.open(path, "w", format="mp4", options={"movflags": "faststart"}) as container:
        if title:
            container.metadata["title"] = valid_text(title)
        stream = container.add_stream(encoder, rate=rate, options=ENCODERS[encoder])
        stream.width, stream.height, stream.pix_fmt = width + width % 2, height + height % 2, "yuv420p"
        context = stream.codec_context
        context.color_primaries = context.color_trc = context.colorspace = BT709
        for index, frame in enumerate(frames):
            if not torch.isfinite(frame).all():
                raise EchoReelError(
                    f"Frame {index} has NaN or infinite values, so the video was not written: check the VAE's "
                    "precision."
                )
            image = (frame.float().clamp(0, 1) * 255).round().movedim(-1, 0)
            image = F.pad(image[None], (0, width % 2, 0, height % 2), mode="replicate")[0]
            image = image.movedim(0, -1).to("cpu", torch.uint8).contiguous()
            picture = av.VideoFrame.from_ndarray(image.numpy(), format="rgb24")
            picture = picture.reformat(format="yuv420p", dst_colorspace=Colorspace.ITU709)
            picture.pts, picture.time_base = index, 1 / rate
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))

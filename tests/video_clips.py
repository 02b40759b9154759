"""Small synthetic clips whose pictures carry their own number, as ten black or white bars (its bits)."""

import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

BITS = 10
SIZE = (80, 48)  # width, height


def bars(index: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """[H, W, 3] bytes: the bits of `index`, lowest on the left."""
    width, height = size
    columns = np.arange(width) * BITS // width
    row = ((index >> columns) & 1).astype(np.uint8) * 255
    return np.tile(row[None, :, None], (height, 1, 3))


def numbers(frames) -> list[int]:
    """Read the numbers back from frames [T, H, W, 3]."""
    height, width = frames.shape[1:3]
    centres = [int((bit + 0.5) * width / BITS) for bit in range(BITS)]
    bits = (frames[:, height // 2, centres, 1] > 0.5).int().tolist()
    return [sum(bit << i for i, bit in enumerate(row)) for row in bits]


def read_back(path: Path) -> tuple[np.ndarray, dict]:
    """All frames [T, H, W, 3] of a video file, and what its stream says."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        facts = {"codec": stream.codec_context.name, "fps": stream.average_rate}
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]), facts


def write_clip(
    path: Path,
    count: int,
    *,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    rate: int = 25,
    milliseconds: list[int] | None = None,
    size: tuple[int, int] = SIZE,
    gop: int = 12,
    options: dict[str, str] | None = None,
    format: str | None = None,
    container_options: dict[str, str] | None = None,
    title: str | None = None,
    offset: float = 0.0,
    picture=bars,
) -> Path:
    """A clip of `count` frames at a constant `rate`, or with each frame shown at its own time.

    `offset` is the time, in seconds, the container gives to the first frame.
    """
    time_base = Fraction(1, 1000) if milliseconds else Fraction(1, rate)
    with av.open(str(path), "w", format=format, options=container_options or {}) as container:
        if title:
            container.metadata["title"] = title
        stream = container.add_stream(codec, rate=rate, options=options or {})
        stream.width, stream.height = size
        stream.pix_fmt = pix_fmt
        stream.gop_size = gop
        stream.codec_context.time_base = time_base
        for index in range(count):
            frame = av.VideoFrame.from_ndarray(picture(index, size), format="rgb24")
            frame.pts = (milliseconds[index] if milliseconds else index) + int(offset / time_base)
            frame.time_base = time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def write_long_clip(path: Path, minutes: float, *, size: tuple[int, int] = (1920, 1080), rate: int = 30) -> int:
    """An H.264 mp4 of `minutes`, in no time: one group of pictures, encoded once and repeated.

    Returns the length of that group: frame i shows the number i modulo it.
    """
    group = 240
    grain = np.random.default_rng(0).integers(0, 48, (size[1], size[0], 1), np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(
            "libx264", rate=rate, options={"preset": "veryfast", "x264-params": "ref=4:bframes=3"}
        )
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        stream.gop_size = group
        packets = []
        for index in range(group):
            image = bars(index, size) // 255 * 160 + np.roll(grain, index, 1)
            packets += stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24"))
        packets += stream.encode(None)
        packets = [(bytes(p), p.pts, p.dts, p.is_keyframe) for p in packets]
        for repeat in range(round(minutes * 60 * rate / group)):
            for data, pts, dts, is_keyframe in packets:
                packet = av.Packet(data)
                packet.stream, packet.time_base, packet.is_keyframe = stream, Fraction(1, rate), is_keyframe
                packet.pts, packet.dts = pts + repeat * group, dts + repeat * group
                container.mux(packet)
    return group


def write_sound(path: Path, cover: bool = False) -> Path:
    """A second of silence; with a cover picture if asked for."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("flac" if path.suffix == ".flac" else "aac", rate=44100)
        if cover:
            picture = container.add_stream("png", rate=1)
            picture.width, picture.height, picture.pix_fmt = *SIZE, "rgb24"
            picture.disposition = av.stream.Disposition.attached_pic
        frame = av.AudioFrame.from_ndarray(np.zeros((2, 44100), np.float32), format="fltp", layout="stereo")
        frame.sample_rate = 44100
        resampler = av.AudioResampler(format=stream.format, layout="stereo", rate=44100)
        packets = [p for f in resampler.resample(frame) for p in stream.encode(f)] + stream.encode(None)
        if cover:
            container.mux(picture.encode(av.VideoFrame.from_ndarray(bars(1), format="rgb24")))
        container.mux(packets)
    return path


def turn(path: Path, degrees: int) -> Path:
    """Mark an mp4 to be shown turned clockwise, as a phone does: in the matrix of its track header."""
    a, b, c, d = {0: (1, 0, 0, 1), 90: (0, 1, -1, 0), 180: (-1, 0, 0, -1), 270: (0, -1, 1, 0)}[degrees]
    data = bytearray(path.read_bytes())
    matrix = data.index(b"tkhd") + 4 + 40
    one, last = 1 << 16, 1 << 30
    struct.pack_into(">9i", data, matrix, a * one, b * one, 0, c * one, d * one, 0, 0, 0, last)
    path.write_bytes(data)
    return path


def write_phone_clip(path: Path, *, size: tuple[int, int] = (320, 180), seconds: int = 4) -> Path:
    """What a phone held upright films: stored lying and marked to be turned; HEVC of 10 bits, HLG and BT.2020; 30 to
    60 frames a second; with sound."""
    tags = "log-level=none:colorprim=bt2020:transfer=arib-std-b67:colormatrix=bt2020nc"
    ticks = np.cumsum([0, *np.random.default_rng(0).choice([10, 10, 20], 60 * seconds)])  # of 1/600 s
    with av.open(str(path), "w", format="mov") as container:
        video = container.add_stream("libx265", rate=60, options={"preset": "ultrafast", "x265-params": tags})
        video.width, video.height = size
        video.pix_fmt, video.codec_context.codec_tag = "yuv420p10le", "hvc1"
        video.codec_context.time_base = Fraction(1, 600)
        sound = container.add_stream("aac", rate=44100)
        for index, tick in enumerate(ticks[ticks < 600 * seconds].tolist()):
            picture = np.full((size[1], size[0], 3), 110, np.uint8)
            top = (3 * index) % (size[1] - 40)
            picture[top : top + 40, 100:140] = (200, 90, 40)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = tick, Fraction(1, 600)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        silence = av.AudioFrame.from_ndarray(np.zeros((2, 44100 * seconds), np.float32), format="fltp", layout="stereo")
        silence.sample_rate = 44100
        for frame in av.AudioResampler(format=sound.format, layout="stereo", rate=44100).resample(silence):
            container.mux(sound.encode(frame))
        container.mux(sound.encode(None))
    return turn(path, 90)


def cut_by_edit_list(path: Path, seconds: float) -> Path:
    """Cut off the beginning of an mp4 the way phones do: the frames stay, an edit list skips them."""
    with av.open(str(path)) as container:
        ticks = int(seconds / container.streams.video[0].time_base)
    data = bytearray(path.read_bytes())
    media_time = data.index(b"elst") + 4 + 4 + 4 + 4  # version and flags, entry count, duration
    (before,) = struct.unpack_from(">i", data, media_time)
    struct.pack_into(">i", data, media_time, before + ticks)
    path.write_bytes(data)
    return path


def damage(path: Path, number: int) -> Path:
    """Overwrite the `number`-th packet of the video."""
    with av.open(str(path)) as container:
        packet = [p for p in container.demux(video=0) if p.size][number]
        place, size = packet.pos, packet.size
    data = bytearray(path.read_bytes())
    data[place : place + size] = bytes(size)
    path.write_bytes(data)
    return path

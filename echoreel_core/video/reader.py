"""An opened video file: when its frames are shown, and the pictures shown at chosen times, with PyAV.

The time list comes from the packets, which costs reading but no decoding. Pictures are then decoded from the
nearest keyframe before each of them, so that the cost depends on what is taken and not on how long the clip is.
"""

import os
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import chain, islice
from typing import NamedTuple

import av
from av.video.frame import PictureType

from ..errors import EchoReelError
from .frame_choice import TOLERANCE, FrameSelection
from .source import Source, Step, WatchedFile
from .stretch import Shown, Stretch


class Key(NamedTuple):
    """A keyframe's packet."""

    time: Fraction
    pts: int
    dts: int | None
    size: int


# Packets come in decoding order; a frame is shown at most this many packets later (16 frames, as two fields each).
REORDER = 32
# A neighbour this close stands in for a frame that cannot be decoded (or for the second field of an interlaced one).
STAND_IN = Fraction(1, 20)
# Seconds no clip lasts: jumping there leads to its last packets.
NEVER = 10**6
# Packets passed over on the way to a keyframe, where only a look is taken.
MOST_PASSED = 600
# More decoding threads each hold frames of their own; beyond this they cost memory and win little after a seek.
THREADS = 4


class VideoFile:
    """Opens `source`, a path or a binary file object, for reading. Use as a context manager.

    Attributes:
        name: how to call it in messages.
        times: after `scan`, when each frame is shown: sorted seconds since the first.
        end: after `scan`, when the last frame seen leaves the screen, in seconds.
        rate: average frames per second by the container, or None.

    Raises:
        EchoReelError: no such file, no video, or nothing in it that can be decoded.
    """

    def __init__(self, source: Source) -> None:
        self._file = WatchedFile(source)
        self.name = self._file.name
        self._threads = min(THREADS, os.cpu_count() or 1)
        try:
            self._open()
        except BaseException:
            self._file.close()
            raise
        stream = self._stream
        self.rate = stream.average_rate or stream.guessed_rate or None
        # Raw streams have no times at all and AVI none that survive B-frames: there the n-th frame out is the n-th.
        self._by_order = self._container.format.name == "avi" and stream.codec_context.has_b_frames
        self.times: list[Fraction] = []
        self.end = Fraction(0)
        self._origin = 0  # pts of the first frame
        self._keys: list[Key] = []
        self._wanted = Fraction(0)

    def __enter__(self) -> "VideoFile":
        return self

    def __exit__(self, *_: object) -> None:
        self._close()
        self._file.close()

    @property
    def title(self) -> str:
        tags = {key.lower(): value for key, value in self._container.metadata.items()}
        return tags.get("title", "").strip()

    @property
    def codec(self) -> str:
        return self._stream.codec_context.codec.canonical_name

    @property
    def pixel_aspect(self) -> Fraction:
        """Width of a pixel over its height, before rotation."""
        return self._stream.sample_aspect_ratio or Fraction(1)

    def _open(self) -> None:
        self._file.restart()
        try:
            # Only this file: no URL and no other file that it names is opened.
            self._container = av.open(self._file, "r", options={"protocol_whitelist": ""})
        except (av.error.FFmpegError, OSError, ValueError):
            self._file.found()
            raise EchoReelError(
                f"{self.name!r} cannot be read as a video: it is not a video, or it is damaged or cut off."
            ) from None
        try:
            self._file.found()
            self._stream = self._pick_stream()
        except BaseException:
            self._container.close()
            raise

    def _close(self) -> None:
        # PyAV frees a decoder under the interpreter's lock, for which a decoding thread may wait to log something
        # (torchvision turns that logging on): let the threads finish first, without the lock.
        self._stream.codec_context.flush_buffers()
        self._container.close()

    def _pick_stream(self) -> av.VideoStream:
        streams = self._container.streams
        # The cover picture of a song is a video stream of one frame.
        videos = [s for s in streams.video if not s.disposition & av.stream.Disposition.attached_pic]
        if not videos:
            what = "only sound" if streams.audio else "no pictures"
            raise EchoReelError(f"{self.name!r} has {what}: choose a file with a video track.")
        stream = next((s for s in videos if s.disposition & av.stream.Disposition.default), videos[0])
        if stream.codec_context is None:
            raise EchoReelError(
                f"{self.name!r} uses a video codec that cannot be decoded here: convert it to H.264 (mp4)."
            )
        stream.thread_type = "AUTO"
        stream.codec_context.thread_count = self._threads
        return stream

    def scan(self, selection: FrameSelection, step: Step = lambda: None) -> None:
        """Read packets, as far as `selection` needs, into `times` and `end`. `step` is called now and then.

        Raises:
            EchoReelError: there are no frames.
        """
        self._file.step = step
        start, count, until = selection.reach()
        time_base, rate = self._stream.time_base, self.rate or Fraction(25)
        shown: list[int] = []  # pts, in decoding order
        keys: list[tuple[int, int | None, int]] = []  # (pts, dts, size)
        packets = inside = lasting = 0
        first = latest = None
        for packet in self._packets():
            packets += 1
            if packets % 256 == 0:
                step()
            pts = packet.pts if packet.pts is not None else packet.dts
            if pts is None:
                if not shown and count is not None and packets > start * rate + count + REORDER:
                    break
                continue
            if packet.is_keyframe:
                keys.append((pts, packet.dts, packet.size))
            # Pictures before the first keyframe cannot be decoded; those an edit list cuts off are not shown.
            if packet.is_discard or (keys and pts < keys[0][0]):
                continue
            shown.append(pts)
            if latest is None or pts > latest:
                latest, lasting = pts, packet.duration or 0
            first = pts if first is None else min(first, pts)
            inside += (pts - first) * time_base >= start
            if count is not None and inside >= count + REORDER:
                break
            if until is not None and packet.dts is not None and (packet.dts - first) * time_base > until + TOLERANCE:
                break

        if shown:
            self._origin = first
            self.times = [(pts - first) * time_base for pts in sorted(set(shown))]
            self.end = self.times[-1] + (lasting * time_base or 1 / rate)
            self._keys = [Key((key[0] - first) * time_base, *key) for key in sorted(keys, key=lambda key: key[0])]
        elif packets:
            self._by_order = True
            self.times = [i / rate for i in range(packets)]
            self.end = packets / rate
        else:
            raise EchoReelError(f"{self.name!r} has no frames: choose another video.")

    def length(self) -> Fraction:
        """How long the clip lasts, in seconds: told by its last packets where the container can jump to them (which
        may miss one frame where it has no index), else by all of them. What the container says of itself is wrong
        after an edit list or a late first frame.

        Raises:
            EchoReelError: there are no frames.
        """
        self.scan(FrameSelection(frames=1, every_nth=1))
        if not self._by_order and self._container.format.name != "mpeg":  # which miscounts its times after a jump
            try:
                self._container.seek(int(NEVER / self._stream.time_base), stream=self._stream)
                ends = [
                    (packet.pts - self._origin) * self._stream.time_base + self._lasting(packet)
                    for packet in self._packets()
                    if packet.pts is not None and not packet.is_discard
                ]
            except (av.error.FFmpegError, OSError):
                ends = []
            if ends and max(ends) >= self.end:
                return max(ends)
        self._close()
        self._open()
        self.scan(FrameSelection(start=-1))
        return self.end

    def _lasting(self, packet: av.Packet) -> Fraction:
        return (packet.duration or 0) * self._stream.time_base or 1 / (self.rate or Fraction(25))

    def pictures(self, times: Sequence[Fraction], step: Step = lambda: None) -> Iterator[Shown]:
        """The frames on screen at `times` (ascending, none twice), each with the time it was really shown from.

        `step` is called for each frame decoded; whatever it raises ends the reading.

        Raises:
            EchoReelError: a chosen frame cannot be decoded.
        """
        self._file.step = step
        run = None
        for wanted in times:
            self._wanted = wanted
            key = self._key_before(wanted)
            if run is None or (key is not None and run.position is not None and key.time > run.position):
                run = self._run(key, step)
            found = run.advance(wanted)
            if not self._stands_for(found, wanted):
                # Once more the plain way: with several threads an error also takes frames beside it.
                self._threads = 1
                run = self._run(None, step)
                found = run.advance(wanted)
            if found is None:
                raise EchoReelError(
                    f"No frame of {self.name!r} can be decoded, although it is a video: convert it to H.264 (mp4)."
                )
            if not self._stands_for(found, wanted):
                raise EchoReelError(
                    f"{self.name!r} is damaged at {float(wanted):.3f} s, where a frame is needed:"
                    " choose another start or duration, or export the clip again."
                )
            yield found

    def glance(self, time: Fraction) -> Shown | None:
        """The keyframe on screen at `time` or last before it, for the cost of decoding it alone; None where the
        container cannot jump there. Call `length` or `scan` first.
        """
        if self._by_order:
            return None
        context = self._stream.codec_context
        try:
            self._container.seek(self._origin + int(time / self._stream.time_base), stream=self._stream)
            near = islice(self._packets(), MOST_PASSED)  # without an index it lands anywhere
            packet = next((packet for packet in near if packet.is_keyframe), None)
            frames = [*packet.decode(), *context.decode(None)] if packet is not None else []
        except (av.error.FFmpegError, OSError):
            return None
        frame = next((frame for frame in frames if frame.pts is not None and not frame.is_corrupt), None)
        return frame and (max((frame.pts - self._origin) * self._stream.time_base, Fraction(0)), frame)

    def _stands_for(self, found: Shown | None, wanted: Fraction) -> bool:
        """Whether it is the frame wanted, or the one just before and as good as it."""
        before = self.times[max(bisect_left(self.times, wanted) - 1, 0)]
        return found is not None and found[0] >= before and wanted - found[0] <= STAND_IN

    def _key_before(self, time: Fraction) -> Key | None:
        """The last keyframe shown at or before `time`, unless decoding has to begin at the beginning."""
        if self._by_order:
            return None
        index = bisect_right(self._keys, time, key=lambda key: key.time) - 1
        return self._keys[index] if index > 0 else None

    def _run(self, key: Key | None, step: Step) -> Stretch:
        packets = self._seek(key) if key is not None else None
        if packets is None:
            self._close()
            self._open()
            packets = self._packets(flush=True)
        return Stretch(self._shown(packets), step)

    def _seek(self, key: Key) -> Iterator[av.Packet] | None:
        """Packets from exactly `key` on; None where the container cannot get there.

        A container without an index (MPEG-TS) lands anywhere, and some (MPEG-PS) then count their times wrongly:
        only what begins with the very packet the scan saw is believed, if need be from further back.
        """
        for back in (0, 1, 5):
            try:
                self._container.seek(key.pts - int(back / self._stream.time_base), stream=self._stream)
            except (av.error.FFmpegError, OSError):
                return None
            packets = self._packets(flush=True)
            for packet in packets:
                if (packet.pts, packet.size) == (key.pts, key.size):
                    return chain([packet], packets)
                if packet.dts is not None and packet.dts > (key.pts if key.dts is None else key.dts):
                    break
        return None

    def _packets(self, flush: bool = False) -> Iterator[av.Packet]:
        """Packets in decoding order, up to the end or to where the file breaks off; last an empty one if `flush`."""
        packets = self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets, None)
            except (av.error.FFmpegError, OSError):
                packet = None
            self._file.found()
            if packet is None or (not packet.size and packet.dts is None):
                break
            # AVI marks a dropped frame by an empty packet, which a decoder would take for the end; where a file
            # breaks off, what is left of the last packet is flagged as corrupt.
            if packet.size and not packet.is_corrupt:
                yield packet
        if flush:
            last = av.Packet()
            last.stream = self._stream
            yield last

    def _shown(self, packets: Iterator[av.Packet]) -> Iterator[Shown]:
        """Decode: frames in the order they are shown, each with its time. Passed over are packets that cannot be
        decoded, pictures with a hole that the decoder has filled by guessing, and those made from such pictures.

        Well before the frame wanted next, H.264 frames that no other frame refers to are left out. (In HEVC that
        flag only speaks for frames of the same temporal layer.)
        """
        context = self._stream.codec_context
        can_skip = not self._by_order and self.codec == "h264"
        ordered = iter(self.times) if self._by_order else None
        guessed = False
        for packet in packets:
            if can_skip and packet.pts is not None:
                far = (packet.pts - self._origin) * self._stream.time_base < self._wanted - STAND_IN
                context.skip_frame = "NONREF" if far else "DEFAULT"
            try:
                frames = packet.decode()
            except (av.error.FFmpegError, OSError):
                guessed = guessed or not packet.is_disposable
                continue
            for frame in frames:
                if ordered is not None:
                    time = next(ordered, None)
                    if time is None:
                        return
                elif frame.pts is not None:
                    time = (frame.pts - self._origin) * self._stream.time_base
                else:
                    continue
                guessed = guessed and not frame.key_frame
                if not (guessed or frame.is_corrupt):
                    yield time, frame
                elif frame.pict_type != PictureType.B:
                    guessed = True

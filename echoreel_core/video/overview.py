"""A look at a whole clip, at little cost however long it is: keyframes near evenly spaced times."""

from fractions import Fraction

from torch import Tensor

from ..progress import Progress
from .frames import fit, open_pictures
from .picture import orientation, upright_rgb
from .reader import VideoFile
from .source import Source


def overview(
    source: Source, count: int, *, width: int, height: int, progress: Progress | None = None
) -> list[tuple[Fraction, Tensor]]:
    """Up to `count` pictures of a clip, ascending: when each is shown, seconds, and [height, width, 3], 0 to 1.

    One picture is decoded for each, the keyframe before its time, so there are fewer where keyframes are rare, and
    none in a file that cannot be jumped in.

    Args:
        width, height: of the pictures, in pixels; they fill it, and what sticks out is cut.

    Raises:
        EchoReelError: one sentence saying what is wrong with the file.
    """
    step = progress or (lambda *_: None)
    if (pictures := open_pictures(source)) is not None:
        with pictures:
            chosen = sorted({i * len(pictures) // count for i in range(count)})
            return [(pictures.times[i], fit(pictures[i][..., :3], width, height, "center")) for i in chosen]
    found = []
    with VideoFile(source) as video:
        length = video.length()
        for done in range(count):
            step(done, count)
            glance = video.glance(length * done / count)
            if glance is None or (found and glance[0] <= found[-1][0]):
                continue
            time, picture = glance
            turned = orientation(picture)
            aspect = 1 / video.pixel_aspect if turned[0] else video.pixel_aspect
            found.append((time, fit(upright_rgb(picture, turned), width, height, "center", float(aspect))))
    return found

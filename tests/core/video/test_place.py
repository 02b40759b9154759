import pytest
import torch

from echoreel_core.video.place import BLURRED, LOOP, ONCE, THERE_AND_BACK, Placement, frames_at, moving_parts, place


def clip(frames: int = 9) -> torch.Tensor:
    """A bright square of 6 by 6 goes from x = 4 to 20 at y = 10 … 16, over grey, 40 by 40."""
    out = torch.full((frames, 40, 40, 3), 0.3)
    for i in range(frames):
        left = 4 + round(16 * i / (frames - 1))
        out[i, 10:16, left : left + 6] = torch.tensor([0.9, 0.7, 0.8])
    return out


def box(frame: torch.Tensor) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of the bright square."""
    bright = (frame.mean(-1) > 0.55).nonzero()
    (top, left), (bottom, right) = bright.amin(0).tolist(), bright.amax(0).tolist()
    return left, top, right + 1, bottom + 1


def test_nothing_asked_is_nothing_changed():
    assert torch.equal(place(clip(), Placement()), clip())


def test_it_moves_by_shares_of_the_picture():
    moved = place(clip(), Placement(move=(0.25, 0.5)))
    for before, after in zip(clip(), moved, strict=True):
        assert box(after) == tuple(a + b for a, b in zip(box(before), (10, 20, 10, 20), strict=True))
    assert (moved[0, :10, :5] - 0.3).abs().max() < 0.05  # where the picture was, its blurred ground


def test_it_mirrors_the_way_within_its_own_half():
    mirrored = place(clip(), Placement(mirror=True))
    for before, after in zip(clip(), mirrored, strict=True):
        left, top, right, bottom = box(before)
        assert box(after) == (40 - right, top, 40 - left, bottom)


def test_it_scales_about_the_middle_of_the_way():
    small = place(clip(), Placement(scale=0.5))
    left, top, right, bottom = box(small[0])
    assert 2 <= right - left <= 4 and 2 <= bottom - top <= 4  # its own 6 by 6, with edges between pixels
    way = [(box(frame)[0] + box(frame)[2]) / 2 for frame in small]
    assert way[-1] - way[0] == pytest.approx(8, abs=1)
    assert (way[0] + way[-1]) / 2 == pytest.approx(15, abs=1)


def test_cropped_the_whole_way_fills_the_picture():
    cropped = place(clip(), Placement(crop=True))
    assert box(cropped[0])[0] <= 2 and box(cropped[-1])[2] >= 38
    assert box(cropped[4])[1] > 0


def test_the_background_goes_and_the_one_to_follow_stays():
    frames = clip()
    frames[:, 30:36, 30:36] = torch.arange(9).view(9, 1, 1, 1) / 8  # another one, who flickers
    subject = moving_parts(clip())
    alone = place(frames, Placement(background=BLURRED), subject)
    assert (alone[:, 11:15] - frames[:, 11:15]).abs().mean() < 0.02
    assert alone[:, 28:, 28:].std(0).max() < 1e-5  # nothing of the other


@pytest.mark.parametrize(
    ("speed", "repeat", "expected"),
    [
        (1, ONCE, [0, 1, 2, 3, 4]),
        (2, ONCE, [0, 2, 4, 4, 4]),
        (0.5, ONCE, [0, 0, 1, 2, 2]),
        (2, LOOP, [0, 2, 4, 1, 3]),
        (2, THERE_AND_BACK, [0, 2, 4, 2, 0]),
        (-1, ONCE, [4, 3, 2, 1, 0]),
    ],
)
def test_which_frame_is_when(speed, repeat, expected):
    assert frames_at(5, speed, repeat).tolist() == expected


def test_a_single_frame_and_a_still_clip():
    assert place(clip()[:1], Placement(move=(0.1, 0), repeat=THERE_AND_BACK)).shape == (1, 40, 40, 3)
    still = clip()[:1].repeat(5, 1, 1, 1)
    assert torch.isfinite(place(still, Placement(crop=True, scale=0.5, background=BLURRED))).all()

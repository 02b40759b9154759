"""Compare: clips of any size and length side by side, never stretched, the shorter ones standing still at their end."""

import comfy.model_management
import pytest
import torch


def clip(frames: int, height: int, width: int, shade: float = 0.5) -> torch.Tensor:
    """Frame t is of the colour (shade, t / 10, 1 - shade) all over."""
    out = torch.full((frames, height, width, 3), shade)
    out[..., 1] = torch.arange(frames)[:, None, None] / 10
    out[..., 2] = 1 - shade
    return out


def compare(*clips, labels="", layout="a video, side by side", height=32, **more):
    from echoreel_pack.nodes.compare import Compare

    named = {f"clip_{i}": clip for i, clip in enumerate(clips)}
    return Compare.execute(clips=named, labels=labels, layout=layout, height=height, **more).result[0]


def columns_of(frame, shade):
    """The columns (first, one behind the last) and rows in which a clip is drawn."""
    drawn = (frame[..., 0] - shade).abs() + (frame[..., 2] - (1 - shade)).abs() < 0.01
    y, x = drawn.nonzero().unbind(1)
    assert drawn[y.min() : y.max() + 1, x.min() : x.max() + 1].all()
    return (x.min().item(), x.max().item() + 1), (y.min().item(), y.max().item() + 1)


def test_side_by_side_each_in_its_own_proportions(pack):
    wide, tall, square = clip(3, 20, 40, 0.9), clip(3, 60, 30, 0.6), clip(3, 16, 16, 0.3)
    frames = compare(wide, tall, square)
    assert frames.shape == (3, 32, 3 * 64 + 2 * 4, 3)
    assert columns_of(frames[0], 0.9) == ((0, 64), (0, 32))
    assert columns_of(frames[0], 0.6) == ((68 + 24, 68 + 40), (0, 32))
    assert columns_of(frames[0], 0.3) == ((136 + 16, 136 + 48), (0, 32))
    assert not frames[0, :, 68:92].any()  # the bar is black


def test_a_shorter_clip_holds_its_last_frame(pack):
    frames = compare(clip(5, 8, 8, 0.9), clip(2, 8, 8, 0.6), clip(1, 8, 8, 0.3))
    middle = [frames[:, 16, 16 + i * 36, 1] for i in range(3)]
    assert torch.allclose(middle[0], torch.tensor([0.0, 0.1, 0.2, 0.3, 0.4]))
    assert torch.allclose(middle[1], torch.tensor([0.0, 0.1, 0.1, 0.1, 0.1]))
    assert not middle[2].any()


def test_a_clip_itself_is_unchanged(pack):
    exact = torch.rand(4, 32, 48, 4)
    given = exact.clone()
    frames = compare(exact, exact)
    assert torch.equal(frames[:, :, :48], exact[..., :3]) and torch.equal(frames[:, :, 52:], exact[..., :3])
    assert torch.equal(exact, given)


def test_one_picture_has_a_row_for_each_and_moments_from_beginning_to_end(pack):
    picture = compare(
        clip(9, 16, 16, 0.9), clip(5, 16, 16, 0.6), layout="one picture, a row for each", moments=3, height=16
    )
    assert picture.shape == (1, 2 * 16 + 4, 3 * 16 + 2 * 4, 3)
    green = picture[0, [8, 28]][:, [8, 28, 48], 1]
    assert torch.allclose(green, torch.tensor([[0.0, 0.4, 0.8], [0.0, 0.4, 0.4]]))
    assert compare(clip(2, 16, 16), clip(2, 16, 16), layout="one picture, a row for each").shape[2] == 2 * 32 + 4


def test_labels_stand_above_their_clips(pack):
    """The second is given no name; letters are brighter than what they stand on, and stay within their clip's width."""
    frames = compare(*[clip(2, 40, 40, 0.0)] * 3, labels="reference\n\nwith a very, very long name", height=100)
    bar = frames.shape[1] - 100
    lit = frames[0, :bar, :, 0] > 0.5
    over = [lit[:, i * 104 : i * 104 + 100] for i in range(3)]
    assert over[0].any() and over[2].any() and not over[1].any()
    assert not any(part[:, [0, 1, -2, -1]].any() for part in over)  # nothing is cut off
    assert torch.equal(frames[0, :bar], frames[1, :bar])
    assert over[0].sum(0).nonzero().numel() != over[2].sum(0).nonzero().numel()


def test_a_name_stays_with_its_socket(pack):
    from echoreel_pack.nodes.compare import Compare

    clips = {"clip_0": clip(1, 40, 40), "clip_1": None, "clip_2": clip(1, 40, 40)}
    options = {"layout": "a video, side by side", "height": 100}
    gap = Compare.execute(clips=clips, labels="a\nb\nc", **options).result[0]
    assert torch.equal(gap, compare(clips["clip_0"], clips["clip_2"], labels="a\nc", height=100))


@pytest.mark.parametrize("height", [33, 101, 320])
def test_sizes_are_even_as_video_codecs_want_them(pack, height):
    frames = compare(clip(1, 30, 47), clip(1, 50, 31), labels="a\nb", height=height)
    assert frames.shape[1] % 2 == frames.shape[2] % 2 == 0


def test_a_video_is_compared_like_its_frames(pack):
    from fractions import Fraction

    from comfy_api.latest import InputImpl, Types

    frames = clip(3, 16, 16)
    video = InputImpl.VideoFromComponents(Types.VideoComponents(images=frames, audio=None, frame_rate=Fraction(8)))
    assert torch.equal(compare(video, frames), compare(frames, frames))


def test_an_interrupt_stops_it(pack):
    comfy.model_management.interrupt_current_processing(True)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        compare(clip(2, 8, 8), clip(2, 8, 8))


def test_what_can_not_be_compared(pack):
    with pytest.raises(ValueError, match="has no frames"):
        compare(clip(0, 8, 8), clip(1, 8, 8))
    with pytest.raises(ValueError, match="at least two"):
        compare(None, None)
    with pytest.raises(ValueError, match="GB, more memory than there is"):
        compare(torch.zeros(1, 1, 1, 3).expand(10**6, 8, 4000, 3), clip(1, 8, 8), height=4096)

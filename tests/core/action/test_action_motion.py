"""Where and when an action's features change: a prism watches something move in one corner."""

import pytest
import torch

from echoreel_core.action.motion import action_motion
from echoreel_core.action.prism import ActionPrism, ActionPrismConfig

FRAMES, GRID, PATCH = 8, (4, 6), 2
CORNERS = {"top left": (0, 0), "top right": (0, 4), "bottom left": (2, 0), "bottom right": (2, 4)}


@pytest.fixture(scope="module")
def watch():
    """The motion that a prism finds in latents [1, 4, T, 8, 12]."""
    torch.manual_seed(0)
    sizes = {"text_width": 8, "context_width": 8, "width": 48, "depth": 2, "heads": 2, "head_dim": 24}
    prism = ActionPrism(ActionPrismConfig(grid=GRID, patch=PATCH, out_channels=5, **sizes))
    text = torch.randn(1, 7, 8)
    with torch.inference_mode():
        yield lambda latents: action_motion(prism(latents, text)[0], GRID)


def still() -> torch.Tensor:
    picture = torch.randn(1, 4, 1, GRID[0] * PATCH, GRID[1] * PATCH, generator=torch.Generator().manual_seed(1))
    return picture.repeat(1, 1, FRAMES, 1, 1)


def moving(corner: tuple[int, int], since: int = 1) -> torch.Tensor:
    """A thing of 2 x 2 cells goes round in a corner, from frame `since` on."""
    clip, thing = still(), torch.full((4, PATCH, PATCH), 2.0)
    for frame in range(FRAMES):
        step = max(frame - since + 1, 0) % 4
        y, x = corner[0] + (step in (2, 3)), corner[1] + (step in (1, 2))
        clip[0, :, frame, y * PATCH : (y + 1) * PATCH, x * PATCH : (x + 1) * PATCH] = thing
    return clip


@pytest.mark.parametrize("corner", CORNERS)
def test_it_is_where_something_moves(watch, corner):
    y, x = CORNERS[corner]
    cells = watch(moving((y, x))).cells
    inside = cells[1:, y : y + 2, x : x + 2].square().sum((1, 2))
    assert cells.shape == (FRAMES, *GRID)
    assert (inside > 0.9 * cells[1:].square().sum((1, 2))).all()  # of its cells a sixth


def test_it_is_when_something_moves(watch):
    frames = watch(moving((0, 0), since=5)).frames
    assert frames[5:].min() > 4 * frames[:5].max()


def test_almost_nothing_moves_in_a_still_clip(watch):
    assert watch(still()).frames.max() < 0.1 * watch(moving((2, 4))).frames[1:].min()


def test_a_frame_is_its_cells_together_and_the_first_has_none():
    tokens = torch.zeros(3, 24)
    tokens[:, 0], tokens[2, 23] = 3.0, 4.0  # sizes 3, 3, 5
    motion = action_motion(tokens, (3, 4))
    size = (43 / 3) ** 0.5
    assert motion.frames.tolist() == pytest.approx([0, 0, 4 / size])
    assert motion.cells[2, 2, 3].item() == pytest.approx(4 / size)
    assert motion.cells.count_nonzero() == 1
    assert torch.allclose(action_motion(7 * tokens, (3, 4)).frames, motion.frames)  # a share, whatever the scale


def test_what_all_cells_have_in_common_is_no_motion():
    generator = torch.Generator().manual_seed(0)
    scene, steps = torch.randn(1, 12, 2, generator=generator), torch.randn(4, 1, 2, generator=generator)
    features = scene + steps
    assert action_motion(features.flatten(1), (3, 4)).frames.max() < 1e-6
    features[2, 5] += 1.0
    moved = action_motion(features.flatten(1), (3, 4)).cells.flatten(1) > 1e-6
    assert moved.nonzero().tolist() == [[2, 5], [3, 5]]  # there and back


def test_tokens_that_say_nothing_and_those_of_another_grid():
    assert not action_motion(torch.zeros(2, 24), (2, 3)).frames.any()
    assert action_motion(torch.ones(1, 24), (2, 3)).frames.tolist() == [0]
    with pytest.raises(ValueError, match="24 numbers cannot be divided into 5 x 5"):
        action_motion(torch.zeros(2, 24), (5, 5))


def test_a_prism_of_one_cell_shows_when_its_token_changes():
    tokens = torch.zeros(4, 6)
    tokens[:, 0], tokens[2:, 1] = 3.0, 4.0  # sizes 3, 3, 5, 5
    motion = action_motion(tokens, (1, 1))
    size = ((9 + 9 + 25 + 25) / 4) ** 0.5
    torch.testing.assert_close(motion.frames, torch.tensor([0.0, 0.0, 4 / size, 0.0]))
    assert motion.cells.shape == (4, 1, 1)

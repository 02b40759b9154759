import pytest
import torch
from guidance import passing_square

NOTHING = {
    "crop": False,
    "move_right": 0.0,
    "move_down": 0.0,
    "scale": 1.0,
    "mirror": False,
    "speed": 1.0,
    "repeat": "once, then hold",
    "background": "kept",
}


@pytest.fixture(scope="module")
def node(pack):
    from echoreel_pack.nodes.place_reference import PlaceReference

    return PlaceReference


def run(node, frames, mask=None, **changes):
    return node.execute(frames, **NOTHING | changes, mask=mask)


def test_nothing_asked_is_nothing_changed_and_there_is_a_preview(node):
    output = run(node, passing_square())
    assert torch.equal(output.result[0], passing_square())
    assert output.ui.values


def test_the_masked_one_is_followed_whatever_the_number_of_masks(node):
    frames = passing_square(9, size=(64, 96))
    frames[:, :16, 40:56] = torch.linspace(0, 1, 9).view(9, 1, 1, 1)  # another one, above
    mask = torch.zeros(1, 32, 48)
    mask[:, 10:22] = 1
    (placed,) = run(node, frames, mask, background="blurred away").result
    assert placed[:, 2:12, 42:54].std(0).max() < 1e-4
    assert (placed[:, 26:38] - frames[:, 26:38]).abs().mean() < 0.03


def test_what_cannot_work_is_refused_in_a_sentence(node):
    with pytest.raises(ValueError, match=r"nowhere whiter than 0\.20"):
        run(node, passing_square(), torch.full((1, 64, 48), 0.2))
    with pytest.raises(ValueError, match="no frames"):
        run(node, passing_square()[:0])

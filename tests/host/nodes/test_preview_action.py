"""Preview Action: lit where and when an action's features change."""

import pytest
import torch

FRAMES, GRID = 6, (4, 4)


@pytest.fixture(scope="module")
def echoreel(pack, tmp_path_factory):
    import adapters

    return adapters.wan_adapter(tmp_path_factory.mktemp("adapter") / "wan.safetensors")


@pytest.fixture(scope="module")
def action(echoreel):
    """Its features are the same in all frames but for one cell, second row, last column, which changes in frame 4."""
    from echoreel_pack.echoreel_core.action.action import Action, Reference

    features = torch.rand(1, 1, *GRID, 4).repeat(1, FRAMES, 1, 1, 1)
    features[:, 3:, 1, 3] += 3.0
    tokens = features.flatten(2)
    reference = Reference(tokens, torch.zeros_like(tokens), source={"frames": FRAMES})
    return Action.of(reference, echoreel.id, echoreel.config.host)


def preview(action, echoreel, frames=None, **more):
    from echoreel_pack.nodes.preview_action import PreviewAction

    frames = torch.full((FRAMES, 32, 32, 3), 0.4) if frames is None else frames
    return PreviewAction.execute(action, echoreel, frames, **more)


def tile(picture, index):
    """The part of the picture that is a frame."""
    from echoreel_pack.nodes.pictures.action_preview import COLUMNS, GAP, WIDTH

    row, column = divmod(index, COLUMNS)
    top, left = GAP + row * (WIDTH + GAP), GAP + column * (WIDTH + GAP)
    return picture[0, top : top + WIDTH, left : left + WIDTH]


def amber(frame):
    """[4, 4]: how much each cell of a grey frame is coloured."""
    colour = (frame[..., 0] - frame[..., 2]).clamp(min=0)
    return torch.nn.functional.avg_pool2d(colour[None], colour.shape[0] // 4)[0]


def test_the_cell_is_lit_in_the_frame_in_which_it_changes(action, echoreel):
    picture = preview(action, echoreel).result[0]
    for index in range(FRAMES):
        lit = amber(tile(picture, index))
        if index == 3:
            assert lit.argmax() == 1 * 4 + 3 and lit[1, 3] > 0.3
            assert lit[:, :2].max() < 0.01
        else:
            assert lit.max() < 0.01
            # dimmed, but for the number in the corner
            assert (tile(picture, index)[40:] - 0.4 * 0.35).abs().max() < 0.01


def test_a_background_that_trembles_stays_dark(action, echoreel):
    """What moves as little as most of the picture does is not lit beside what moves much."""
    from echoreel_pack.echoreel_core.action.action import Action, Reference

    torch.manual_seed(0)
    tokens = action.references[0].positive
    tokens = tokens + 0.1 * torch.randn_like(tokens)
    lit = amber(tile(preview(Action.of(Reference(tokens, tokens), echoreel.id, "wan"), echoreel).result[0], 3))
    others = torch.cat([lit[2:].flatten(), lit[:, :2].flatten()])
    assert lit[1, 3] > 0.3 and others.mean() < 0.05


def test_a_prism_without_positions_shows_a_bar(pack):
    from echoreel_pack.echoreel_core.action.motion import action_motion
    from echoreel_pack.nodes.pictures.action_preview import WIDTH, draw_motion
    from echoreel_pack.nodes.pictures.drawing import MARK

    tokens = torch.zeros(4, 8)
    tokens[:, 0] = torch.tensor([1.0, 1.0, 1.5, 2.5])
    picture = draw_motion(torch.full((4, 32, 32, 3), 0.4), action_motion(tokens, (1, 1)))
    foot = [tile(picture, index)[WIDTH - 4] for index in range(4)]
    lengths = [((row - torch.tensor(MARK) / 255).abs().amax(-1) < 0.05).sum().item() for row in foot]
    assert lengths[:2] == [0, 0] and lengths[2] == pytest.approx(WIDTH / 2, abs=8) and lengths[3] > WIDTH - 8
    assert (tile(picture, 3)[60 : WIDTH - 20] - 0.4).abs().max() < 0.01  # and no light over the frame


def test_the_curve_rises_where_it_changes(action, echoreel):
    from echoreel_pack.nodes.pictures.action_preview import AXIS, COLUMNS, GAP, WIDTH
    from echoreel_pack.nodes.pictures.drawing import MARK

    picture = preview(action, echoreel).result[0]
    below = 2 * (WIDTH + GAP) + GAP
    marked = ((picture[0] - torch.tensor(MARK) / 255).abs().amax(-1) < 0.05)[below:].nonzero()
    right = COLUMNS * (WIDTH + GAP) + GAP - 2 * GAP
    x = [AXIS + i * (right - AXIS) / (FRAMES - 1) for i in range(FRAMES)]
    heights = [marked[(marked[:, 1] - place).abs() <= 2][:, 0] for place in x]
    assert len(heights[0]) == 0  # nothing comes before the first
    lowest = heights[1].max()
    assert heights[3].min() < lowest - 120
    assert all(heights[i].min() > lowest - 16 for i in (1, 5))


def test_it_is_shown_on_the_node(action, echoreel):
    output = preview(action, echoreel)
    (image,) = output.ui.as_dict()["images"]
    assert image["filename"].endswith(".png") and output.result[0].shape[0] == 1


def test_frames_of_any_shape_and_an_action_of_fewer(action, echoreel):
    from echoreel_pack.echoreel_core.action.action import Action, Reference

    tokens = action.references[0].positive
    for count, height, width in ((FRAMES, 20, 50), (21, 90, 40), (1, 16, 16)):
        short = Action.of(Reference(tokens[:, :count], tokens[:, :count]), echoreel.id, "wan")
        picture = preview(short, echoreel, torch.rand(count, height, width, 4)).result[0]
        assert picture.isfinite().all() and picture.min() >= 0 and picture.max() <= 1
    many = Action.of(Reference(*[torch.rand(1, 200, 64)] * 2), echoreel.id, "wan")
    assert preview(many, echoreel, torch.rand(200, 32, 32, 3)).result[0].shape[1] < 3000


def test_one_of_several_references(action, echoreel):
    from echoreel_pack.echoreel_core.action.action import Action, Reference
    from echoreel_pack.echoreel_core.action.combine import combine

    tokens = torch.ones(1, FRAMES, 64)
    still = Action.of(Reference(tokens, tokens), echoreel.id, "wan")
    both = combine([still, action], "one after another", [1, 1])
    assert torch.equal(preview(both, echoreel, reference=2).result[0], preview(action, echoreel).result[0])
    assert torch.equal(preview(both, echoreel).result[0], preview(still, echoreel).result[0])
    with pytest.raises(ValueError, match="no reference 3: the action has 2 references"):
        preview(both, echoreel, reference=3)


def test_refusals(action, echoreel, tmp_path):
    import adapters

    with pytest.raises(ValueError, match="made from 6 frames, but the connected clip has 5"):
        preview(action, echoreel, torch.rand(5, 8, 8, 3))
    with pytest.raises(ValueError, match="has no EchoReel in it"):
        preview(action, None)
    other = adapters.wan_adapter(tmp_path / "other.safetensors", sites=1)
    with pytest.raises(ValueError, match=f"{action.adapter_id}.*{other.id}"):
        preview(action, other)

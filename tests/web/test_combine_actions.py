"""Combine Actions in the page, in both of its renderers; see combine_actions.mjs for what the user does.

Screenshots are kept in tests/output/web.
"""

import pytest

pytestmark = pytest.mark.heavy


@pytest.fixture(scope="module", params=["classic", "nodes2"])
def states(request, browse):
    """What the node showed and sent, by moment; the browser has found nothing wrong."""
    report = browse("combine_actions.mjs", request.param)
    assert not report["problems"], "\n".join(report["problems"])
    return report["states"]


def weights(state, count=4):
    return [state["sent"][f"weight_{index}"] for index in range(count)]


def test_a_new_node_shows_the_two_weights_that_it_needs(states):
    assert states["new"]["shown"] == ["how", "weights", "weight of action_0", "weight of action_1"]


def test_every_connected_action_has_its_weight(states):
    state = states["four actions"]
    assert state["sources"] == [1, 2, 3, 4, None]
    assert state["shown"] == ["how", "weights", *(f"weight of action_{index}" for index in range(4))]
    assert weights(state) == [0.1, 0.2, 0.3, 0.4]


def test_one_after_another_they_are_lengths_and_there_is_a_crossfade(states):
    shown = ["how", "weights", "crossfade", *(f"length of action_{index}" for index in range(4))]
    assert states["one after another"]["shown"] == shown
    assert states["one after another"]["sent"]["crossfade"] == 0.35


def test_a_weight_goes_with_its_action(states):
    state = states["the second disconnected"]
    assert state["sources"] == [1, 3, 4, None]
    assert weights(state) == [0.1, 0.3, 0.4, 1]
    assert state["shown"][-1] == "length of action_2"
    state = states["connected again, last"]
    assert state["sources"] == [1, 3, 4, 2, None]
    assert weights(state) == [0.1, 0.3, 0.4, 1]


def test_another_action_in_its_place_takes_its_weight(states):
    state = states["another one in place of the second"]
    assert state["sources"] == [1, 1, 4, 2, None]
    assert weights(state) == [0.1, 0.3, 0.4, 1]


def test_the_newer_renderer_draws_what_is_shown(states):
    for name, state in states.items():
        if state["drawn"] is not None:
            assert state["drawn"] == [label for label in state["shown"] if label != "weights"], (
                name
            )  # it folds that one


def test_reopened_it_is_the_same(states):
    assert states["reopened"] == states["another one in place of the second"]


def test_there_is_no_empty_room_in_the_node(states):
    assert all(abs(state["spare"]) < 100 for state in states.values())

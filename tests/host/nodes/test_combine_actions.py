"""Combine Actions: its weights, and what workflows from before it had them mean."""

import pytest
import torch


@pytest.fixture
def actions(pack):
    from echoreel_pack.echoreel_core.action.action import Action, Reference

    tokens = torch.arange(24.0).view(3, 1, 2, 4)
    return {f"action_{i}": Action.of(Reference(t, t), "adapter", "wan") for i, t in enumerate(tokens)}


def combined(actions, how="blend", weights="", **more):
    from echoreel_pack.nodes.combine_actions import CombineActions

    return CombineActions.execute(actions=actions, how=how, weights=weights, **more).result[0]


def test_weights_are_those_beside_the_actions(actions):
    assert combined(actions, weight_0=2.0, weight_2=1.0).mix_weights == (0.5, 0.25, 0.25)


def test_a_workflow_from_before_has_its_weights_in_a_line(actions):
    assert combined(actions, weights="2, 1, 1").mix_weights == (0.5, 0.25, 0.25)
    assert combined(actions).mix_weights == (1 / 3, 1 / 3, 1 / 3)


def test_both_multiply(actions):
    assert combined(actions, weights="2, 1, 1", weight_1=2.0, weight_2=0.0).mix_weights == (0.5, 0.5)


def test_a_weight_belongs_to_its_socket(actions):
    """One in between that is not connected, or comes from a muted node, takes no weight away from the others."""
    actions["action_1"] = None
    assert combined(actions, weight_0=1.0, weight_1=50.0, weight_2=3.0).mix_weights == (0.25, 0.75)
    del actions["action_1"]
    assert combined(actions, weight_0=1.0, weight_1=50.0, weight_2=3.0).mix_weights == (0.25, 0.75)


def test_one_after_another(actions):
    action = combined(actions, "one after another", weight_1=2.0, crossfade=0.1)
    assert [parts[0].end for parts in action.segments] == pytest.approx([0.3, 0.8, 1.0])
    softer = combined(actions, "one after another", weight_1=2.0)
    assert [parts[0].end for parts in softer.segments] == pytest.approx([0.35, 0.85, 1.0])


def test_refusals_are_one_sentence(actions):
    for options in ({"weights": "1, x, 2"}, {"weights": "1, 2"}, {f"weight_{i}": 0.0 for i in range(3)}):
        with pytest.raises(ValueError) as error:
            combined(actions, **options)
        assert "\n" not in str(error.value)

"""Names under which Save Action saves."""

import re

import pytest


@pytest.fixture
def action(pack):
    import torch
    from echoreel_pack.echoreel_core.action.action import Action, Reference

    return Action.of(Reference(torch.zeros(1, 2, 4), torch.zeros(1, 2, 4)), "0" * 16, "wan")


def saved(action, prefix):
    from echoreel_pack.nodes.save_load_action import SaveAction

    return SaveAction.execute(action, prefix).result[0]


def test_a_date_in_the_name(action):
    name = saved(action, "%date:yyyy-MM-dd%/jump %date:hh.mm%")
    assert re.fullmatch(r"\d{4}-\d\d-\d\d/jump \d\d\.\d\d_00001_\.safetensors", name)


@pytest.mark.parametrize("prefix", ["", " ", ".", "people/", "./"])
def test_a_name_that_is_none_is_refused(action, prefix):
    with pytest.raises(ValueError, match="names no file"):
        saved(action, prefix)

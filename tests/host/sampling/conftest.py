"""What tests of sampling share: a tiny Wan, an adapter for it, and an action of that adapter."""

from __future__ import annotations

import pytest
import tiny_models


@pytest.fixture(scope="module")
def model(pack):
    return tiny_models.wan()


@pytest.fixture(scope="module")
def echoreel(pack, tmp_path_factory):
    import adapters

    return adapters.wan_adapter(tmp_path_factory.mktemp("adapter") / "wan.safetensors")


@pytest.fixture(scope="module")
def action(echoreel):
    import adapters

    return adapters.random_action(echoreel)

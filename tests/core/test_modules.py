"""Every module of the core can be imported: what only a rarely run command needs would fail nowhere else."""

import importlib
import pkgutil

import pytest

import echoreel_core

MODULES = sorted(module.name for module in pkgutil.walk_packages(echoreel_core.__path__, "echoreel_core."))


@pytest.mark.parametrize("name", [name for name in MODULES if not name.endswith("__main__")])
def test_it_can_be_imported(name):
    importlib.import_module(name)

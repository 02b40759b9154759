import pytest
import torch
from released_model import ReleasedModel

ALL_THREADS = torch.get_num_threads()


@pytest.fixture(autouse=True)
def threads(request):
    """One thread for the toy model: on a busy machine its tiny layers spend ten times longer waiting for a second."""
    torch.set_num_threads(ALL_THREADS if request.node.get_closest_marker("heavy") else 1)


@pytest.fixture(scope="session")
def small() -> ReleasedModel:
    """The toy model. Shared by all tests: copy it (copy.deepcopy) before changing it."""
    return ReleasedModel.load("small")

"""What an action holds of its clip's motion: where, and how much, its features change from frame to frame."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import EchoReelError


@dataclass(frozen=True)
class ActionMotion:
    """How far the features move, as a share of their size. The first frame has none before it, so nothing moves there.

    Attributes:
        cells: [S, height, width], of each cell of the prism's grid, over the whole picture.
        frames: [S], of each frame's features together; its square is the sum of the squares of the frame's cells.
    """

    cells: Tensor
    frames: Tensor


def action_motion(tokens: Tensor, grid: tuple[int, int]) -> ActionMotion:
    """Reads the motion from an action without running a model.

    A frame's token is the features of all cells of the prism's grid, one after the other (`ActionPrism` pools nothing),
    a_{t,p} of cell p in frame t. With d_{t,p} = a_{t,p} - a_{t-1,p}, what is measured is

        |d_{t,p} - median over p' of d_{t,p'}| / size,   size = root mean square over t of |a_t|

    (the median of each feature by itself). What all cells have in common is left out: the prism tells its frames apart
    by their distance in time, so that even those of a still clip differ, and much the same in every cell. A trace of it
    stays; and since the prism's cells attend to each other, one may answer a little to what moves in another. A prism
    of one cell has nothing to compare it with: its change is measured as it is, and a still clip's is only smaller.

    Args:
        tokens: [S, action_dim] of one sample.
        grid: (height, width) of the prism's.

    Raises: EchoReelError if the tokens are no whole number of features per cell.
    """
    height, width = grid
    if tokens.shape[1] % (height * width):
        raise EchoReelError(
            f"An action token of {tokens.shape[1]} numbers cannot be divided into {height} x {width} cells."
        )
    features = tokens.float().unflatten(1, (height, width, -1))
    size = tokens.float().norm(dim=1).square().mean().sqrt().clamp(min=torch.finfo(torch.float32).tiny)
    change = features.diff(dim=0)
    if height * width > 1:
        change = change - change.flatten(1, 2).median(dim=1).values[:, None, None]
    cells = torch.zeros(features.shape[:3])
    cells[1:] = change.norm(dim=-1) / size
    return ActionMotion(cells, cells.square().sum((1, 2)).sqrt())

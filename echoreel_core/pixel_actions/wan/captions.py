"""Captions with words withheld, drawn on the device that trains."""

from __future__ import annotations

import torch
from torch import Tensor

from ..world.clips import Clips
from ..world.words import END_ROW, LENGTH, UNKNOWN, content_rows, ids

_BEFORE = 5  # tokens before the action: start, a, size, colour, subject
_AFTER = 5  # from the action's end to the caption's: on, a, colour, background, end


class Captions:
    """The captions of many clips as rows of the small vocabulary, on a device.

    Args:
        empty, action, words: see `words.dropped`, which makes the same of a few captions.
    """

    def __init__(
        self,
        clips: Clips,
        device: torch.device | str,
        empty: float = 0.1,
        action: float = 0.25,
        words: float = 0.1,
    ) -> None:
        table: dict[str, Tensor] = {}
        captions = clips.captions()
        for text in captions:
            if text not in table:
                table[text] = ids([text])[0]
        self.ids = torch.stack([table[text] for text in captions]).to(device)
        self._action = (self.ids != END_ROW).sum(1) + 1 - _BEFORE - _AFTER  # tokens of each action's name
        self._none = ids([""]).to(device)
        self._means = torch.zeros(UNKNOWN + 1, dtype=torch.bool, device=device)
        self._means[list(content_rows())] = True
        self._place = torch.arange(LENGTH, device=device)
        self._until = (empty, empty + action, empty + action + words)

    def dropped(self, rows: Tensor) -> Tensor:
        """Ids `[batch, 77]` of the captions of these clips, with some of it withheld; by the global generator."""
        whole, count = self.ids[rows], len(rows)
        fate = torch.rand(count, 1, device=rows.device)
        empty, action, words = self._until
        unknown = 1 + (torch.rand(count, 1, device=rows.device) * 5).long()
        behind = self._place - _BEFORE - unknown
        source = torch.where(behind >= 0, behind + _BEFORE + self._action[rows, None], self._place)
        any_action = whole.gather(1, source.clamp(max=LENGTH - 1))
        hidden = (self._place >= _BEFORE) & (behind < 0)
        any_action = torch.where(hidden, UNKNOWN, any_action)
        lost = (torch.rand(whole.shape, device=rows.device) < 0.3) & self._means[whole]
        some_words = torch.where(lost, UNKNOWN, whole)
        out = torch.where(fate < words, some_words, whole)
        out = torch.where(fate < action, any_action, out)
        return torch.where(fate < empty, self._none, out)

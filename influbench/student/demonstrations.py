"""Examples shown in context: answered questions that stand in a conversation before another."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from influbench.data.records import Example


def shown(demonstrations: Sequence[Example], example: Example) -> Example:
    """``example`` with the demonstrations as exchanges before its own; its system turn stays first.

    System turns of the demonstrations are left out: a conversation has one at most.
    """
    system = tuple(turn for turn in example.earlier if turn[0] == "system")
    before = tuple(t for d in demonstrations for t in d.turns if t[0] != "system")
    rest = tuple(turn for turn in example.earlier if turn[0] != "system")
    return dataclasses.replace(example, earlier=(*system, *before, *rest))

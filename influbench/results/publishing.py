"""What a run, a study or an evaluation leaves: its numbers next to their origin and their cost."""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, TypedDict, Unpack

from influbench.data.records import LedgerRow, Outcome, ResultRow, Score
from influbench.results.provenance import provenance
from influbench.results.result_file import RunResult


class Booked(Protocol):
    """A session, or what is left of one."""

    @property
    def ledger(self) -> Sequence[LedgerRow]:
        """What was paid."""
        ...

    @property
    def notes(self) -> Sequence[str]:
        """What a reader must know."""
        ...


@dataclass(frozen=True)
class _Here(Mapping[str, Any]):
    """This machine and moment as an origin; found when it is read.

    A result that is there already keeps its own, and so needs no torch to say what this one is.
    The device is the one that models ran on, as the ledger has it: stages that the store had may
    have been made on another machine.
    """

    device: str
    """What was asked for; told where the ledger does not say."""
    ledger: Sequence[LedgerRow]

    @cached_property
    def _told(self) -> dict[str, Any]:
        import torch

        from influbench.models.device import device_in_words

        return provenance(
            datetime.datetime.now(datetime.UTC),
            device=ran_on(self.ledger) or device_in_words(self.device),
            threads=torch.get_num_threads(),
        )

    def __getitem__(self, key: str) -> Any:
        return self._told[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._told)

    def __len__(self) -> int:
        return len(self._told)


class Items(TypedDict, total=False):
    """Numbers by item: see :class:`RunResult`."""

    outcomes: Mapping[str, Sequence[Outcome]]
    others: Mapping[str, Mapping[str, Sequence[Outcome]]]
    scores: Mapping[str, Sequence[Score]]
    groups: Mapping[str, str]


def ran_on(ledger: Sequence[LedgerRow]) -> str:
    """The devices that models ran on, in order of first use; empty where no row says."""
    return ", ".join(dict.fromkeys(row.device for row in ledger if row.device))


def publish(
    config: Mapping[str, Any],
    device: str,
    rows: Sequence[ResultRow],
    booked: Booked,
    **items: Unpack[Items],
) -> RunResult:
    """What ``write`` writes of numbers that were measured now, on this machine.

    Args:
        config: the settings, resolved.
        device: where models stood, as the settings say it.
        rows: the numbers.
        booked: what they cost, and what a reader must know.
        items: what they were made of.
    """
    return RunResult(
        config=config,
        provenance=_Here(device, booked.ledger),
        rows=rows,
        ledger=booked.ledger,
        notes=booked.notes,
        **items,
    )

"""The layout of ``results/<study>/<run>.json``: what :mod:`result_file` reads, field by field."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeInt, model_validator

from influbench.data.records import LedgerRow, Outcome, ResultRow, Score
from influbench.results.reading import Open, Told, table_of


class _Named(Open):
    name: str = ""


class _Settings(Open):
    """What readers ask of the settings, which differ from one kind of study to the next."""

    seed: NonNegativeInt = 0
    rounds: NonNegativeInt = 1
    student: _Named = _Named()


class _Origin(Open):
    """See :func:`provenance.provenance`; tests and old files have less."""

    date: str | None = None
    command: list[str] = Field(default=[])
    commit: str | None = None
    dirty: bool | None = None
    python: str | None = None
    platform: str | None = None
    device: str | None = None
    threads: int | None = None
    versions: dict[str, str] = Field(default={})


_Outcomes = dict[str, Annotated[list[Outcome], table_of(Outcome)]]


class RunFile(Told):
    """A whole file; format 1 has fewer columns."""

    format: Literal[1, 2]
    study: str
    run: str
    config: _Settings
    notes: list[str]
    rows: Annotated[list[ResultRow], table_of(ResultRow)]
    ledger: Annotated[list[LedgerRow], table_of(LedgerRow)]
    outcomes: _Outcomes
    others: dict[str, _Outcomes] = Field(default={})
    scores: dict[str, Annotated[list[Score], table_of(Score)]]
    groups: dict[str, str]
    provenance: _Origin

    @model_validator(mode="after")
    def _same_candidates(self) -> Self:
        """All methods of a run score the same candidates, each once."""
        sets = {name: {score.id for score in several} for name, several in self.scores.items()}
        for name, ids in sets.items():
            first = next(iter(sets))
            if len(ids) < len(self.scores[name]):
                raise ValueError(f"scores.{name}: expected every candidate once, got one twice")
            if ids != sets[first]:
                odd = sorted(ids ^ sets[first])[0]
                raise ValueError(
                    f"scores.{name}: expected the candidates of scores.{first}, '{odd}' is in one "
                    "of them only"
                )
        return self

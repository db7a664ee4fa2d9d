"""One command's store, ledger, judge archive, budget and notes: the one way to run a stage.

The loop, ranking, evaluation and the studies run their stages through a session, so that what a
command cost, what it bought and what must be said of its numbers stand in one place.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from influbench.config import Config
from influbench.data.records import LedgerRow, ModelRef
from influbench.store import Entry, Input, Stage, Store
from influbench.store.budget import Budget
from influbench.store.work import models_of


@dataclass
class Session:
    """What the stages of one command share."""

    store: Store
    budget: Budget = field(default_factory=Budget)
    """The cap on what all paid servers that the command asks may cost; none by default."""
    entries: dict[tuple[str, str], Entry] = field(default_factory=dict)
    """What was run, by key and label, in order of first use."""
    notes: list[str] = field(default_factory=list)
    """What a reader of the numbers must know, each once."""
    heard: Callable[[Entry], None] = lambda _: None
    """Told of every entry that was run."""
    paid: set[str] = field(default_factory=set)
    """Folders of the entries whose money the budget has, whichever part of the command ran them."""

    @property
    def archive(self) -> Path:
        """Where the store keeps judgements, so that none is bought twice."""
        return self.store.root / "judgements.jsonl"

    @property
    def ledger(self) -> list[LedgerRow]:
        """What the stages cost, whichever attempt paid; one met twice is listed once."""
        return [row for entry in self.entries.values() for row in entry.ledger()]

    def run(self, stage: Stage, cfg: Config, *inputs: Input, label: str = "") -> Entry:
        """The entry of a stage for these inputs, made unless the store has it.

        The cap is on what the command's numbers cost, not on what this attempt pays: the money of
        an entry that was there before counts too.

        Raises:
            UserError: the stage cannot go on.
        """
        entry = self.store.run(stage, cfg, *inputs, label=label)
        self.entries.setdefault((entry.key, label), entry)
        if entry.cached and entry.path.name not in self.paid:
            self.budget.spent += sum(row.money for row in entry.ledger())
        self.paid.add(entry.path.name)
        self.heard(entry)
        for model in models_of(inputs):
            self.note(self.store.doubt(model))
        return entry

    def opened(self, model: ModelRef) -> ModelRef:
        """The model with its weights, for who opens it outside a stage; see ``Store.ready``."""
        self.store.ready(model, "this command")
        self.note(self.store.doubt(model))
        return model

    def ask(self, stage: Stage, cfg: Config, *inputs: Input, label: str = "") -> Entry:
        """:meth:`run` for a stage that may pay a server and takes the ``budget`` that it has."""
        function: Callable[..., None] = partial(stage.function, budget=self.budget)
        return self.run(replace(stage, function=function), cfg, *inputs, label=label)

    def note(self, text: str) -> None:
        """Keeps what a reader must know; what is empty or known already is not kept again."""
        if text and text not in self.notes:
            self.notes.append(text)

    def part(self) -> Session:
        """A session for one run of a study: the same store and budget, its own ledger and notes."""
        return Session(self.store, self.budget, paid=self.paid)

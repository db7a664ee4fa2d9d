"""What requests to a paid server cost, and the cap on it.

An attempt costs what the server counted for its answer, whatever else is in it. One that got no
answer in time, half of one, or one without a count may be billed all the same, and nobody says how
much: it counts at the highest price that it can have. One that was refused, or never got there,
costs nothing.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field

from influbench.errors import UserError
from influbench.generation.settings import ServerSettings
from influbench.servers import Counted
from influbench.store import Work
from influbench.store.budget import Budget


def purse(cfg: ServerSettings, budget: Budget | None, work: Work) -> Budget:
    """What a stage may spend: the command's budget under the settings' cap.

    What killed attempts at the stage have paid is spent already.
    """
    found = budget or Budget()
    found.cap(cfg.server_max_dollars)
    found.spent += sum(row.money for row in work.meter.rows())
    return found


def uncounted(cfg: ServerSettings, used: Counted) -> list[str]:
    """What has a price and was not counted."""
    return used.uncounted(
        prompt_tokens=cfg.server_prompt_price, completion_tokens=cfg.server_completion_price
    )


@dataclass
class Bill:
    """What one completion costs, over all attempts at it."""

    name: str
    """The completion's id."""
    most: float
    """US dollars that an attempt may cost."""
    cfg: ServerSettings
    at: str
    """The server's address, for people."""
    budget: Budget
    stopped: threading.Event
    """Set where nothing new is asked."""
    spent: list[tuple[int, int, float]] = field(default_factory=list)
    """Tokens sent and written, and US dollars, an attempt each."""

    @contextmanager
    def attempt(self) -> Generator[None]:
        """One attempt, which books what it cost.

        Raises:
            UserError: the cap has no room for it.
        """
        while not self.budget.reserve(self.name, self.most):
            if self.stopped.is_set() or not self.budget.waiting:
                raise UserError(
                    f"the server at {self.at} is not asked further: ${self.budget.spent:.4f} of "
                    f"${self.budget.limit} are spent, and the next request may cost "
                    f"${self.most:.4f}; what was written is kept, raise "
                    "generation.server_max_dollars to go on"
                )
            time.sleep(0.02)
        before = len(self.spent)
        try:
            yield
        finally:
            money = sum(money for _, _, money in self.spent[before:])
            self.budget.settle(self.name, money)

    def book(self, used: Counted | None) -> None:
        """What an attempt cost; None or half a count of it: as much as it can have."""
        counted = used or Counted()
        sent, written = counted.prompt_tokens, counted.completion_tokens
        missing = uncounted(self.cfg, counted)
        money = self.most if missing else self.cfg.server_price(sent, written)
        if used is not None or money:
            self.spent.append((sent, written, money))

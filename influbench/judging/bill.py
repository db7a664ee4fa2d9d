"""What one attempt at a judgement cost."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Bill:
    """An attempt's price, known once the server has answered.

    A request that got no answer in time, half of one, or one that counts nothing may be billed all
    the same, and nobody says how much: it counts at the highest price that it can have. One that
    was refused, or never got there, costs nothing.
    """

    most: float
    """US dollars that it may cost."""
    money: float = 0.0
    """US dollars."""
    tokens: tuple[int, int] = (0, 0)
    """Sent and written, where they were counted."""

    def may_be_owed(self) -> None:
        """It is sent, and nothing is known of its price."""
        self.money, self.tokens = self.most, (0, 0)

    def is_nothing(self) -> None:
        """It was refused, or never got there."""
        self.money, self.tokens = 0.0, (0, 0)

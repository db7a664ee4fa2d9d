"""What a student's device turned out not to hold, learnt from the batches that did not fit."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Room:
    """Remembers failures, so that no batch fails twice, and says so to whoever reads the ledger."""

    failed: dict[bool, int] = field(default_factory=dict)
    """Padded tokens of the smallest batch that did not fit, by whether a gradient was taken."""
    said: list[str] = field(default_factory=list)
    """Further lines."""

    def holds(self, tokens: int, *, learning: bool) -> bool:
        """Whether a batch of so many padded tokens is worth trying."""
        return tokens < self.failed.get(learning, tokens + 1)

    def fail(self, tokens: int, *, learning: bool) -> None:
        """A batch did not fit."""
        self.failed[learning] = min(tokens, self.failed.get(learning, tokens))

    @property
    def notes(self) -> list[str]:
        """One line a kind of pass."""
        kinds = {True: "with gradients", False: "without gradients"}
        halved = [
            f"out of memory with {tokens} tokens a batch {kinds[learning]}: went on with halves"
            for learning, tokens in sorted(self.failed.items())
        ]
        return [*halved, *self.said]

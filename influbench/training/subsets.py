"""What short trainings are given, and what is kept of them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Subset:
    """What one training learns; nothing is the student as it is."""

    ids: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Heard:
    """What a training came to."""

    loss: float
    """Mean held-out loss after it, nats per response token."""

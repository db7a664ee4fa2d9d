"""The ledger: what every phase of a stage cost, measured around it and never by it."""

from __future__ import annotations

from influbench.meter.ledger import Cost, Meter, Phase

__all__ = ["Cost", "Meter", "Phase"]

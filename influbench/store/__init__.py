"""Runs a stage once per distinct input, resumes it where a kill left it, and counts its cost."""

from __future__ import annotations

from influbench.store.entry import Entry
from influbench.store.ledger import Cost, Meter, Phase
from influbench.store.store import BusyError, MissingError, Store
from influbench.store.work import Input, R, Stage, T, Work

__all__ = [
    "BusyError",
    "Cost",
    "Entry",
    "Input",
    "Meter",
    "MissingError",
    "Phase",
    "R",
    "Stage",
    "Store",
    "T",
    "Work",
]

"""Runs a stage once per distinct input, and resumes it where a kill left it."""

from __future__ import annotations

from influbench.store.entry import Entry
from influbench.store.store import BusyError, Input, MissingError, R, Stage, Store, T, Work

__all__ = ["BusyError", "Entry", "Input", "MissingError", "R", "Stage", "Store", "T", "Work"]

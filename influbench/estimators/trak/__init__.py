"""TRAK."""

from influbench.estimators.trak.trak import Trak

__all__ = ["Trak"]

"""The adaptive oracle."""

from influbench.estimators.adaptive.adaptive import Adaptive

__all__ = ["Adaptive"]

"""The teacher writes candidates: where every set of instruction-response pairs comes from."""

from __future__ import annotations

from influbench.generation.stage import STAGE, write_candidates

__all__ = ["STAGE", "write_candidates"]

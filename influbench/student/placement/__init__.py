"""Where a student's weights and moments lie: on the device, in host memory, or over processes."""

from __future__ import annotations

from influbench.student.placement.offloaded import HELD, offload
from influbench.student.placement.place import Placement, place

__all__ = ["HELD", "Placement", "offload", "place"]

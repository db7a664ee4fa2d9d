"""Where a student's weights and moments lie: on the device, in host memory, or over processes."""

from __future__ import annotations

from influbench.student.placement.offloaded import check_whole, offload
from influbench.student.placement.place import Placement, place

__all__ = ["Placement", "check_whole", "offload", "place"]

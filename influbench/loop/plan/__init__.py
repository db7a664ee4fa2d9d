"""What a run will cost before it is paid: stages, passes, memory, hours, disk and money."""

from __future__ import annotations

from influbench.loop.plan.calibration import Speeds
from influbench.loop.plan.prices import Priced, price
from influbench.loop.plan.shared import once
from influbench.loop.plan.stages import tasks
from influbench.loop.plan.task import Task

__all__ = ["Priced", "Speeds", "Task", "once", "price", "tasks"]

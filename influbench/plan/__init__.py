"""What a run will cost before it is paid: stages, passes, memory, hours, disk and money."""

from __future__ import annotations

from influbench.plan.calibration import Speeds
from influbench.plan.prices import Priced, price
from influbench.plan.stages import tasks
from influbench.plan.task import Task

__all__ = ["Priced", "Speeds", "Task", "price", "tasks"]

import math
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from transformers import get_scheduler

from influbench.training.schedule import Schedule


def rates(schedule: Schedule, total: int) -> list[float]:
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    asked = schedule.arguments(total)
    scheduler: Any = get_scheduler(
        asked["lr_scheduler_type"],
        optimizer,
        num_warmup_steps=asked["warmup_steps"],
        num_training_steps=total,
        scheduler_specific_kwargs=asked["lr_scheduler_kwargs"],
    )
    out = []
    for _ in range(total):
        out.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return out


def test_the_papers_schedule_over_a_hundred_steps() -> None:
    got = rates(Schedule(), 100)
    assert got[0] == pytest.approx(1e-3)  # rises from the floor …
    assert got[5] == pytest.approx(1e-3 + 0.5 * 0.999)  # … halfway after 5 of 10 steps
    assert got[10:61] == [1.0] * 51
    assert got[80] == pytest.approx(1e-3 + 0.5 * 0.999)  # cosine: half down in the middle
    assert got[99] == pytest.approx(1e-3 + 0.999 * 0.5 * (1 + math.cos(math.pi * 39 / 40)))


@pytest.mark.parametrize("total", [1, 2, 3, 4, 7, 100])
def test_every_step_belongs_to_one_part(total: int) -> None:
    warmup, stable, decay = Schedule().steps(total)
    assert warmup + stable + decay == total
    assert min(warmup, stable, decay) >= 0


def test_a_short_training_is_not_spent_on_warming_up() -> None:
    assert Schedule().steps(4) == (0, 2, 2)
    assert rates(Schedule(), 4)[0] == 1.0


def test_shares_that_do_not_add_up_are_refused() -> None:
    with pytest.raises(ValidationError, match=r"= 1, got 1\.1"):
        Schedule(warmup=0.2)

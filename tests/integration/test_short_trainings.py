"""Short trainings that keep a loss only: what the stages that keep a student would say."""

import json
from pathlib import Path
from typing import Any

import pytest
from training_kit import EXAMPLES, FINE, Killed, Watched, at, ref

from influbench import models
from influbench.evaluation.suites.losses import LossConfig, measure
from influbench.training import Heard, Subset, sft
from influbench.training.short_trainings import short_trainings

SUBSETS = [Subset(ids=()), Subset(ids=("e0", "e1", "e2")), Subset(ids=("e5", "e6"))]
HELD_OUT = EXAMPLES[8:]


def read(path: Path, field: str) -> list[Any]:
    return [json.loads(line)[field] for line in path.read_text().splitlines()]


def losses(work):
    return read(work.path / "losses.jsonl", "loss")


def one_by_one(cfg, student, folder):
    found = []
    for number, subset in enumerate(SUBSETS):
        trained = student
        if subset.ids:
            work = at(folder / f"sft{number}")
            sft(cfg, [e for e in EXAMPLES if e.id in subset.ids], student, work=work)
            trained = ref(work, "student")
        work = at(folder / f"loss{number}")
        measure(LossConfig(device="cpu"), HELD_OUT, [], trained, work=work)
        values = read(work.path / "outcomes.jsonl", "value")
        found.append(sum(values) / len(values))
    return found


@pytest.mark.parametrize("more", [{}, {"method": "lora"}, {"compute": "bfloat16"}], ids=str)
def test_losses_are_those_of_students_trained_and_kept_one_by_one(tmp_path, more):
    student, cfg = models.resolve("tiny"), FINE.model_copy(update=more)
    work = at(tmp_path / "short")
    short_trainings(cfg, SUBSETS, EXAMPLES, HELD_OUT, student, work=work)
    expected = one_by_one(cfg, student, tmp_path)
    assert losses(work) == pytest.approx(expected, abs=1e-6)
    assert len(set(losses(work))) == 3
    assert not list(work.path.glob("**/*.safetensors"))


def test_a_killed_stage_goes_on_with_the_training_that_it_was_at(tmp_path):
    student = models.resolve("tiny")
    cfg = FINE.model_copy(update={"checkpoint_seconds": 0.0})
    whole = at(tmp_path / "whole")
    short_trainings(cfg, SUBSETS, EXAMPLES, HELD_OUT, student, work=whole)
    with pytest.raises(Killed):  # in the second training's last step
        short_trainings(
            cfg, SUBSETS, EXAMPLES, HELD_OUT, student, work=at(tmp_path / "cut", Watched(3))
        )
    again = at(tmp_path / "cut")
    assert again.left("trainings", SUBSETS, size=1, kind=Heard) == {1, 2}
    short_trainings(cfg, SUBSETS, EXAMPLES, HELD_OUT, student, work=again)
    assert losses(again) == losses(whole)

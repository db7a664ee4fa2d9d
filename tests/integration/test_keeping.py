"""States kept on the way of a training: they change nothing in it, and work as what they are."""

import pytest
import torch
from training_kit import EXAMPLES, FINE, TEACH, Killed, Watched, at, pairs, ref, same, weights

from influbench.data.records import ModelRef
from influbench.store import Work
from influbench.student import load_student
from influbench.training import sft
from influbench.training.dpo import dpo
from influbench.training.keeping import KEPT, folder_of, kept_steps
from influbench.training.settings import DPOStageConfig


@pytest.mark.parametrize(
    ("steps", "count", "expected"),
    [(12, 4, [3, 6, 9, 12]), (9, 1, [9]), (2, 4, [1, 2]), (10, 3, [3, 7, 10])],
)
def test_states_are_kept_at_even_shares_and_the_last_is_the_end(steps, count, expected):
    assert kept_steps(steps, count) == expected


def fine(tiny_ref: ModelRef, work: Work, count: int) -> None:
    sft(FINE.model_copy(update={"keep_checkpoints": count}), EXAMPLES, tiny_ref, work=work)


def test_keeping_states_does_not_change_the_student(tiny_ref, tmp_path):
    plain, keeps = at(tmp_path / "plain"), at(tmp_path / "keeps")
    fine(tiny_ref, plain, 0)
    fine(tiny_ref, keeps, 3)
    assert same(weights(plain, "student"), weights(keeps, "student"))
    assert KEPT not in plain.meta
    assert keeps.meta[KEPT] == [3, 6, 9]
    assert same(weights(keeps, "student"), weights(keeps, folder_of(9)))
    assert not same(weights(keeps, folder_of(3)), weights(keeps, folder_of(6)))


def test_a_student_kept_has_its_moments_and_the_peak_of_its_learning_rate(tiny_ref, tmp_path):
    work = at(tmp_path / "entry")
    fine(tiny_ref, work, 3)
    for step in work.meta[KEPT]:
        held = load_student(ref(work, folder_of(step)))
        assert len(held.optimizer.state) == len(list(held.model.parameters()))
        for weight in held.model.parameters():
            assert held.optimizer.state[weight]["exp_avg"].shape == weight.shape
        assert {float(slot["step"]) for slot in held.optimizer.state.values()} == {step}
        assert {group["lr"] for group in held.optimizer.param_groups} == {FINE.learning_rate}
        assert held.clip_norm == FINE.clip_norm


def test_a_killed_training_keeps_the_same_states(tiny_ref, tmp_path):
    whole, killed = at(tmp_path / "whole"), tmp_path / "killed"
    fine(tiny_ref, whole, 3)
    cfg = FINE.model_copy(update={"keep_checkpoints": 3, "checkpoint_seconds": 0.0})
    with pytest.raises(Killed):
        sft(cfg, EXAMPLES, tiny_ref, work=at(killed, Watched(5)))
    again = at(killed)
    sft(cfg, EXAMPLES, tiny_ref, work=again)
    assert again.meta[KEPT] == whole.meta[KEPT]
    for step in whole.meta[KEPT]:
        assert same(weights(whole, folder_of(step)), weights(again, folder_of(step)))


@pytest.mark.parametrize("method", ["full", "lora"])
def test_keeping_states_does_not_change_the_teacher(tiny_ref, tmp_path, method):
    plain, keeps = at(tmp_path / "plain"), at(tmp_path / "keeps")
    told = {**TEACH.model_dump(), "method": method, "learning_rate": 1e-2}
    for work, count in ((plain, 0), (keeps, 3)):
        cfg = DPOStageConfig.model_validate({**told, "keep_checkpoints": count})
        dpo(cfg, pairs(tiny_ref), tiny_ref, work=work)
    assert same(weights(plain, "teacher"), weights(keeps, "teacher"))
    assert keeps.meta[KEPT] == [3, 6, 9]
    assert not (keeps.path / folder_of(9)).exists(), "the end is the teacher itself"
    parts = [weights(keeps, folder_of(step)) for step in (3, 6)] + [weights(keeps, "teacher")]
    # Merged and named as the teacher is, each further from where it began than the one before.
    assert parts[0].keys() == parts[1].keys() == parts[2].keys()
    gaps = [sum(float((p[n] - parts[2][n]).norm()) for n in p) for p in parts]
    assert gaps[0] > gaps[1] > gaps[2] == 0
    assert all(torch.isfinite(w).all() for p in parts for w in p.values())

"""Steps in tensors of one size teach what the usual ones do; here they run without a graph."""

from pathlib import Path

import pytest
import torch
from training_kit import EXAMPLES, FINE, TEACH, at, pairs, weights

from influbench import models
from influbench.data.records import ModelRef
from influbench.store import passes
from influbench.student import budgets
from influbench.student.language_student import LanguageStudent
from influbench.training import dpo as dpo_module
from influbench.training import preference_trainer, replaying, response_trainer
from influbench.training.dpo import dpo
from influbench.training.fine_tuning import sft
from influbench.training.preference_trainer import Reader
from influbench.training.replaying import Replayed, Shape


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Replayed]:
    """The recorded steps of trainings, which run their code at every replay."""
    found: list[Replayed] = []

    def record(run):
        result = run()

        def replay() -> None:
            with passes.uncounted():  # a graph is replayed without the model's code
                (told, gradient), (into, grads) = run(), result
            with torch.no_grad():
                for one, other in zip((*told, *gradient), (*into, *grads), strict=True):
                    other.copy_(one)

        return replay, result

    def of(student, compute) -> Replayed:
        found.append(Replayed(student, compute, record))
        return found[-1]

    for module in (preference_trainer, response_trainer):
        monkeypatch.setattr(module, "Replayed", of)
    monkeypatch.setattr(replaying, "_starts_kernels", lambda _: True)
    return found


def teach(work, student: ModelRef, monkeypatch: pytest.MonkeyPatch, **changes: object) -> None:
    """As a GPU would: several pairs in a pass."""
    cfg = TEACH.model_copy(update={"batch_size": 4, "micro_batch": 4, "epochs": 5, **changes})
    trainer, reading = preference_trainer.PreferenceTrainer, Reader.log_probabilities

    def together(self, some):
        self._together = True
        return reading(self, some)

    with monkeypatch.context() as patch:
        patch.setattr(Reader, "log_probabilities", together)
        patch.setattr(
            dpo_module, "PreferenceTrainer", lambda *a, **k: trainer(*a, **{**k, "tokens": 8192})
        )
        dpo(cfg, pairs(student), student, work=work)


def fine_tune(work, student: ModelRef, monkeypatch: pytest.MonkeyPatch, **changes: object) -> None:
    cfg = FINE.model_copy(update={"micro_batch": None, "batch_size": 5, "epochs": 4, **changes})
    with monkeypatch.context() as patch:
        patch.setattr(budgets, "of_training", lambda *_: 4000)
        sft(cfg, EXAMPLES, student, work=work)


@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize("run", [teach, fine_tune])
def test_a_replayed_step_teaches_what_the_usual_one_does(
    tiny_ref: ModelRef, tmp_path: Path, made, monkeypatch: pytest.MonkeyPatch, run, method: str
) -> None:
    ours, usual = at(tmp_path / "ours"), at(tmp_path / "usual")
    run(ours, tiny_ref, monkeypatch, method=method)
    assert [one.recorded for one in made] == [True]
    with monkeypatch.context() as patch:
        patch.setattr(replaying, "WORTH", 1000)
        run(usual, tiny_ref, monkeypatch, method=method)
    assert len(made) == 1
    assert ours.meta["loss"] == pytest.approx(usual.meta["loss"], abs=1e-4)
    for name in ("reward_margin", "chosen_log_ratio"):
        if run is teach:
            assert ours.meta[name] == pytest.approx(usual.meta[name], abs=1e-3)
    folder = "teacher" if run is teach else "student"
    before, after = weights(usual, folder), weights(ours, folder)
    for name, weight in before.items():
        assert torch.allclose(weight, after[name], atol=2e-4), name
    (counted,) = [row for row in ours.meter.rows() if row.phase == "train"]
    (expected,) = [row for row in usual.meter.rows() if row.phase == "train"]
    assert counted.forward_passes == expected.forward_passes
    assert counted.backward_passes == expected.backward_passes


@pytest.mark.parametrize("run", [teach, fine_tune])
def test_a_step_whose_gradient_is_another_is_not_replayed(
    tiny_ref: ModelRef, tmp_path: Path, made, monkeypatch: pytest.MonkeyPatch, run
) -> None:
    usual, ours = at(tmp_path / "usual"), at(tmp_path / "ours")
    with monkeypatch.context() as patch:
        patch.setattr(replaying, "WORTH", 1000)
        run(usual, tiny_ref, monkeypatch)
    laid_out = Shape.laid_out

    def wrong(self, rows):
        batch = laid_out(self, rows)
        return {**batch, "target": batch["target"].roll(1)}

    monkeypatch.setattr(Shape, "laid_out", wrong)
    with pytest.warns(UserWarning, match="without a CUDA graph: its gradient was another") as said:
        run(ours, tiny_ref, monkeypatch)
    assert len([one for one in said if "CUDA graph" in str(one.message)]) == 1
    assert [one.recorded for one in made] == [False]
    assert ours.meta["loss"] == usual.meta["loss"]


def test_pairs_that_are_accumulated_over_passes_are_not_replayed(
    tiny_ref: ModelRef, tmp_path: Path, made, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, parts = at(tmp_path / "whole"), at(tmp_path / "parts")
    teach(whole, tiny_ref, monkeypatch)
    teach(parts, tiny_ref, monkeypatch, micro_batch=2)
    assert [one.recorded for one in made] == [True]
    assert parts.meta["loss"] == pytest.approx(whole.meta["loss"], abs=1e-4)


def test_layers_that_are_computed_again_are_not_recorded(
    tiny_ref: ModelRef, tmp_path: Path, made, monkeypatch: pytest.MonkeyPatch
) -> None:
    teach(at(tmp_path / "again"), tiny_ref, monkeypatch, gradient_checkpointing=True)
    assert [one.recorded for one in made] == [False]


def test_only_steps_that_wait_for_their_kernels_are_recorded(
    tiny_ref: ModelRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny = models.load(tiny_ref, device="cpu")
    optimizer = torch.optim.SGD(tiny.model.parameters())
    held = LanguageStudent(*tiny, optimizer, None, 0, cut=False, token_budget=0)
    shape = Shape(rows=4, time=64, learned=32)
    assert not replaying.pays(held, shape, steps=8, room=256)  # a CPU
    monkeypatch.setattr(replaying, "_starts_kernels", lambda _: True)
    assert replaying.pays(held, shape, steps=8, room=256)
    assert not replaying.pays(held, shape, steps=7, room=256)
    assert not replaying.pays(held, shape, steps=8, room=255)
    size = sum(w.numel() for w in tiny.model.parameters()) * 256
    monkeypatch.setattr(replaying, "ARITHMETIC", {"float32": size - 1})
    assert not replaying.pays(held, shape, steps=8, room=256)

"""Trainings that leave little room: the same gradients computed twice, and adapters that learn."""

from pathlib import Path

import pytest
import torch
from training_kit import EXAMPLES, FINE, TEACH, at, pairs, weights
from transformers import LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaMLP

from influbench import models
from influbench.data.records import ModelRef
from influbench.errors import UserError
from influbench.loop.reading import load_run
from influbench.loop.sets import check
from influbench.training import preference_trainer, sft
from influbench.training.dpo import dpo


@pytest.fixture
def layers(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Grows by one with every layer that is run; True where gradients were wanted."""
    ran: list[bool] = []
    forward = LlamaMLP.forward

    def counted(self, *given, **named):
        ran.append(torch.is_grad_enabled())
        return forward(self, *given, **named)

    monkeypatch.setattr(LlamaMLP, "forward", counted)
    return ran


def train(what: str, ref: ModelRef, folder: Path, **settings: object) -> dict[str, torch.Tensor]:
    """All weights after a training of the student or the teacher."""
    work = at(folder)
    if what == "sft":
        sft(FINE.model_copy(update=settings), EXAMPLES, ref, work=work)
        return weights(work, "student")
    dpo(TEACH.model_copy(update=settings), pairs(ref), ref, work=work)
    return weights(work, "teacher")


@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize("what", ["sft", "dpo", "dpo without packing"])
def test_layers_computed_again_teach_the_same(
    tiny_ref: ModelRef,
    tmp_path: Path,
    layers: list[bool],
    what: str,
    method: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(preference_trainer.packing, "works", lambda _: what == "dpo")
    usual = train(what[:3], tiny_ref, tmp_path / "usual", method=method)
    once = sum(layers)
    layers.clear()
    again = train(
        what[:3], tiny_ref, tmp_path / "again", method=method, gradient_checkpointing=True
    )
    assert sum(layers) == 2 * once
    for name, weight in usual.items():
        assert torch.equal(weight, again[name]), name
    one, two = (next((tmp_path / name).glob("*/config.json")) for name in ("usual", "again"))
    assert one.read_text() == two.read_text()


def test_an_adapter_moves_linear_layers_by_its_rank_and_nothing_else(
    tiny_ref: ModelRef, tmp_path: Path
) -> None:
    told = {"method": "lora", "lora_rank": 2, "learning_rate": 5e-2}
    after = train("sft", tiny_ref, tmp_path / "entry", **told)
    before = models.load(tiny_ref, device="cpu").model.state_dict()
    moved = {n: after[n] - w for n, w in before.items() if n in after and "_proj" in n}
    assert len(moved) == 2 * 7
    for name, change in moved.items():
        values = torch.linalg.svdvals(change)
        assert values[1] > 1e-4 > 1e-5 > values[2], name
    for name in before.keys() & after.keys() - moved.keys():
        assert torch.equal(before[name], after[name]), name


def test_an_adapter_learns_and_counts_its_passes(tiny_ref: ModelRef, tmp_path: Path) -> None:
    work = at(tmp_path / "entry")
    told = {"method": "lora", "learning_rate": 1e-2}
    sft(FINE.model_copy(update=told), EXAMPLES, tiny_ref, work=work)
    assert work.meta["loss"][-1] < work.meta["loss"][0] - 0.1
    (train,) = [row for row in work.meter.rows() if row.phase == "train"]
    assert train.forward_passes == train.backward_passes == 36


def test_a_family_that_keeps_its_activations_is_refused(
    tiny_ref: ModelRef, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LlamaForCausalLM, "supports_gradient_checkpointing", False)
    for what in ("sft", "dpo"):
        with pytest.raises(UserError, match=f"{what}.gradient_checkpointing = true: .* 'llama'"):
            train(what, tiny_ref, tmp_path / what, gradient_checkpointing=True)


def test_states_of_a_student_with_an_adapter_are_not_kept() -> None:
    with pytest.raises(UserError, match=r"keep_checkpoints = 2: expected sft\.method = full"):
        check(load_run("tiny", ["keep_checkpoints=2", "sft.method=lora"]))

import json
from pathlib import Path

import datasets
import pytest
import torch
from training_kit import EXAMPLES, FINE, WARM, at, ref, same, weights

from influbench import testing
from influbench.data.records import Example, ModelRef
from influbench.errors import UserError
from influbench.store import Store, Work
from influbench.student import LanguageStudent, StudentSettings, load_student
from influbench.training import WARM_UP, SFTConfig, WarmupConfig, fine_tuning, sft, warm_up, warming


@pytest.fixture
def work(tmp_path: Path) -> Work:
    return at(tmp_path / "entry")


def test_warm_up_learns_and_leaves_its_optimizer(tiny_ref: ModelRef, work: Work) -> None:
    warm_up(WARM, EXAMPLES, tiny_ref, work=work)
    assert work.meta["loss"][-1] < work.meta["loss"][0] - 0.1
    held = load_student(ref(work, "student"))
    assert len(held.optimizer.state) == len(list(held.model.parameters()))
    for slot in held.optimizer.state.values():
        assert slot["exp_avg_sq"].sum() > 0
        assert slot["step"] == 9
    (group,) = held.optimizer.param_groups
    assert group["lr"] == 1e-2  # the end of the ramp, not reset
    assert (group["betas"], group["eps"], group["weight_decay"]) == ((0.9, 0.999), 1e-8, 0.0)
    assert held.clip_norm == 1.0
    facts = json.loads((work.path / "student/warmup.json").read_text())
    assert facts["names"] == [n for n, _ in held.model.named_parameters()]
    assert (facts["step"], facts["lr"]) == (9, 1e-2)
    load, train, save = work.meter.rows()
    assert (load.phase, train.phase, save.phase) == ("load", "train", "save")
    assert train.forward_passes == train.backward_passes == 36


def test_warm_up_is_one_adamw_step_as_torch_makes_it(tiny_ref: ModelRef, work: Work) -> None:
    cfg = WarmupConfig(batch_size=6, learning_rate=1e-2, device="cpu")
    warm_up(cfg, EXAMPLES, tiny_ref, work=work)  # two steps; the first has learning rate 0
    held = load_student(tiny_ref, StudentSettings(device="cpu", max_length=1024))
    optimizer = torch.optim.AdamW(held.model.parameters(), lr=0.0, weight_decay=0.0)
    for rate, batch in zip((0.0, 5e-3), warming._batches(cfg, EXAMPLES), strict=True):
        optimizer.zero_grad()
        testing.loss_of_each(held, batch).mean().backward()
        torch.nn.utils.clip_grad_norm_(held.model.parameters(), 1.0)
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
    expected = dict(held.model.named_parameters())
    for name, value in weights(work, "student").items():
        torch.testing.assert_close(value, expected[name].detach(), rtol=1e-4, atol=1e-6)


def test_warm_up_needs_two_steps(tiny_ref: ModelRef, work: Work) -> None:
    with pytest.raises(UserError, match=r"at least 2 optimizer steps.*got 1 from 12 examples"):
        warm_up(WarmupConfig(batch_size=12), EXAMPLES, tiny_ref, work=work)


def test_a_loss_that_is_not_finite_names_the_batch_and_keeps_nothing(
    tiny_ref: ModelRef, tmp_path: Path
) -> None:
    cfg = WARM.model_copy(update={"learning_rate": 1e30})
    with pytest.raises(UserError, match=r"warm-up step \d: .*nan.* learning rate .* on e\d+, e\d+"):
        Store(tmp_path).run(WARM_UP, cfg, EXAMPLES, tiny_ref)
    assert not list(tmp_path.glob("*/manifest.json"))
    assert not list(tmp_path.glob("*/student"))


def test_sft_trains_on_the_tokens_of_the_student(tiny_ref: ModelRef, work: Work) -> None:
    held = load_student(tiny_ref, StudentSettings(device="cpu", max_length=1024))
    encoded = [held.encode(e) for e in EXAMPLES]
    trainer = fine_tuning._sft_trainer(FINE, encoded, held, work, 2)
    rows = trainer.train_dataset
    assert isinstance(rows, datasets.Dataset)
    for row, own in zip(rows, encoded, strict=True):
        batch = trainer.data_collator([dict(row)])
        assert tuple(batch["input_ids"][0].tolist()) == own.ids
        learned = (batch["labels"][0] != -100).nonzero().flatten().tolist()
        assert learned == list(own.learned)


def test_sft_first_loss_is_the_students(tiny_ref: ModelRef, work: Work) -> None:
    cfg = SFTConfig(batch_size=12, micro_batch=3, device="cpu")
    sft(cfg, EXAMPLES, tiny_ref, work=work)
    held = load_student(tiny_ref, StudentSettings(device="cpu", max_length=1024))
    counts = [len(e.learned) for e in map(held.encode, EXAMPLES)]
    by_example = [testing.loss_of_each(held, [e]).item() for e in EXAMPLES]
    by_token = sum(n * x for n, x in zip(counts, by_example, strict=True)) / sum(counts)
    assert work.meta["loss"] == [pytest.approx(by_token, rel=1e-5)]
    assert work.meta["learning_rate"] == [5e-6]


def test_sft_learns_quietly_and_is_metered(tiny_ref: ModelRef, work: Work, capfd) -> None:
    sft(FINE, EXAMPLES, tiny_ref, work=work)
    assert capfd.readouterr() == ("", "")
    assert work.meta["steps"] == len(work.meta["loss"]) == 9
    assert work.meta["loss"][-1] < work.meta["loss"][0] - 0.1
    load, row, save = work.meter.rows()
    assert (load.phase, row.phase, save.phase, row.items) == ("load", "train", "save", 36)
    assert row.forward_passes == row.backward_passes == 36
    assert not (work.path / "student/optimizer.pt").exists()
    testing.loss_of_each(load_student(ref(work, "student")), EXAMPLES[:1])


def test_sft_counts_what_it_cuts_or_refuses_it(tiny_ref: ModelRef, work: Work) -> None:
    rows = [*EXAMPLES[:3], Example(id="long", instruction="a", response="b" * 200)]
    cfg = FINE.model_copy(update={"max_length": 100, "epochs": 1})
    sft(cfg, rows, tiny_ref, work=work)
    assert (work.meta["cut"], work.meta["examples"], work.meta["steps"]) == (1, 4, 1)
    with pytest.raises(UserError, match="1 of 4 examples have more than 100 tokens"):
        sft(cfg.model_copy(update={"overlong": "refuse"}), rows, tiny_ref, work=work)
    rows = [*EXAMPLES[:3], Example(id="long", instruction="a" * 200, response="b")]
    with pytest.raises(UserError, match="'long': its prompt alone fills the 100 tokens"):
        sft(cfg, rows, tiny_ref, work=work)


def test_sft_stops_when_the_loss_is_not_finite(tiny_ref: ModelRef, work: Work) -> None:
    cfg = FINE.model_copy(update={"learning_rate": 1e30})
    with pytest.raises(UserError, match=r"(loss|grad_norm) is (nan|inf) at step \d of 9"):
        sft(cfg, EXAMPLES, tiny_ref, work=work)
    assert not (work.path / "student").exists()


def test_sft_out_of_memory_goes_on_with_half_the_rows_a_pass(
    tiny_ref: ModelRef, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = FINE.model_copy(update={"micro_batch": 4, "epochs": 1})
    usual, small = at(tmp_path / "usual"), at(tmp_path / "small")
    sft(cfg.model_copy(update={"micro_batch": 1}), EXAMPLES, tiny_ref, work=usual)
    train, tried = fine_tuning.trainer.train, []

    def crowded(training, *more, **named):
        rows = training.args.per_device_train_batch_size
        tried.append(rows)
        if rows > 1:  # as after a step half done
            next(training.model.parameters()).data.zero_()
            raise torch.OutOfMemoryError("CUDA out of memory")
        return train(training, *more, **named)

    monkeypatch.setattr(fine_tuning.trainer, "train", crowded)
    sft(cfg, EXAMPLES, tiny_ref, work=small)
    assert tried == [4, 2, 1]
    assert small.meta == usual.meta
    assert same(weights(small, "student"), weights(usual, "student"))


def test_the_warm_up_out_of_memory_goes_on_with_half_the_rows_a_pass(
    tiny_ref: ModelRef, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual, small = at(tmp_path / "usual"), at(tmp_path / "small")
    warm_up(WARM, EXAMPLES, tiny_ref, work=usual)
    loss, sizes = LanguageStudent.loss, []

    def crowded(self, batch):
        sizes.append(len(batch.rows))
        if len(batch.rows) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return loss(self, batch)

    monkeypatch.setattr(LanguageStudent, "loss", crowded)
    warm_up(WARM, EXAMPLES, tiny_ref, work=small)
    assert sizes[:3] == [4, 2, 2]
    assert 4 not in sizes[1:]
    assert small.meta["loss"] == pytest.approx(usual.meta["loss"], abs=1e-5)

import json
from pathlib import Path

import pytest
import torch
from training_kit import EXAMPLES, FINE, WARM, at, ref, weights

from benchmarks.sft import with_trl
from influbench import testing
from influbench.data.records import Example, ModelRef
from influbench.errors import UserError
from influbench.store import Store, Work
from influbench.student import LanguageStudent, StudentSettings, budgets, load_student
from influbench.training import (
    WARM_UP,
    SFTConfig,
    WarmupConfig,
    fine_tuning,
    sft,
    trainer,
    warm_up,
    warming,
)


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


@pytest.mark.parametrize("cut", [4, 1])
def test_sft_learns_what_trls_trainer_does(tiny_ref: ModelRef, tmp_path: Path, cut: int) -> None:
    cfg = FINE.model_copy(update={"micro_batch": cut, "batch_size": 5})
    ours, theirs = at(tmp_path / "ours"), at(tmp_path / "theirs")
    sft(cfg, EXAMPLES, tiny_ref, work=ours)
    held = fine_tuning.loaded(cfg, tiny_ref)
    training = with_trl(cfg, [held.encode(e) for e in EXAMPLES], held, theirs)
    log = trainer.train(training, cfg, 9, work=theirs, keep=lambda *_: None)
    assert ours.meta["loss"] == pytest.approx([row["loss"] for row in log], abs=1e-4)
    assert ours.meta["learning_rate"] == [row["learning_rate"] for row in log]
    found = weights(ours, "student")
    for name, weight in held.model.named_parameters():
        assert torch.allclose(weight.detach(), found[name], atol=2e-4), name


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


def crowded(monkeypatch: pytest.MonkeyPatch, tokens: int) -> list[int]:
    """So many tokens a pass, and three rows have no room; the rows of each pass that had."""
    loss, passes = LanguageStudent.loss, []

    def small(self, batch):
        if len(batch.rows) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        passes.append(len(batch.rows))
        return loss(self, batch)

    monkeypatch.setattr(LanguageStudent, "loss", small)
    monkeypatch.setattr(budgets, "of_training", lambda *_: tokens)
    return passes


@pytest.mark.parametrize("changes", [{"method": "full"}, {"method": "lora"}, {"batch_size": 5}])
def test_sft_learns_the_same_however_its_batches_are_cut(
    tiny_ref: ModelRef, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, object]
) -> None:
    cfg = FINE.model_copy(update={"micro_batch": None, **changes})
    usual, halved = at(tmp_path / "usual"), at(tmp_path / "halved")
    sft(cfg, EXAMPLES, tiny_ref, work=usual)
    passes = crowded(monkeypatch, 1000)
    sft(cfg, EXAMPLES, tiny_ref, work=halved)
    assert sum(passes) == 36
    assert set(passes) == {1, 2} if cfg.batch_size == 5 else {2}
    assert halved.meta.pop("loss") == pytest.approx(usual.meta.pop("loss"), abs=1e-4)
    assert halved.meta == usual.meta
    _, row, _ = halved.meter.rows()
    assert row.forward_passes == row.backward_passes == 36
    before, after = weights(usual, "student"), weights(halved, "student")
    for name, weight in before.items():
        assert torch.allclose(weight, after[name], atol=2e-4), name


def test_sft_keeps_within_tokens_and_rows_and_says_when_one_has_no_room(
    tiny_ref: ModelRef, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes = crowded(monkeypatch, 1)
    sft(FINE, EXAMPLES, tiny_ref, work=at(tmp_path / "tokens"))
    assert passes == [1] * 36
    passes.clear()
    one = FINE.model_copy(update={"micro_batch": 1})
    monkeypatch.setattr(budgets, "of_training", lambda *_: 1000)
    sft(one, EXAMPLES, tiny_ref, work=at(tmp_path / "rows"))
    assert passes == [1] * 36

    def full(self, batch):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(LanguageStudent, "loss", full)
    with pytest.raises(UserError, match=r"left for a batch of one: lower sft\.max_length"):
        sft(FINE, EXAMPLES, tiny_ref, work=at(tmp_path / "none"))


def test_a_training_whose_optimizer_has_no_room_says_what_to_do(
    tiny_ref: ModelRef, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torch.optim.AdamW, "step", full)
    with pytest.raises(
        UserError, match=r"SFT: the device has no memory left: lower sft\.max_length"
    ):
        sft(FINE, EXAMPLES, tiny_ref, work=work)
    with pytest.raises(UserError, match="warm-up: the device has no memory left: lower warmup"):
        warm_up(WARM, EXAMPLES, tiny_ref, work=work)


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


def test_the_warm_up_is_cut_as_its_memory_was_measured_unless_it_is_told(
    tiny_ref: ModelRef, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual, small, told = (at(tmp_path / name) for name in ("usual", "small", "told"))
    warm_up(WARM, EXAMPLES, tiny_ref, work=usual)
    loss, sizes, asked = LanguageStudent.loss, [], []

    def counted(self, batch):
        sizes.append(len(batch.rows))
        return loss(self, batch)

    def measured(student, rows, batch_size):
        asked.append((len(rows), batch_size))
        return 1

    monkeypatch.setattr(LanguageStudent, "loss", counted)
    monkeypatch.setattr(budgets, "of_training", measured)
    warm_up(WARM, EXAMPLES, tiny_ref, work=small)
    assert sizes == [1] * 36
    assert small.meta["loss"] == pytest.approx(usual.meta["loss"], abs=1e-5)
    warm_up(WARM.model_copy(update={"token_budget": 9999}), EXAMPLES, tiny_ref, work=told)
    assert sizes[36:] == [4] * 9
    assert asked == [(12, 4)]

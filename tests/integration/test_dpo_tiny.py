import dataclasses
import math
from pathlib import Path

import datasets
import pytest
import torch
from training_kit import TEACH, at, pairs, ref, same, weights
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.dpo_trainer import DataCollatorForPreference, DPOTrainer

from influbench import models
from influbench.data.records import ModelRef
from influbench.errors import UserError
from influbench.models.chat import without_template
from influbench.store import Work
from influbench.training import dpo as dpo_module
from influbench.training import preference_trainer
from influbench.training.dpo import dpo
from influbench.training.pair_tokens import tokenise
from influbench.training.preference_trainer import Reader
from influbench.training.settings import DPOStageConfig
from influbench.training.trainer import off_screen


@pytest.fixture
def work(tmp_path: Path) -> Work:
    return at(tmp_path / "entry")


@pytest.mark.parametrize("how", [{"method": "full"}, {"method": "lora"}], ids=str)
def test_dpo_starts_at_ln_2_and_prefers_the_chosen(
    tiny_ref: ModelRef, work: Work, how: dict[str, str], capfd
) -> None:
    rate = 1e-2 if how.get("method") == "lora" else 1e-3
    cfg = DPOStageConfig.model_validate({**TEACH.model_dump(), **how, "learning_rate": rate})
    dpo(cfg, pairs(tiny_ref), tiny_ref, work=work)
    assert capfd.readouterr() == ("", "")
    assert work.meta["loss"][0] == pytest.approx(math.log(2), abs=1e-6)
    assert work.meta["loss"][-1] < 0.6
    assert work.meta["chosen_log_ratio"][-1] > 0 > work.meta["rejected_log_ratio"][-1]
    assert (work.meta["pairs"], work.meta["learned_pairs"], work.meta["steps"]) == (8, 6, 9)
    assert work.meta["held_out"].keys() == {
        *("pairs", "groups", "loss", "reward_accuracy", "reward_margin")
    }
    assert (work.meta["held_out"]["pairs"], work.meta["held_out"]["groups"]) == (2, 1)
    rows = {row.phase: row for row in work.meter.rows()}
    assert rows["train"].backward_passes == rows["train"].forward_passes == 6 * 2 * 3
    assert (rows["reference"].forward_passes, rows["evaluate"].forward_passes) == (8 * 2, 2 * 2)
    # Chosen and rejected of a pair stand in one row, after their prompt: it is read once.
    tokenizer = models.load_tokenizer(tiny_ref)
    given = [tokenise(tokenizer, p, 1024) for p in pairs(tiny_ref)]
    apart = sum(2 * len(t.prompt) + len(t.chosen) + len(t.rejected) for t in given)
    assert (
        apart * 0.7
        > rows["reference"].tokens
        >= sum(len(t.prompt) - 1 + len(t.chosen) + len(t.rejected) for t in given)
    )


def test_what_dpo_reports_of_the_held_out_pairs_is_true_of_the_saved_model(
    tiny_ref: ModelRef, work: Work
) -> None:
    cfg = TEACH.model_copy(update={"method": "lora", "learning_rate": 1e-2})
    dpo(cfg, pairs(tiny_ref), tiny_ref, work=work)
    _, held_out = dpo_module.split(pairs(tiny_ref), cfg.held_out, cfg.seed)
    before, after = (
        models.load(tiny_ref, device="cpu"),
        models.load(ref(work, "teacher"), device="cpu"),
    )
    margins = []
    for pair in held_out:
        tokens = tokenise(before.tokenizer, pair, 1024)
        ratios = [
            log_probability(after.model, tokens.prompt, ids)
            - log_probability(before.model, tokens.prompt, ids)
            for ids in (tokens.chosen, tokens.rejected)
        ]
        margins.append(cfg.beta * (ratios[0] - ratios[1]))
    told = work.meta["held_out"]
    assert told["reward_margin"] == pytest.approx(sum(margins) / len(margins), abs=1e-4)
    assert told["reward_accuracy"] == sum(m > 0 for m in margins) / len(margins)
    loss = sum(math.log1p(math.exp(-m)) for m in margins) / len(margins)
    assert told["loss"] == pytest.approx(loss, abs=1e-4)


@torch.no_grad()
def log_probability(model, prompt: list[int], completion: list[int]) -> float:
    logits = model(input_ids=torch.tensor([[*prompt, *completion]])).logits[0]
    nll = torch.nn.functional.cross_entropy(
        logits[len(prompt) - 1 : -1], torch.tensor(completion), reduction="sum"
    )
    return -float(nll)


@pytest.mark.parametrize("packs", [True, False])
def test_a_pair_read_in_one_row_is_as_likely_as_its_completions_one_by_one(
    tiny_ref: ModelRef, packs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = models.load(tiny_ref, device="cpu")
    monkeypatch.setattr(preference_trainer.packing, "works", lambda _: packs)
    given = [tokenise(loaded.tokenizer, p, 1024) for p in pairs(tiny_ref)]
    found = Reader(*loaded, "float32").log_probabilities(given)
    for pair, row in zip(given, found.tolist(), strict=True):
        expected = [
            log_probability(loaded.model, pair.prompt, c) for c in (pair.chosen, pair.rejected)
        ]
        assert row == pytest.approx(expected, abs=1e-4)


def test_the_gradient_is_that_of_trls_dpo_trainer(tiny_ref: ModelRef, tmp_path: Path) -> None:
    loaded = models.load(tiny_ref, device="cpu")
    given = [tokenise(loaded.tokenizer, p, 1024) for p in pairs(tiny_ref)[:2]]
    reference = models.load(models.resolve("tiny:1"), device="cpu")  # so that the loss is not ln 2
    with torch.no_grad():
        before = Reader(*reference, "float32").log_probabilities(given)
    values, _ = preference_trainer.loss(
        Reader(*loaded, "float32").log_probabilities(given), before, 0.3
    )
    values.mean().backward()
    learnt = dict(loaded.model.named_parameters())
    ours = {n: w.grad.clone() for n, w in learnt.items() if w.grad is not None}
    loaded.model.zero_grad()
    theirs = trl_loss(loaded, reference.model, given, tmp_path)
    theirs.backward()
    assert values.mean().item() == pytest.approx(theirs.item(), abs=1e-5)
    for name, weight in learnt.items():
        torch.testing.assert_close(ours[name], weight.grad, rtol=1e-3, atol=1e-5)


def trl_loss(loaded, reference, given, folder: Path) -> torch.Tensor:
    blank = datasets.Dataset.from_list([{"prompt": "p", "chosen": "c", "rejected": "r"}])
    settings = DPOConfig(
        output_dir=str(folder), use_cpu=True, bf16=False, beta=0.3, report_to="none"
    )
    with off_screen():
        theirs = DPOTrainer(
            model=loaded.model,
            ref_model=reference,
            args=settings,
            train_dataset=blank,
            processing_class=loaded.tokenizer,
        )
    collator = DataCollatorForPreference(pad_token_id=loaded.tokenizer.pad_token_id)
    batch = collator(
        [
            {"prompt_ids": t.prompt, "chosen_ids": t.chosen, "rejected_ids": t.rejected}
            for t in given
        ]
    )
    assert theirs.model is not None
    return theirs.compute_loss(theirs.model, batch)


@pytest.mark.parametrize("method", ["full", "lora"])
def test_on_a_gpu_several_pairs_in_a_pass_teach_what_one_a_pass_does(
    tiny_ref: ModelRef, tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = TEACH.model_copy(
        update={"batch_size": 6, "micro_batch": 6, "epochs": 4, "method": method}
    )
    usual, gpus = at(tmp_path / "usual"), at(tmp_path / "gpus")
    dpo(cfg, pairs(tiny_ref), tiny_ref, work=usual)
    passes: list[int] = []
    reading, training = Reader.log_probabilities, preference_trainer.PreferenceTrainer

    def small(self, some):
        if len(some) > 2 and torch.is_grad_enabled():
            raise torch.OutOfMemoryError("CUDA out of memory")
        passes.append(len(some))
        self._together = True
        return reading(self, some)

    monkeypatch.setattr(Reader, "log_probabilities", small)
    monkeypatch.setattr(
        dpo_module, "PreferenceTrainer", lambda *a, **k: training(*a, **{**k, "tokens": 600})
    )
    dpo(cfg, pairs(tiny_ref), tiny_ref, work=gpus)
    assert set(passes) == {1, 2, 6}
    assert gpus.meta["loss"] == pytest.approx(usual.meta["loss"], abs=1e-5)
    assert gpus.meta["held_out"] == pytest.approx(usual.meta["held_out"], abs=1e-5)
    before, after = weights(usual, "teacher"), weights(gpus, "teacher")
    for name, weight in before.items():
        assert torch.allclose(weight, after[name], atol=2e-4), name


def test_runs_of_pairs_stay_within_their_tokens(tiny_ref: ModelRef) -> None:
    tokenizer = models.load_tokenizer(tiny_ref)
    given = [tokenise(tokenizer, pair, 1024) for pair in pairs(tiny_ref)]
    runs = preference_trainer.within(given, 600)
    assert [pair for run in runs for pair in run] == given
    assert len(runs) > 1
    for run in runs:
        longest = max(len(t.prompt) + max(len(t.chosen), len(t.rejected)) for t in run)
        assert len(run) == 1 or 2 * len(run) * longest <= 600
    assert [len(run) for run in preference_trainer.within(given, 1)] == [1] * len(given)


def test_dpo_in_bfloat16_keeps_weights_in_float32(tiny_ref: ModelRef, work: Work) -> None:
    dpo(TEACH.model_copy(update={"compute": "bfloat16"}), pairs(tiny_ref), tiny_ref, work=work)
    assert work.meta["loss"][0] == pytest.approx(math.log(2), abs=1e-2)
    assert {w.dtype for w in weights(work, "teacher").values()} == {torch.float32}


def test_dpo_counts_what_it_cuts_and_loses_no_pair(tiny_ref: ModelRef, work: Work) -> None:
    given = pairs(tiny_ref)
    longest = max(len(tokenise(models.load_tokenizer(tiny_ref), p, 999).prompt) for p in given)
    cfg = TEACH.model_copy(update={"max_length": longest + 20, "epochs": 1})
    dpo(cfg, given, tiny_ref, work=work)
    assert (work.meta["cut"], work.meta["learned_pairs"], work.meta["steps"]) == (8, 6, 3)
    with pytest.raises(UserError, match="8 of 8 pairs have more than"):
        dpo(cfg.model_copy(update={"overlong": "refuse"}), given, tiny_ref, work=work)
    with pytest.raises(UserError, match="prompt of pair 'p0'"):
        dpo(cfg.model_copy(update={"max_length": 20}), given, tiny_ref, work=work)


def test_dpo_drops_and_counts_pairs_that_are_equal_within_the_length(
    tiny_ref: ModelRef, work: Work
) -> None:
    given = pairs(tiny_ref)
    same = [dataclasses.replace(p, chosen="the same start, then A", rejected="the same start, B")
            for p in given[:3]]  # fmt: skip
    longest = max(len(tokenise(models.load_tokenizer(tiny_ref), p, 999).prompt) for p in given)
    cfg = TEACH.model_copy(update={"max_length": longest + 10, "epochs": 1, "held_out": 0.0})
    dpo(cfg, [*same, *given[3:]], tiny_ref, work=work)
    told = work.meta
    assert (told["pairs"], told["equal_pairs"], told["learned_pairs"]) == (8, 3, 5)
    with pytest.raises(UserError, match="in all 3 pairs, so there is nothing to prefer"):
        dpo(cfg, same, tiny_ref, work=work)


def test_dpo_without_pairs_says_what_to_do(tiny_ref: ModelRef, work: Work) -> None:
    with pytest.raises(UserError, match=r"got none: preferences\.rule .*=best_worst or rank"):
        dpo(TEACH, [], tiny_ref, work=work)


def test_without_the_chat_template_the_teacher_learns_on_the_bare_turn(
    tiny_ref: ModelRef, work: Work, tmp_path: Path
) -> None:
    tokenizer = models.load_tokenizer(tiny_ref)
    given = pairs(tiny_ref)
    stripped = [without_template(tokenizer, pair.prompt) for pair in given]
    assert stripped == [f"Write a task like task {i // 2}.<instruction>" for i in range(8)]
    with pytest.raises(UserError, match="written with another chat template"):
        without_template(tokenizer, stripped[0])
    dpo(TEACH.model_copy(update={"no_chat_template": True}), given, tiny_ref, work=work)
    by_hand = at(tmp_path / "by_hand")
    own = [dataclasses.replace(p, prompt=s) for p, s in zip(given, stripped, strict=True)]
    dpo(TEACH, own, tiny_ref, work=by_hand)
    assert same(weights(work, "teacher"), weights(by_hand, "teacher"))

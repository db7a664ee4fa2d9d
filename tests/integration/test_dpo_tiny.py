import dataclasses
import math
from pathlib import Path

import pytest
import torch
from training_kit import TEACH, at, pairs, ref, same, weights

from influbench import models
from influbench.errors import UserError
from influbench.models.chat import without_template
from influbench.records import ModelRef
from influbench.store import Work
from influbench.training import dpo as dpo_module
from influbench.training.dpo import DPOStageConfig, dpo
from influbench.training.pair_tokens import tokenise


@pytest.fixture
def work(tmp_path: Path) -> Work:
    return at(tmp_path / "entry")


@pytest.mark.parametrize(
    "how", [{"method": "full"}, {"reference": "precomputed"}, {"method": "lora"}], ids=str
)
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
    assert rows["train"].backward_passes == 6 * 2 * 3
    live = cfg.method == "lora" or cfg.reference == "live"
    assert rows["train"].forward_passes == 6 * 2 * 3 * (2 if live else 1)
    assert rows["prepare"].forward_passes == (0 if live else 8 * 2)


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


def test_dpo_feeds_the_prompt_as_generation_does(tiny_ref: ModelRef, work: Work) -> None:
    given = pairs(tiny_ref)
    loaded = models.load(tiny_ref, device="cpu")
    tokens = {p.id: tokenise(loaded.tokenizer, p, 1024) for p in given}
    lesson = dpo_module.Lesson(given, [], tokens)
    cfg = TEACH.model_copy(update={"reference": "precomputed"})
    trainer = dpo_module._dpo_trainer(cfg, lesson, loaded, None, work)
    batch = trainer.data_collator([trainer.train_dataset[0], trainer.train_dataset[3]])
    for row, (pair, side) in enumerate(
        [(given[0], "chosen"), (given[3], "chosen"), (given[0], "rejected"), (given[3], "rejected")]
    ):
        fed = loaded.tokenizer(pair.prompt, add_special_tokens=False).input_ids
        length = int(batch["attention_mask"][row].sum())
        ids, learned = batch["input_ids"][row, :length], batch["completion_mask"][row, :length]
        assert ids[: len(fed)].tolist() == fed
        assert learned.tolist() == [0] * len(fed) + [1] * (length - len(fed))
        text = loaded.tokenizer.decode(ids[len(fed) :])
        assert text == dataclasses.asdict(pair)[side]


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


def test_a_reference_that_is_not_the_teacher_stops_dpo(
    tiny_ref: ModelRef, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = models.resolve("tiny:1")
    loaded = iter([models.load(tiny_ref, device="cpu"), models.load(other, device="cpu")])
    monkeypatch.setattr(models, "load", lambda *_, **__: next(loaded))
    with pytest.raises(AssertionError, match="not ln 2"):
        dpo(TEACH, pairs(tiny_ref), tiny_ref, work=work)


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

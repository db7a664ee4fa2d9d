import dataclasses
import json
import logging
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import datasets
import pytest
import torch
from safetensors.torch import load_file

from influbench import dpo as dpo_module
from influbench import models, training
from influbench.dpo import DPO, DPOStageConfig, dpo, tokenise
from influbench.errors import UserError
from influbench.meter import Meter
from influbench.progress import Progress, SilentProgress
from influbench.records import Example, ModelRef, Pair
from influbench.store import Stage, Store, Work
from influbench.student import StudentSettings, load_student
from influbench.training import SFT, WARM_UP, SFTConfig, WarmupConfig, sft, warm_up

EXAMPLES = [
    Example(
        id=f"e{i}", instruction=f"Say the letter {chr(97 + i)}.", response=chr(97 + i) * (3 + i)
    )
    for i in range(12)
]
WARM = WarmupConfig(batch_size=4, epochs=3, learning_rate=1e-2, device="cpu")
FINE = SFTConfig(batch_size=4, micro_batch=2, epochs=3, learning_rate=5e-3, device="cpu")
TEACH = DPOStageConfig(epochs=3, learning_rate=1e-3, held_out=0.25, device="cpu")


class Killed(BaseException):
    pass


class Watched:
    """Remembers where a task began; kills the process, as it were, when so many steps are done."""

    def __init__(self, last: int | None = None) -> None:
        self.last = last
        self.began: int | None = None

    @contextmanager
    def task(self, description: str, total: int, done: int = 0) -> Iterator[Callable[[int], None]]:
        self.began = now = done

        def advance(n: int) -> None:
            nonlocal now
            now += n
            if now == self.last:
                raise Killed

        yield advance

    def note(self, text: str) -> None:
        pass


@pytest.fixture(scope="module")
def base() -> ModelRef:
    return models.resolve("tiny")


@pytest.fixture
def work(tmp_path: Path) -> Work:
    return at(tmp_path / "entry")


def at(path: Path, progress: Progress | None = None) -> Work:
    path.mkdir(exist_ok=True)
    return Work(path=path, meter=Meter(), progress=progress or SilentProgress(), title="stage")


def ref(work: Work, name: str) -> ModelRef:
    return ModelRef(path=str(work.path / name), digest="x")


def weights(work: Work, name: str) -> dict[str, torch.Tensor]:
    return load_file(work.path / name / "model.safetensors")


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def pairs(base: ModelRef) -> list[Pair]:
    tokenizer = models.load_tokenizer(base)
    made = []
    for i in range(8):
        asked = [("user", f"Write a task like task {i // 2}.")]
        prompt = models.chat_prompt(tokenizer, asked, prefill="<instruction>")
        chosen, rejected = f"Sort {i} numbers.</instruction>", f"{'hm ' * (i + 1)}</instruction>"
        ids = {"chosen_id": f"c{2 * i}", "rejected_id": f"c{2 * i + 1}"}
        made.append(
            Pair(
                id=f"p{i}",
                group=f"g{i // 2}",
                prompt=prompt,
                chosen=chosen,
                rejected=rejected,
                margin=1.0,
                **ids,
            )
        )
    return made


# warm-up


def test_warm_up_learns_and_leaves_its_optimizer(base: ModelRef, work: Work) -> None:
    warm_up(WARM, EXAMPLES, base, work=work)
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
    assert [row.phase for row in work.meter.rows()] == ["train"]
    assert work.meter.rows()[0].forward_passes == work.meter.rows()[0].backward_passes == 36


def test_warm_up_is_one_adamw_step_as_torch_makes_it(base: ModelRef, work: Work) -> None:
    cfg = WarmupConfig(batch_size=6, learning_rate=1e-2, device="cpu")
    warm_up(cfg, EXAMPLES, base, work=work)  # two steps; the first has learning rate 0
    held = load_student(base, StudentSettings(device="cpu", max_length=1024))
    optimizer = torch.optim.AdamW(held.model.parameters(), lr=0.0, weight_decay=0.0)
    for rate, batch in zip((0.0, 5e-3), training._batches(cfg, EXAMPLES), strict=True):
        optimizer.zero_grad()
        held.loss(batch).mean().backward()
        torch.nn.utils.clip_grad_norm_(held.model.parameters(), 1.0)
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
    expected = dict(held.model.named_parameters())
    for name, value in weights(work, "student").items():
        torch.testing.assert_close(value, expected[name].detach(), rtol=1e-4, atol=1e-6)


def test_warm_up_needs_two_steps(base: ModelRef, work: Work) -> None:
    with pytest.raises(UserError, match=r"at least 2 optimizer steps.*got 1 from 12 examples"):
        warm_up(WarmupConfig(batch_size=12), EXAMPLES, base, work=work)


def test_a_loss_that_is_not_finite_names_the_batch_and_keeps_nothing(
    base: ModelRef, tmp_path: Path
) -> None:
    cfg = WARM.model_copy(update={"learning_rate": 1e30})
    with pytest.raises(UserError, match=r"warm-up step \d: .*nan.* learning rate .* on e\d+, e\d+"):
        Store(tmp_path).run(WARM_UP, cfg, EXAMPLES, base)
    assert not list(tmp_path.glob("*/manifest.json"))
    assert not list(tmp_path.glob("*/student"))


# SFT


def test_sft_trains_on_the_tokens_of_the_student(base: ModelRef, work: Work) -> None:
    held = load_student(base, StudentSettings(device="cpu", max_length=1024))
    encoded = [held.encode(e) for e in EXAMPLES]
    trainer = training._sft_trainer(FINE, encoded, held, work)
    rows = trainer.train_dataset
    assert isinstance(rows, datasets.Dataset)
    for row, own in zip(rows, encoded, strict=True):
        batch = trainer.data_collator([dict(row)])
        assert tuple(batch["input_ids"][0].tolist()) == own.ids
        learned = (batch["labels"][0] != -100).nonzero().flatten().tolist()
        assert learned == list(range(own.response_start, len(own.ids)))


def test_sft_first_loss_is_the_students(base: ModelRef, work: Work) -> None:
    cfg = SFTConfig(batch_size=12, micro_batch=3, device="cpu")
    sft(cfg, EXAMPLES, base, work=work)
    held = load_student(base, StudentSettings(device="cpu", max_length=1024))
    counts = [len(e.ids) - e.response_start for e in map(held.encode, EXAMPLES)]
    by_example = [held.loss([e]).item() for e in EXAMPLES]
    by_token = sum(n * x for n, x in zip(counts, by_example, strict=True)) / sum(counts)
    assert work.meta["loss"] == [pytest.approx(by_token, rel=1e-5)]
    assert work.meta["learning_rate"] == [5e-6]


def test_sft_learns_quietly_and_is_metered(base: ModelRef, work: Work, capfd) -> None:
    sft(FINE, EXAMPLES, base, work=work)
    assert capfd.readouterr() == ("", "")
    assert work.meta["steps"] == len(work.meta["loss"]) == 9
    assert work.meta["loss"][-1] < work.meta["loss"][0] - 0.1
    (row,) = work.meter.rows()
    assert (row.phase, row.items) == ("train", 36)
    assert row.forward_passes == row.backward_passes == 36
    assert not (work.path / "student/optimizer.pt").exists()
    load_student(ref(work, "student")).loss(EXAMPLES[:1])


def test_sft_counts_what_it_cuts_or_refuses_it(base: ModelRef, work: Work) -> None:
    rows = [*EXAMPLES[:3], Example(id="long", instruction="a", response="b" * 200)]
    cfg = FINE.model_copy(update={"max_length": 100, "epochs": 1})
    sft(cfg, rows, base, work=work)
    assert (work.meta["cut"], work.meta["examples"], work.meta["steps"]) == (1, 4, 1)
    with pytest.raises(UserError, match="1 of 4 examples have more than 100 tokens"):
        sft(cfg.model_copy(update={"overlong": "refuse"}), rows, base, work=work)
    rows = [*EXAMPLES[:3], Example(id="long", instruction="a" * 200, response="b")]
    with pytest.raises(UserError, match="'long': its prompt alone fills the 100 tokens"):
        sft(cfg, rows, base, work=work)


def test_sft_stops_when_the_loss_is_not_finite(base: ModelRef, work: Work) -> None:
    cfg = FINE.model_copy(update={"learning_rate": 1e30})
    with pytest.raises(UserError, match=r"(loss|grad_norm) is (nan|inf) at step \d of 9"):
        sft(cfg, EXAMPLES, base, work=work)
    assert not (work.path / "student").exists()


# DPO


@pytest.mark.parametrize(
    "how", [{"method": "full"}, {"reference": "precomputed"}, {"method": "lora"}], ids=str
)
def test_dpo_starts_at_ln_2_and_prefers_the_chosen(
    base: ModelRef, work: Work, how: dict[str, str], capfd
) -> None:
    rate = 1e-2 if how.get("method") == "lora" else 1e-3
    cfg = DPOStageConfig.model_validate({**TEACH.model_dump(), **how, "learning_rate": rate})
    dpo(cfg, pairs(base), base, work=work)
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
    base: ModelRef, work: Work
) -> None:
    cfg = TEACH.model_copy(update={"method": "lora", "learning_rate": 1e-2})
    dpo(cfg, pairs(base), base, work=work)
    _, held_out = dpo_module.split(pairs(base), cfg.held_out, cfg.seed)
    before, after = models.load(base, device="cpu"), models.load(ref(work, "teacher"), device="cpu")
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


def test_dpo_feeds_the_prompt_as_generation_does(base: ModelRef, work: Work) -> None:
    given = pairs(base)
    loaded = models.load(base, device="cpu")
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
        assert text == dataclasses.asdict(pair)[side] + "<|im_end|>"


def test_dpo_in_bfloat16_keeps_weights_in_float32(base: ModelRef, work: Work) -> None:
    dpo(TEACH.model_copy(update={"compute": "bfloat16"}), pairs(base), base, work=work)
    assert work.meta["loss"][0] == pytest.approx(math.log(2), abs=1e-2)
    assert {w.dtype for w in weights(work, "teacher").values()} == {torch.float32}


def test_dpo_counts_what_it_cuts_and_loses_no_pair(base: ModelRef, work: Work) -> None:
    given = pairs(base)
    longest = max(len(tokenise(models.load_tokenizer(base), p, 999).prompt) for p in given)
    cfg = TEACH.model_copy(update={"max_length": longest + 20, "epochs": 1})
    dpo(cfg, given, base, work=work)
    assert (work.meta["cut"], work.meta["learned_pairs"], work.meta["steps"]) == (8, 6, 3)
    with pytest.raises(UserError, match="8 of 8 pairs have more than"):
        dpo(cfg.model_copy(update={"overlong": "refuse"}), given, base, work=work)
    with pytest.raises(UserError, match="prompt of pair 'p0'"):
        dpo(cfg.model_copy(update={"max_length": 20}), given, base, work=work)


def test_dpo_without_pairs_says_what_to_do(base: ModelRef, work: Work) -> None:
    with pytest.raises(UserError, match=r"got none: preferences\.rule .*=best_worst or rank"):
        dpo(TEACH, [], base, work=work)


def test_a_reference_that_is_not_the_teacher_stops_dpo(
    base: ModelRef, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = models.resolve("tiny:1")
    loaded = iter([models.load(base, device="cpu"), models.load(other, device="cpu")])
    monkeypatch.setattr(models, "load", lambda *_, **__: next(loaded))
    with pytest.raises(AssertionError, match="not ln 2"):
        dpo(TEACH, pairs(base), base, work=work)


# killed, repeated, quiet


def stages(base: ModelRef) -> dict[str, tuple]:
    lora = TEACH.model_copy(update={"method": "lora"})
    precomputed = TEACH.model_copy(update={"reference": "precomputed"})
    return {
        "warm_up": (warm_up, WARM, EXAMPLES, "student"),
        "sft": (sft, FINE, EXAMPLES, "student"),
        "dpo": (dpo, TEACH, pairs(base), "teacher"),
        "dpo lora": (dpo, lora, pairs(base), "teacher"),
        "dpo precomputed": (dpo, precomputed, pairs(base), "teacher"),
    }


@pytest.mark.parametrize("name", ["warm_up", "sft", "dpo", "dpo lora", "dpo precomputed"])
def test_twice_the_same_and_the_same_after_a_kill(
    base: ModelRef, tmp_path: Path, name: str
) -> None:
    function, cfg, given, folder = stages(base)[name]
    whole, again = at(tmp_path / "whole"), at(tmp_path / "again")
    function(cfg, given, base, work=whole)
    function(cfg, given, base, work=again)
    assert same(weights(whole, folder), weights(again, folder))
    assert whole.meta == again.meta

    often = cfg.model_copy(update={"checkpoint_seconds": 0.0})
    with pytest.raises(Killed):
        function(often, given, base, work=at(tmp_path / "killed", Watched(5)))
    assert not (tmp_path / "killed" / folder).exists()
    watched = Watched()
    resumed = at(tmp_path / "killed", watched)
    function(often, given, base, work=resumed)
    assert watched.began == 4  # the kill took one step
    assert same(weights(whole, folder), weights(resumed, folder))
    assert whole.meta == resumed.meta


@pytest.mark.parametrize("stage", [WARM_UP, SFT, DPO], ids=lambda s: s.name)
def test_the_store_keeps_the_model_and_nothing_else(
    base: ModelRef, tmp_path: Path, stage: Stage
) -> None:
    cfg, given, name = {
        "warm_up": (WARM, EXAMPLES, "student"),
        "sft": (FINE, EXAMPLES, "student"),
        "dpo": (TEACH, pairs(base), "teacher"),
    }[stage.name]
    entry = Store(tmp_path).run(
        stage, cfg.model_copy(update={"checkpoint_seconds": 0.0}), given, base
    )
    assert {p.name for p in entry.path.iterdir()} == {"manifest.json", "ledger.jsonl", name}
    models.load(entry.model(name))
    for file in ("config.json", "generation_config.json", "tokenizer.json"):
        assert (entry.path / name / file).read_text() == (Path(base.path) / file).read_text()
    assert Store(tmp_path).run(stage, cfg, given, base).cached


def test_loggers_are_left_as_found(base: ModelRef, work: Work) -> None:
    logger = logging.getLogger("trl")
    logger.setLevel(logging.INFO)
    sft(FINE.model_copy(update={"epochs": 1}), EXAMPLES, base, work=work)
    assert logger.level == logging.INFO
    logger.setLevel(logging.NOTSET)

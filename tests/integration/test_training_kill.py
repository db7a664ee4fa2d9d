import logging
from pathlib import Path

import pytest
from training_kit import EXAMPLES, FINE, TEACH, WARM, Killed, Watched, at, pairs, same, weights

from influbench import models
from influbench.data.records import ModelRef
from influbench.store import Stage, Store, Work
from influbench.training import DPO, SFT, WARM_UP, sft, warm_up
from influbench.training.dpo import dpo


@pytest.fixture
def work(tmp_path: Path) -> Work:
    return at(tmp_path / "entry")


def stages(tiny_ref: ModelRef) -> dict[str, tuple]:
    lora = TEACH.model_copy(update={"method": "lora"})
    return {
        "warm_up": (warm_up, WARM, EXAMPLES, "student"),
        "sft": (sft, FINE, EXAMPLES, "student"),
        "sft lora": (sft, FINE.model_copy(update={"method": "lora"}), EXAMPLES, "student"),
        "dpo": (dpo, TEACH, pairs(tiny_ref), "teacher"),
        "dpo lora": (dpo, lora, pairs(tiny_ref), "teacher"),
    }


@pytest.mark.parametrize("name", ["warm_up", "sft", "sft lora", "dpo", "dpo lora"])
def test_twice_the_same_and_the_same_after_a_kill(
    tiny_ref: ModelRef, tmp_path: Path, name: str
) -> None:
    function, cfg, given, folder = stages(tiny_ref)[name]
    whole, again = at(tmp_path / "whole"), at(tmp_path / "again")
    function(cfg, given, tiny_ref, work=whole)
    function(cfg, given, tiny_ref, work=again)
    assert same(weights(whole, folder), weights(again, folder))
    assert whole.meta == again.meta

    often = cfg.model_copy(update={"checkpoint_seconds": 0.0})
    with pytest.raises(Killed):
        function(often, given, tiny_ref, work=at(tmp_path / "killed", Watched(5)))
    assert not (tmp_path / "killed" / folder).exists()
    watched = Watched()
    resumed = at(tmp_path / "killed", watched)
    function(often, given, tiny_ref, work=resumed)
    assert watched.began == 4  # the kill took one step
    assert same(weights(whole, folder), weights(resumed, folder))
    assert whole.meta == resumed.meta


@pytest.mark.parametrize("stage", [WARM_UP, SFT, DPO], ids=lambda s: s.name)
def test_the_store_keeps_the_model_and_nothing_else(
    tiny_ref: ModelRef, tmp_path: Path, stage: Stage
) -> None:
    cfg, given, name = {
        "warm_up": (WARM, EXAMPLES, "student"),
        "sft": (FINE, EXAMPLES, "student"),
        "dpo": (TEACH, pairs(tiny_ref), "teacher"),
    }[stage.name]
    entry = Store(tmp_path).run(
        stage, cfg.model_copy(update={"checkpoint_seconds": 0.0}), given, tiny_ref
    )
    assert {p.name for p in entry.path.iterdir()} == {"manifest.json", "ledger.jsonl", name}
    models.load(entry.model(name))
    for file in ("config.json", "generation_config.json", "tokenizer.json"):
        assert (entry.path / name / file).read_text() == (Path(tiny_ref.path) / file).read_text()
    assert Store(tmp_path).run(stage, cfg, given, tiny_ref).cached


def test_loggers_are_left_as_found(tiny_ref: ModelRef, work: Work) -> None:
    logger = logging.getLogger("peft")
    logger.setLevel(logging.INFO)
    sft(FINE.model_copy(update={"epochs": 1}), EXAMPLES, tiny_ref, work=work)
    assert logger.level == logging.INFO
    logger.setLevel(logging.NOTSET)

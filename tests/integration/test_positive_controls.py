"""Positive controls on the tiny model: material of equal length, and rows with a known order."""

import json
from pathlib import Path

import numpy as np
import pytest

from influbench.errors import UserError
from influbench.models import ModelConfig
from influbench.store import Store
from influbench.store.session import Session
from influbench.studies import kind, mixtures
from influbench.studies.kinds import sees, transmits
from influbench.studies.study_file import load_study

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> list[str]:
    folder = tmp_path_factory.mktemp("sources")
    sums = [
        {
            "question": f"What is {n} and {n + 1}?",
            "answer": f"{n}+{n + 1}={2 * n + 1}" + "." * (n % 7),
        }
        for n in range(60)
    ]
    others = [
        {"instruction": f"Name animal {n}.", "output": "The animal is a dog"[: 6 + n % 13]}
        for n in range(80)
    ]
    for name, rows in (("sums", sums), ("animals", others)):
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(text)
    return [f"mixture.useful={folder}/sums.jsonl", f"mixture.other={folder}/animals.jsonl"]


def result(tmp_path: Path, study: str, settings: list[str]):
    found = load_study(ROOT / "experiments" / f"{study}.yaml", ["seed=0", *settings])
    cfg = next(iter(found.runs.values()))
    made = kind.load(found.kind)
    made.check(cfg)
    return made.run(cfg, Session(Store(tmp_path)), study, "r")


def values(found, metric: str) -> dict[str, float]:
    return {row.estimator: row.value for row in found.rows if row.metric == metric}


def test_other_rows_have_as_many_tokens_as_the_useful_ones_and_each_is_used_once(sources):
    size = mixtures.sizes(ModelConfig(name="tiny"))
    useful, others = (mixtures.drawn(source.partition("=")[2], 600, 0, size) for source in sources)
    found = mixtures.beside(useful[:30], others, size)
    assert len({row.id for row in found}) == 30
    assert np.mean([abs(size(a) - size(b)) for a, b in zip(useful, found, strict=False)]) <= 1.5
    with pytest.raises(UserError, match="at least 30 rows of the other source, got 12"):
        mixtures.beside(useful[:30], others[:12], size)
    shortest = min(map(size, useful))
    short = mixtures.drawn(sources[0].partition("=")[2], shortest, 0, size)
    assert {size(row) for row in short} == {shortest}


def test_rows_that_share_the_references_words_are_seen_and_chance_is_one_half(tmp_path, sources):
    small = ["num_candidates=24", "num_warmup=8", "num_references=6", "student.name=tiny"]
    asked = [*sources, *small, "methods=[bm25,random]", "warmup.compute=float32"]
    asked += ["warmup.batch_size=4"]
    areas = values(result(tmp_path, "positive_control_sees", asked), "auc")
    assert areas["bm25"] > 0.7
    assert 0.2 < areas["random"] < 0.8


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ({"useful:a": 2.0, "useful:b": 3.0, "other:a": 1.0, "other:b": 0.0}, 1.0),
        ({"useful:a": 1.0, "other:a": 1.0}, 0.5),
        ({"useful:a": 0.0, "useful:b": 2.0, "other:a": 1.0}, 0.5),
    ],
)
def test_the_area_is_the_share_of_pairs_in_order(scores, expected):
    assert sees.area(scores, np.random.default_rng(0)).value == expected


def test_every_mixture_is_trained_from_the_base_and_the_slope_is_that_of_the_losses(
    tmp_path, sources
):
    small = ["num_training=16", "num_evaluation=8", "student.name=tiny", "sft.learning_rate=1e-3"]
    found = result(tmp_path, "positive_control_resolves", [*sources, *small])
    losses = values(found, "heldout_loss")
    assert list(losses) == ["base", "0% useful", "25% useful", "50% useful", "100% useful"]
    assert losses["100% useful"] < min(losses["0% useful"], losses["base"])
    shares = np.array([0, 0.25, 0.5, 1])
    expected = np.polyfit(shares, [losses[f"{s:.0%} useful"] for s in shares], 1)[0]
    assert values(found, "heldout_loss_slope")["slope"] == pytest.approx(expected)
    (slope,) = (row for row in found.rows if row.metric == "heldout_loss_slope")
    assert slope.low is not None
    assert slope.high is not None
    assert slope.low < slope.value < slope.high, "the doubt that the prompts leave"
    assert slope.n == 8


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("What is 3 plus 4?", 1),
        ("Calculate 15 percent.", 1),
        ("Write 3 haikus.", 0),
        ("Name an animal.", 0),
    ],
)
def test_the_arithmetic_rule(text, found):
    assert transmits.arithmetic(text) == found


def test_a_teacher_taught_by_length_writes_longer_and_flipped_shorter(tmp_path):
    small = [
        *("teacher.name=tiny", "teacher.dtype=float32", "rule=length", "num_candidates=32"),
        *("num_written=12", "generation.accept_unclosed=true", "generation.num_shots=2"),
        *("generation.max_seed_characters=80", "generation.instruction.temperature=1.0"),
        *("generation.prompts_per_chunk=8", "dpo.compute=float32", "dpo.learning_rate=1e-2"),
        "dpo.epochs=3",
    ]
    found = result(tmp_path, "positive_control_transmits", small)
    written = values(found, "written_length")
    assert list(written) == ["none", "random", "length", "flipped:length"]
    assert written["length"] > written["flipped:length"]
    assert len(set(values(found, "pairs").values())) == 1


def test_by_chance_turns_some_pairs_and_keeps_them_all():
    from influbench.data.records import Pair

    pairs = [
        Pair(
            id=f"{n}>x", group="g", prompt="p", chosen="a", rejected="b", chosen_id=str(n),
            rejected_id="x", margin=1.0,
        )
        for n in range(40)
    ]  # fmt: skip
    turned = transmits.by_chance(pairs, 0)
    assert transmits.by_chance(pairs, 0) == turned
    assert 8 < sum(pair.chosen == "b" for pair in turned) < 32

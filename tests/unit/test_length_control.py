from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import minimize
from scipy.special import expit

from influbench.data.records import Outcome
from influbench.errors import UserError
from influbench.evaluation import length_control
from influbench.evaluation.length_control import (
    length_controlled_win_rate,
    read_gamed,
    variant,
)
from influbench.evaluation.suites import alpaca_eval

DATA = Path(__file__).parents[3] / "shared" / "data" / "alpaca_eval"
real = pytest.mark.skipif(not DATA.is_dir(), reason="needs the development data")

# alpaca_eval 0.6.6, formula length_controlled_minimal, on gpt4_turbo_judgements.csv: printed by
# benchmarks/alpaca_eval_package.py.
PACKAGE = {
    "FuseChat-Llama-3.2-1B-Instruct": 26.032184684624752,
    "OpenHermes-2.5-Mistral-7B": 20.64798225222053,
    "alpaca-7b": 19.549396078011164,
    "alpaca-7b_verbose": 9.713562053116359,
    "gemma-7b-it": 13.002420970519585,
    "phi-2-sft": 8.54691108850413,
    "text_davinci_001": 17.154352345449624,
    "vicuna-7b-v1.5": 11.227433456200679,
}


def made(count: int, seed: int = 0, bias: float = 1.5, skill: float = -0.5):
    """Wins of a model that is better by ``skill`` at equal lengths; tanh slope ``bias``."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(50, 2000, (2, count)).astype(float)
    gap = lengths[1] - lengths[0]
    chance = expit(skill - bias * np.tanh(gap / gap.std(ddof=1)))
    return rng.binomial(1, chance).astype(float), lengths[0], lengths[1]


def test_the_model_is_recovered():
    wins, mine, theirs = made(20_000)
    rate = length_controlled_win_rate(wins, mine, theirs)
    assert rate.value == pytest.approx(100 * expit(-0.5), abs=3 * (rate.stderr or 0))
    assert rate.n == 20_000
    raw = wins.mean() * 100
    longer = length_controlled_win_rate(wins, mine + 500, theirs).value
    assert abs(longer - raw) > 3, "a longer model that wins as often is worse at equal length"


def test_the_fit_is_the_optimum_of_the_penalised_likelihood():
    wins, mine, theirs = made(300)
    gap = theirs - mine
    rows = np.stack([np.tanh(gap / gap.std(ddof=1)), np.ones(300)], axis=1)
    ones = np.ones(300)
    strength = length_control._cross_validated(rows, wins, ones, 1e-9)
    assert strength in length_control.STRENGTHS

    def objective(weight):
        losses = length_control._losses(rows, wins, weight)
        return np.abs(weight).sum() + strength * losses.sum()

    found = minimize(
        objective, [0.1, 0.1], method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-9}
    )
    weight = length_control._fit(rows, wins, ones, strength, 1e-9, length_control._generator())
    assert weight == pytest.approx(found.x, abs=1e-5)
    expected = 100 * expit(weight[1])
    assert length_controlled_win_rate(wins, mine, theirs, tolerance=1e-9).value == pytest.approx(
        expected
    )


def test_the_standard_error_is_that_of_the_bootstrap():
    wins, mine, theirs = made(400, bias=2.0)
    rate = length_controlled_win_rate(wins, mine, theirs)
    rng = np.random.default_rng(1)
    draws = []
    for _ in range(60):
        pick = rng.integers(400, size=400)
        draws.append(length_controlled_win_rate(wins[pick], mine[pick], theirs[pick]).value)
    assert rate.stderr == pytest.approx(np.std(draws, ddof=1), rel=0.3)


def test_equal_lengths_leave_the_win_rate():
    wins = np.array([1.0, 0.0, 0.0, 0.0] * 50)
    rate = length_controlled_win_rate(wins, np.full(200, 9.0), np.full(200, 9.0), tolerance=1e-9)
    assert rate.value == pytest.approx(25.0, abs=0.2)
    assert rate.stderr == pytest.approx(100 * np.sqrt(0.25 * 0.75 / 200), rel=0.02)


def test_nobody_wins():
    lengths = np.arange(40.0)
    rate = length_controlled_win_rate(np.zeros(40), lengths, lengths[::-1])
    assert 0 <= rate.value < 5


def test_difficulty_and_the_official_table_change_the_formula(tmp_path):
    wins, mine, theirs = made(200)
    hard = np.random.default_rng(3).normal(size=200)
    plain = length_controlled_win_rate(wins, mine, theirs)
    with_difficulty = length_controlled_win_rate(wins, mine, theirs, difficulty=hard)
    rng = np.random.default_rng(4)
    path = tmp_path / "df_gamed.csv"
    pd.DataFrame(
        {
            "model": "gamed",
            "preference": rng.uniform(size=400),
            "index": np.tile(np.arange(200), 2),
            "std_delta_len": rng.normal(size=400),
            "instruction_difficulty": np.tile(hard, 2),
            "not_gamed_baseline": False,
        }
    ).to_csv(path, index=False)
    gamed = read_gamed(path)
    assert gamed.by_index[7] == pytest.approx(hard[7])
    official = length_controlled_win_rate(wins, mine, theirs, difficulty=hard, gamed=gamed)
    assert len({round(r.value, 6) for r in (plain, with_difficulty, official)}) == 3
    assert [variant(None, None), variant(hard, None), variant(hard, gamed)] == [
        "length_only",
        "difficulty",
        "official",
    ]
    with pytest.raises(UserError, match="needs the difficulty"):
        length_controlled_win_rate(wins, mine, theirs, gamed=gamed)


def test_bad_input_is_named(tmp_path):
    with pytest.raises(UserError, match="less 1"):
        length_controlled_win_rate(np.full(9, 1.5), np.ones(9), np.ones(9))
    with pytest.raises(UserError, match="at least 5"):
        length_controlled_win_rate(np.ones(3), np.ones(3), np.ones(3))
    with pytest.raises(UserError, match=r"df_gamed\.csv"):
        read_gamed(tmp_path / "none.csv")
    (tmp_path / "x.csv").write_text("index,preference\n1,2\n")
    with pytest.raises(UserError, match="std_delta_len"):
        read_gamed(tmp_path / "x.csv")


@real
@pytest.mark.parametrize("model", PACKAGE)
def test_published_rates(model):
    table = pd.read_csv(DATA / "gpt4_turbo_judgements.csv")
    rows = table[table["model"] == model]
    published = pd.read_csv(DATA / "gpt4_turbo_leaderboard.csv").set_index("model").loc[model]
    wins = np.asarray(rows["preference"], dtype=float) - 1
    rate = alpaca_eval.win_rate(
        [Outcome(metric="win", item=str(i), value=float(w)) for i, w in enumerate(wins)]
    )
    assert rate.value == pytest.approx(published["win_rate"], abs=1e-9)
    assert rate.stderr == pytest.approx(published["standard_error"], abs=1e-9)
    assert rate.n == published["n_total"]
    lengths = (np.asarray(rows["model_chars"]), np.asarray(rows["baseline_chars"]))
    assert length_controlled_win_rate(wins, *lengths).value == pytest.approx(
        PACKAGE[model], abs=0.01
    )

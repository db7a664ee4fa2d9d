"""The two studies outside the loop on the tiny model: planted data, and predicting training."""

import pytest

from experiments import planted as planted_study
from experiments import prediction as prediction_study
from influbench.results import load_study
from influbench.studies.planted_kinds import KINDS


def cells(study, root):
    rows = load_study(study, root).estimates
    return {(r["estimator"], r["seed"], r["metric"]): r for r in rows.to_dict("records")}


def places(tmp_path, study):
    return {"name": study, "store": tmp_path / "store", "results": tmp_path / "results"}


def test_planted_study_writes_auc_by_kind_and_cost(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    planted_study.main(
        student="tiny",
        methods="first_order,random,length",
        count=12,
        warmup=8,
        references=4,
        seeds="0,1",
        **places(tmp_path, "small"),
    )
    found = cells("small", tmp_path / "results")
    for method in ("first_order", "random", "length"):
        for seed in (0, 1):
            for metric in ("auc", "paired", *(f"auc_{kind}" for kind in KINDS)):
                row = found[method, seed, metric]
                assert 0 <= row["low"] <= row["value"] <= row["high"] <= 1
    assert found["length", 0, "auc"]["value"] == pytest.approx(0.5, abs=0.1)
    assert found["length", 0, "auc_shuffled"]["value"] == 0.5
    assert found["first_order", 0, "passes_per_candidate"]["value"] == 3
    assert "first_order" in capsys.readouterr().out
    before = {p: p.read_bytes() for p in (tmp_path / "store").glob("*/manifest.json")}
    assert sum("warm_up" in str(p) for p in before) == 2


def test_prediction_study_trains_thirds_from_one_state(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    prediction_study.main(
        student="tiny",
        methods="first_order,random",
        count=12,
        warmup=8,
        references=4,
        evaluation=4,
        seeds="0,1",
        bank=3,
        learning_rate=1e-3,
        **places(tmp_path, "small"),
    )
    found = cells("small", tmp_path / "results")
    for method in ("first_order", "random"):
        for metric in (
            "gain_top",
            "gain_bottom",
            "gain_top_minus_bottom",
            "gain_correlation",
            "lds",
        ):
            assert (method, 0, metric) in found
        gains = [found[method, 0, f"gain_{part}"]["value"] for part in ("top", "bottom")]
        assert min(gains) > 0  # any training on English helps a random model
        difference = found[method, 0, "gain_top_minus_bottom"]["value"]
        assert difference == pytest.approx(gains[0] - gains[1])
    trainings = list((tmp_path / "store").glob("sft-*/manifest.json"))
    assert len(trainings) == 2 * 2 * 3 + 3  # methods, seeds, thirds; and the bank, which is shared
    assert "lds" in capsys.readouterr().out

"""A study that stops after scoring: agreement and cost, no student."""

from pathlib import Path

import pytest

from influbench.errors import UserError
from influbench.loop import pipeline
from influbench.loop import reading as presets
from influbench.loop.settings import RunConfig
from influbench.results import load_study
from influbench.studies import grid as sweep
from influbench.studies.study_file import load_study as load_study_file
from influbench.studies.study_file import one_run

STOP = [
    "stop_after=scores",
    "scoring.estimator=none",
    "scoring.compare=[exact, logra, random]",
]


def test_nothing_is_taught_trained_or_evaluated(tmp_path):
    cfg = presets.load_run("tiny", [*STOP, "name=small"])
    study = one_run(cfg)
    sweep.run_all(study, tmp_path / "store", tmp_path / "results")
    stages = {
        p.name.split("-")[0]
        for p in (tmp_path / "store").glob("*/manifest.json")
        for p in [p.parent]
    }
    assert stages == {"generate", "warm_up", "score", "noise_floor"}
    rows = load_study("small", tmp_path / "results").estimates
    assert set(rows["estimator"]) == {"exact", "logra", "random"}
    assert {"spearman", "kendall_within", "seconds_per_candidate"} <= set(rows["metric"])
    share = rows[(rows["estimator"] == "logra") & (rows["metric"] == "parameter_share")]["value"]
    assert 0 < share.item() < 1
    assert not {"pairs", "grade", "heldout_loss"} & set(rows["metric"])


@pytest.mark.parametrize("change", ["scoring.estimator=exact", "rounds=2"])
def test_an_estimator_that_would_teach_nobody_is_refused(change):
    with pytest.raises(UserError, match="stop_after = scores: expected"):
        pipeline.check(presets.load_run("tiny", [*STOP, change]))


def test_the_agreement_study_scores_every_method_that_works_offline():
    root = Path(__file__).parents[2]
    for cfg in load_study_file(root / "experiments/agreement.yaml").runs.values():
        assert isinstance(cfg, RunConfig)
        assert cfg.stop_after == "scores"
        assert len(cfg.scoring.compare) >= 18
        assert {"exact", "random", "length", "bm25"} <= set(cfg.scoring.compare)

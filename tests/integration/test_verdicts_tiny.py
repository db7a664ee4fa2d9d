"""The studies outside the loop, from their files, on the tiny model."""

from pathlib import Path

import pytest
import yaml
from command import influbench

from influbench.errors import UserError
from influbench.results import load_study
from influbench.studies import kind
from influbench.studies.planted_kinds import KINDS
from influbench.studies.study_file import load_study as load_file

EXPERIMENTS = sorted((Path(__file__).parents[2] / "experiments").glob("*.yaml"))
STUDENT = {
    "student.name": "tiny",
    "methods": ["first_order", "random"],
    "num_candidates": 12,
    "num_warmup": 8,
    "data.num_reference": 4,
}


def sweep(folder, *more, **parts):
    """Runs a study called ``small``; its numbers by estimator, seed and metric, and its output."""
    (folder / "study.yaml").write_text(yaml.safe_dump({"name": "small", **parts}))
    done = influbench("sweep", "study.yaml", *more, cwd=folder)
    assert done.returncode == 0, done.stderr
    rows = load_study("small", folder / "results").rows
    return {(r["estimator"], r["seed"], r["metric"]): r for r in rows.to_dict("records")}, done


def test_planted_study_writes_auc_by_kind_and_cost(tmp_path):
    methods = [*STUDENT["methods"], "length"]
    grid = {"seed": [0, 1]}
    found, done = sweep(tmp_path, kind="planted", set=STUDENT | {"methods": methods}, grid=grid)
    for method in methods:
        for seed in (0, 1):
            for metric in ("auc", "paired", *(f"auc_{name}" for name in KINDS)):
                row = found[method, seed, metric]
                assert 0 <= row["low"] <= row["value"] <= row["high"] <= 1
    assert found["length", 0, "auc"]["value"] == pytest.approx(0.5, abs=0.1)
    assert found["length", 0, "auc_shuffled"]["value"] == 0.5
    assert found["first_order", 0, "passes_per_candidate"]["value"] == 3
    assert "first_order" in done.stdout
    assert len(list((tmp_path / ".influbench").glob("warm_up-*/manifest.json"))) == 2


def test_prediction_study_trains_thirds_from_one_state(tmp_path):
    more = {
        "data.num_evaluation": 4,
        "training_seeds": [0, 1],
        "prediction.bank": 3,
        "prediction.curve": [25, 100],
        "prediction.sft.learning_rate": 1e-3,
    }
    found, done = sweep(tmp_path, kind="prediction", set=STUDENT | more)
    for method in STUDENT["methods"]:
        for metric in ("gain_top", "gain_top_minus_bottom", "gain_correlation", "lds"):
            assert (method, 0, metric) in found
        gains = [found[method, 0, f"gain_{part}"]["value"] for part in ("top", "bottom")]
        assert min(gains) > 0  # any training on English helps a random model
        difference = found[method, 0, "gain_top_minus_bottom"]["value"]
        assert difference == pytest.approx(gains[0] - gains[1])
    # The bank, and of each of two seeds all that was drawn, once, and each method's parts.
    assert len(list((tmp_path / ".influbench").glob("short_trainings-*"))) == 1 + 2 * (1 + 2)
    assert not list((tmp_path / ".influbench").glob("short_trainings-*/**/*.safetensors"))
    tops = [found[m, 0, "addition_100/heldout_loss"]["value"] for m in STUDENT["methods"]]
    assert tops[0] == tops[1]
    assert ("random", 0, "removal_25/heldout_loss") in found
    assert "lds" in done.stdout


def test_horizon_study_starts_at_the_exact_influence(tmp_path):
    more = {"methods": ["exact", "random"], "steps": [1, 3], "orders": 2}
    found, _ = sweep(tmp_path, kind="horizon", set=STUDENT | more)
    assert found["exact", 0, "horizon_1/spearman"]["value"] == pytest.approx(1.0)
    assert abs(found["random", 0, "horizon_1/spearman"]["value"]) < 0.9
    assert found["exact", 0, "horizon_3/spearman"]["low"] is not None
    assert ("ceiling", 0, "horizon_3/spearman") in found
    assert ("ceiling", 0, "horizon_1/spearman") not in found


def test_sanity_study_tells_what_a_score_hangs_on(tmp_path):
    more = {"methods": ["exact", "length"], "warmup.batch_size": 2}
    found, _ = sweep(tmp_path, kind="sanity", set=STUDENT | more)
    for change in ("reinitialised", "other_warmup", "shorter_warmup", "other_references"):
        assert found["length", 0, f"{change}/spearman"]["value"] == pytest.approx(1.0)
        assert -1 <= found["exact", 0, f"{change}/spearman"]["value"] < 1
    assert len(list((tmp_path / ".influbench").glob("warm_up-*/manifest.json"))) == 4


def test_sanity_study_refuses_a_warm_up_whose_half_is_one_step_before_it_scores(tmp_path):
    (tmp_path / "study.yaml").write_text(
        yaml.safe_dump({"name": "small", "kind": "sanity", "set": STUDENT})
    )
    done = influbench("sweep", "study.yaml", cwd=tmp_path)
    assert done.returncode == 2
    assert "the shorter warm-up would have 1 optimizer step from 4 examples" in done.stderr
    assert not list(tmp_path.glob(".influbench/score-*"))


def test_released_code_study_has_a_row_a_quirk(tmp_path):
    found, _ = sweep(tmp_path, kind="released_code", base="tiny", set={"first": 8})
    assert found["corrected", 0, "spearman"]["value"] == pytest.approx(1.0)
    assert found["clip", 0, "spearman"]["low"] <= found["clip", 0, "spearman"]["value"]
    assert found["bf16_weights", 0, "noise_floor"]["value"] > 0
    assert found["all", 0, "sign_agreement"]["n"] == 8
    assert ("no_chat_template_in_dpo", 0, "teacher_margin") in found
    assert found["bf16_weights", 0, "passes_per_candidate"]["value"] > 0


def test_adaptive_study_states_and_counts_its_errors(tmp_path):
    more = {"clusters": 2, "probes": 3, "confidences": [0.9], "draws": 20}
    found, done = sweep(tmp_path, kind="adaptive", base="tiny", set=more)
    assert 0 <= found["adaptive@0.9", 0, "error_rate_drawn"]["value"] <= 1
    assert found["adaptive@0.9", 0, "error_rate_drawn"]["n"] == 20
    rate = found["adaptive@0.9", 0, "error_rate_real"]
    assert rate["low"] <= rate["value"] < rate["high"] <= 1, "no error seen is not none possible"
    assert "adaptive@0.9" in done.stdout


@pytest.mark.parametrize("file", EXPERIMENTS, ids=lambda p: p.stem)
def test_every_experiment_is_a_study_or_the_base_of_one(file):
    if "question" not in yaml.safe_load(file.read_text()):
        pytest.skip("the base of others")
    study = load_file(file)
    assert study.question
    assert study.kind in kind.names()
    for cfg in study.runs.values():
        assert isinstance(cfg, kind.load(study.kind).settings)


def test_an_unknown_kind_and_setting_are_named(tmp_path):
    file = tmp_path / "s.yaml"
    file.write_text("name: s\nkind: plantd\n")
    with pytest.raises(UserError, match="expected one of adaptive, horizon, loop, planted"):
        load_file(file)
    file.write_text("name: s\nkind: planted\nset: {student.name: tiny, metods: [random]}\n")
    with pytest.raises(UserError, match="did you mean methods"):
        load_file(file)


def test_a_method_stands_beside_itself_with_options(tmp_path):
    plain, other = "gradient_dot", "gradient_dot(layers=mlp|self_attn)"
    found, _ = sweep(tmp_path, kind="planted", set=STUDENT | {"methods": [plain, other]})
    assert (other, 0, "auc") in found
    scores = load_study("small", tmp_path / "results").scores
    values = [scores[scores.estimator == name].value.tolist() for name in (plain, other)]
    assert len(values[0]) == len(values[1])
    assert values[0] != values[1]

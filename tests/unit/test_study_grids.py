"""Studies whose arms have unlike numbers of seeds, and the committed study files."""

import json
from pathlib import Path
from typing import cast

import pytest

from influbench.errors import UserError
from influbench.loop.reading import load_run
from influbench.loop.settings import RunConfig
from influbench.studies.study_file import load_study

EXPERIMENTS = Path(__file__).parents[2] / "experiments"


def test_several_grids_give_some_arms_more_seeds_than_others(tmp_path):
    file = tmp_path / "study.yaml"
    file.write_text(
        "name: s\nbase: tiny\ngrid:\n"
        "  - {scoring.estimator: [none, random], seed: [0, 1]}\n"
        "  - {scoring.estimator: ['flipped:length'], seed: [0]}\n"
    )
    assert list(load_study(file).runs) == [
        *("none,seed=0", "none,seed=1", "random,seed=0", "random,seed=1", "flipped.length,seed=0")
    ]
    file.write_text("name: s\nbase: tiny\ngrid: [seed]\n")
    with pytest.raises(UserError, match="each setting a list of values, got seed"):
        load_study(file)


def test_the_teaching_study_has_eight_seeds_of_the_arms_that_count_and_three_of_the_rest():
    runs = load_study(EXPERIMENTS / "teaching.yaml").runs
    seeds = {}
    for cfg in runs.values():
        seeds.setdefault(cfg.scoring.estimator, []).append(cfg.seed)  # pyright: ignore[reportAttributeAccessIssue]
    assert {name: len(own) for name, own in seeds.items()} == {
        **dict.fromkeys(["none", "random", "flipped:first_order", "first_order"], 8),
        "gradient_dot": 8,
        "trak": 3,
        "bm25": 3,
        "embedding": 3,
        "judge": 3,
        "length": 3,
        "bootstrap:loss": 3,
    }
    told = {cfg.sft.response_tokens for cfg in runs.values()}  # pyright: ignore[reportAttributeAccessIssue]
    assert told == {3600}


def test_filtering_and_transfer_share_their_candidates_with_the_teaching_study():
    teaching = load_study(EXPERIMENTS / "teaching.yaml").runs["first_order,seed=0"]
    for name, run in (
        ("transfer", "first_order,seed=0"),
        ("filtering", "filter.first_order,seed=0"),
    ):
        other = load_study(EXPERIMENTS / f"{name}.yaml").runs[run]
        for part in ("teacher", "student", "data", "generation", "warmup", "seed"):
            assert getattr(other, part) == getattr(teaching, part), (name, part)
        assert other.sizes.candidates == teaching.sizes.candidates  # pyright: ignore[reportAttributeAccessIssue]


def test_the_shared_candidates_keep_the_settings_of_their_committed_results():
    (file,) = (EXPERIMENTS.parent / "results" / "agreement_first").glob("none,seed=0.json")
    written = json.loads(file.read_text())["config"]
    now = load_run(str(EXPERIMENTS / "smol_candidates.yaml")).model_dump(mode="json")
    for part in ("teacher", "student", "judge", "data", "sizes", "generation", "warmup"):
        shared = written[part].keys() & now[part].keys()
        assert {k: now[part][k] for k in shared} == {k: written[part][k] for k in shared}, part


def loaded(tmp_path, text, base="tiny"):
    file = tmp_path / "study.yaml"
    file.write_text(f"name: s\nquestion: q\nbase: {base}\n{text}\n")
    found = list(load_study(file).runs.values())
    assert all(isinstance(cfg, RunConfig) for cfg in found)
    return cast("list[RunConfig]", found)


def test_a_table_in_a_study_goes_over_the_base_as_in_a_file_of_a_run(tmp_path):
    (plain,) = loaded(tmp_path, "grid: {sizes.candidates: [6]}")
    for text in (
        "set: {sizes: {candidates: 6}}\ngrid: {seed: [0]}",
        "grid: {sizes: [{candidates: 6}]}",
        "set: {sizes.candidates: 6, sizes: {warmup: 4}}\ngrid: {seed: [0]}",
    ):
        assert loaded(tmp_path, text) == [plain]
    (by_option,) = load_study(tmp_path / "study.yaml", ["sizes={candidates: 6}"]).runs.values()
    assert by_option == plain


def test_options_of_a_method_are_those_that_were_given_last(tmp_path):
    base = tmp_path / "run.yaml"
    base.write_text("base: tiny\nscoring: {estimator: less, options: {layers: mlp}}\n")
    text = "set: {scoring.options: {dimension: 8}}\ngrid: {seed: [0]}"
    (cfg,) = loaded(tmp_path, text, base="run.yaml")
    assert cfg.scoring.options == {"dimension": 8}


def test_what_one_grid_sets_stays_out_of_the_others(tmp_path):
    runs = loaded(
        tmp_path,
        "set: {sizes: {candidates: 6}}\n"
        "grid: [{sizes.warmup: [2], seed: [0]}, {scoring.estimator: [length], seed: [0]}]",
    )
    assert [cfg.sizes.warmup for cfg in runs] == [2, 4]


def test_a_setting_in_two_forms_is_refused(tmp_path):
    twice = "sizes: {candidates: 6}, sizes.candidates: 8"
    listed = "sizes: [{candidates: 6}], sizes.candidates: [8]"
    for text in (f"set: {{{twice}}}\ngrid: {{seed: [0]}}", f"grid: {{{listed}}}"):
        with pytest.raises(UserError, match=r"'sizes\.candidates' stands there twice"):
            loaded(tmp_path, text)


def test_settings_that_were_given_are_not_changed():
    sizes = {"candidates": 6}
    load_run("tiny", settings={"sizes": sizes, "sizes.warmup": 2})
    assert sizes == {"candidates": 6}

"""Presets, files, overrides and grids become checked configurations, or one clear line."""

import pytest
from command import influbench

from influbench.errors import UserError
from influbench.loop import reading as presets
from influbench.loop.settings import RunConfig
from influbench.studies.study_file import load_study


@pytest.mark.parametrize("name", presets.names())
def test_every_preset_is_a_valid_configuration(name):
    cfg = presets.load_run(name)
    assert cfg.name == name
    assert cfg.generation.prefill == (name not in ("paper_1b", "paper_8b"))


def test_the_design_s_presets_are_there():
    assert {"tiny", "quickstart", "smol", "paper_1b", "paper_8b"} <= set(presets.names())


def test_the_paper_s_hyper_parameters_are_the_defaults():
    cfg = presets.load_run("paper_8b")
    assert (cfg.dpo.learning_rate, cfg.dpo.beta, cfg.dpo.batch_size) == (1e-6, 0.1, 2)
    assert (cfg.sft.learning_rate, cfg.sft.batch_size, cfg.sft.epochs) == (5e-6, 32, 1)
    assert cfg.warmup.learning_rate == 5e-6
    assert cfg.generation.num_shots == 8
    assert cfg.generation.num_own_shots == 2
    assert cfg.generation.instructions_per_seed == 4
    assert cfg.generation.instruction.repetition_penalty == 1.5


def test_set_overrides_any_field_with_its_type():
    cfg = presets.load_run("tiny", ["dpo.beta=0.2", "scoring.options.baseline=before", "seed=3"])
    assert cfg.dpo.beta == 0.2
    assert cfg.scoring.options == {"baseline": "before"}
    assert cfg.seed == 3


def test_a_number_in_scientific_notation_is_a_number():
    assert presets.load_run("tiny", ["sft.learning_rate=1e-4"]).sft.learning_rate == 1e-4


def test_a_file_may_build_on_a_preset(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("base: tiny\nname: mine\nsizes: {candidates: 12}\n")
    cfg = presets.load_run(str(file))
    assert cfg.name == "mine"
    assert cfg.sizes.candidates == 12
    assert cfg.sizes.warmup == presets.load_run("tiny").sizes.warmup


def test_a_grid_is_the_product_of_its_lists(tmp_path):
    file = tmp_path / "study.yaml"
    file.write_text(
        "name: s\nbase: tiny\nset: {dpo.beta: 0.3}\n"
        "grid: {scoring.estimator: [exact, random], seed: [0, 1], rounds: [1]}\n"
    )
    study = load_study(file)
    assert list(study.runs) == [
        "exact,seed=0,rounds=1",
        "exact,seed=1,rounds=1",
        "random,seed=0,rounds=1",
        "random,seed=1,rounds=1",
    ]
    runs = [cfg for cfg in study.runs.values() if isinstance(cfg, RunConfig)]
    assert len(runs) == len(study.runs)
    assert {cfg.dpo.beta for cfg in runs} == {0.3}
    assert {cfg.name for cfg in runs} == {"s"}


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("scoring.estimatr=exact", "no setting 'scoring.estimatr'; did you mean estimator"),
        ("dpo.beta=-1", "setting 'dpo.beta': Input should be greater than 0, got -1"),
        ("seed=many", "setting 'seed'"),
        ("seed=-1", "setting 'seed': Input should be greater than or equal to 0"),
        ("seed=4294967296", "setting 'seed': Input should be less than 4294967296"),
        ("sft.clip_norm=.inf", "setting 'sft.clip_norm': Input should be a finite number"),
        ("generation.response.temperature=.inf", "Input should be a finite number"),
        ("seed", "expected KEY=VALUE"),
        ("seed.x=1", "single setting"),
        ("students=[{name: tiny, nme: 1}]", "no setting 'students.0.nme'; did you mean name"),
        ("scoring.token_budget=true", "setting 'scoring.token_budget': Input should be a number"),
        ("dpo.beta=off", "setting 'dpo.beta': Input should be a number, got False"),
        ("seed=2020-13-45", "setting 'seed'"),
        ("seed=!!bool x", "setting 'seed'"),
        ("seed=!!timestamp x", "setting 'seed'"),
        ('teacher.name="\\ud800"', "half of a character"),
        ("teacher.name=\udcff", "half of a character"),
        ("seed=" + 999 * "[", "setting 'seed'"),
    ],
)
def test_a_bad_override_is_named(override, expected):
    with pytest.raises(UserError, match=expected):
        presets.load_run("tiny", [override])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("name: s\nbase: tiny\n", "missing: grid"),
        ("name: s\nbase: tiny\ngrid: {seed: 1}\n", "a list of values"),
        ("name: s\nbase: tiny\ngrid: {seed: [0]}\ngird: 1\n", "unknown: gird"),
        ("- a\n- b\n", "expected settings"),
        ("name: [", "expected YAML"),
        ("name: !!bool x", "expected YAML, got"),
        ("name: !!timestamp x", "expected YAML, got"),
        ('name: "\\ud800"', "expected YAML, got"),
        ("name: 2020-13-45", "expected YAML, got: month must be in 1..12"),
        ("name: " + 999 * "[", "expected YAML, got: maximum recursion"),
        ("name: s\nbase: tiny\ngrid: []\n", "expected 'grid' to list some grids"),
        ("name: s\nbase: tiny\ngrid: {seed: [0]}\nset:\n", "expected 'set' to hold settings"),
        ("name: s\nbase: tiny\ngrid: {seed: [0]}\n1: x\n~: y\n", "unknown: 1, None"),
    ],
)
def test_a_bad_study_is_named(tmp_path, text, expected):
    file = tmp_path / "study.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match=expected):
        load_study(file)


def test_a_file_of_another_encoding_and_a_name_that_no_file_can_have_are_one_line(tmp_path):
    file = tmp_path / "study.yaml"
    file.write_bytes("name: é\n".encode("latin-1"))
    for read in (load_study, presets.load_run):
        with pytest.raises(UserError, match="expected UTF-8 text, got byte 0xe9 at offset 6"):
            read(str(file))
    long = 999 * "x"
    for command in (("run", long), ("sweep", long), ("run", "tiny", "--set", f"data.seeds={long}")):
        done = influbench(*command, cwd=tmp_path)
        assert done.returncode == 2, done.stderr
        assert "a name that is too long for this system" in done.stderr.splitlines()[-1]


def test_transport_settings_do_not_change_the_identity():
    one = presets.load_run("tiny")
    other = presets.load_run("tiny", ["scoring.chunk_size=3", "judge.concurrency=2", "name=x"])
    assert one.digest() == other.digest()
    assert one.digest() != presets.load_run("tiny", ["seed=1"]).digest()

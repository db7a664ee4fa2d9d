"""What a run will cost, told before it is run."""

import dataclasses
import json
import math
from pathlib import Path

import pytest

from benchmarks.plan import beside as beside_ledger
from benchmarks.plan import ledgers
from influbench.errors import UserError
from influbench.estimator import registry
from influbench.estimator.passes import spent
from influbench.loop.plan import calibration, devices, lengths, measure, once, price, tasks
from influbench.loop.plan.calibration import Pace
from influbench.loop.plan.paper import beside
from influbench.loop.plan.shapes import KNOWN, shape_of
from influbench.loop.reading import load_run, names
from influbench.loop.settings import RunConfig
from influbench.studies.study_file import load_study
from tests.command import influbench
from tests.slow_device import EVEN, SLOW

MEASURED = ("sizes.warmup=32", "sizes.candidates=32", "sizes.training=96")
"""The sizes of the run of ``quickstart`` that the ledger's numbers below are of."""


def planned(name, *overrides):
    cfg = load_run(name, overrides)
    return cfg, tasks(cfg, lengths.lengths(cfg.data, cfg.generation))


def one(found, stage, label):
    (task,) = [t for t in found if (t.stage, t.label) == (stage, label)]
    return task


@pytest.mark.parametrize(
    ("told", "options", "passes"),
    [
        ("3M + 6W", {}, 30 + 24),
        ("M+3", {}, 13),
        ("(4 + probes)M", {"probes": 2}, 60),
        ("5M + 8(M+6)", {}, 50 + 128),
        ("3 + part of M", {}, 8),
        ("0", {}, 0),
    ],
)
def test_what_facts_tell_of_passes_becomes_a_number(told, options, passes):
    found = spent(told, {"M": 10, "W": 4}, options)
    assert found is not None
    assert found.passes == passes


def test_requests_are_no_passes_and_what_nobody_knows_is_none():
    found = spent("4 requests", {"M": 1, "W": 1}, {})
    assert found is not None
    assert (found.passes, found.requests) == (0, 4)
    assert spent("theirs + W", {"M": 1, "W": 1}, {}) is None


@pytest.mark.parametrize("name", sorted(registry.available()))
def test_every_method_of_ours_can_be_planned(name):
    method = registry.build(name)
    sizes = {"M": 8, "W": 8}
    assert all(spent(text, sizes, dict(vars(method))) for text in method.facts.passes)


@pytest.mark.parametrize("name", names())
def test_every_preset_can_be_planned(name):
    cfg, found = planned(name)
    trained = [task for task in found if task.stage == "sft"]
    assert trained
    for task in trained:
        assert task.gradients >= cfg.sizes.training / cfg.sft.batch_size


def test_passes_are_those_that_the_ledger_of_quickstart_counted():
    """The ledger's own numbers for 32 candidates, 24 references, 32 and 96 pairs (2026-11-26)."""
    _, found = planned("quickstart", *MEASURED)
    assert one(found, "score", "exact").passes == 48 + 800 + 2 * 32
    assert one(found, "warm_up", "").passes == 3 * 32
    assert one(found, "sft", "none").passes == 3 * 96
    assert one(found, "answer", "none").passes == 24
    assert one(found, "answer", "none-turns").passes == 8
    assert one(found, "compare", "base").calls == 48
    assert one(found, "grade", "base").calls == 8


LEDGER = Path(__file__).parents[2] / "results/quickstart"
ODD = {"grade random"}
"""Two of its eight answers were empty, which no judge is asked about."""


def test_tokens_are_within_a_quarter_of_the_ledger_of_quickstart_stage_by_stage():
    rows = [row for row in beside_ledger("quickstart", LEDGER) if row.measured]
    assert len(rows) > 30
    ratios = {r.stage: r.planned / r.measured for r in rows}
    far = {stage: ratio for stage, ratio in ratios.items() if abs(ratio - 1) > 0.3}
    assert {stage: ratio for stage, ratio in far.items() if stage not in ODD} == {}
    planned, measured = sum(r.planned for r in rows), sum(r.measured for r in rows)
    assert planned == pytest.approx(measured, rel=0.25)


def test_twice_the_candidates_cost_twice_the_scoring_and_no_more_training():
    cfg, found = planned("quickstart", *MEASURED)
    other, more = planned("quickstart", *MEASURED, "sizes.candidates=64")
    few, many = price(cfg, found, SLOW), price(other, more, SLOW)

    def seconds(prices, stage, label):
        (p,) = [p for p in prices if (p.task.stage, p.task.label) == (stage, label)]
        return p.seconds

    assert seconds(many, "score", "exact") == pytest.approx(
        2 * seconds(few, "score", "exact"), rel=0.1
    )
    assert seconds(many, "sft", "none") == seconds(few, "sft", "none")


def seconds_of_stage(name, stage, label, speeds, *overrides):
    cfg, found = planned(name, *overrides)
    (priced,) = price(cfg, [one(found, stage, label)], speeds)
    return priced.seconds


@pytest.mark.parametrize(
    ("stage", "label", "paces", "times"),
    [
        ("dpo", "exact", "pair", 10),  # 24 candidates, 4 of a prompt, some dropped
        ("sft", "none", "train", 10),  # 80 rows in batches of 8
        ("warm_up", "", "learn", 3),  # 24 rows in batches of 8
        ("score", "gradient_dot", "learn", 25),  # each candidate, and the references together
        ("compare", "base", "prompt", 48),  # both orders of 24
        ("grade", "base", "prompt", 16),  # 4 questions, 2 turns, "1" and then "0"
        ("score", "exact", "read", 26),  # the references before, after nothing, and after each
    ],
)
def test_a_pass_costs_something_however_short_it_is(stage, label, paces, times):
    """What a plan without it misses: pairs, verdicts and gradients of one row are short passes."""
    begun = dict.fromkeys(EVEN, Pace(1e-7, 1e9))
    weights = KNOWN["smollm2-135m-instruct"].parameters
    slower = dataclasses.replace(SLOW, **{paces: begun})
    more = seconds_of_stage("quickstart", stage, label, slower)
    less = seconds_of_stage("quickstart", stage, label, SLOW)
    assert (more - less) / (1e-7 * weights) == pytest.approx(times)


def test_pairs_and_requests_share_passes_where_a_device_takes_them_together():
    begun = dict.fromkeys(EVEN, Pace(1e-7, 1e9))
    slow = dataclasses.replace(SLOW, pair=begun, prompt=begun)
    wide = dataclasses.replace(slow, alone=False)
    for stage, label in (("dpo", "exact"), ("compare", "base")):
        few, many = (seconds_of_stage("quickstart", stage, label, s) for s in (wide, slow))
        assert few < many


def test_devices_share_scoring_and_large_models_say_what_does_not_fit():
    cfg, found = planned("paper_8b")
    speeds = devices.speeds(devices.parse("8xH100")[1])
    alone, together = price(cfg, found, speeds, 1), price(cfg, found, speeds, 8)
    pick = {p.task.stage: p for p in alone}
    assert pick["sft"].placement == "does not fit one device"
    assert pick["score"].task.shared
    exact = next(p for p in together if p.task.label == "exact" and p.task.stage == "score")
    same = next(p for p in alone if p.task.label == "exact" and p.task.stage == "score")
    assert same.seconds == pytest.approx(8 * exact.seconds)
    assert exact.placement == "offloaded"
    assert sum(p.money for p in alone) > 10
    assert {row.what for row in beside(together, cfg.student.name)} == {
        *("instruction", "response", "influence", "pair", "training")
    }


def test_both_students_of_the_paper_stand_beside_its_table():
    speeds = devices.speeds(devices.parse("8xH100")[1])
    rows = {}
    for name in ("paper_8b", "paper_1b"):
        cfg, found = planned(name)
        rows[name] = {r.what: r for r in beside(price(cfg, found, speeds, 8), cfg.student.name)}
    assert rows["paper_8b"]["influence"].paper == 13.403
    assert rows["paper_1b"]["influence"].paper == 3.533
    assert rows["paper_1b"]["influence"].ours < rows["paper_8b"]["influence"].ours
    assert all(row.why for found in rows.values() for row in found.values())


def test_a_training_that_no_device_holds_is_not_promised():
    cfg, found = planned("paper_8b")
    together = price(cfg, found, devices.speeds(devices.parse("8xH100")[1]), 8)
    (sft,) = [p for p in together if (p.task.stage, p.task.label) == ("sft", "none")]
    assert sft.placement == "would need shards: 8"


def test_a_method_that_asks_no_model_takes_no_device():
    cfg, found = planned("paper_8b", "scoring.compare=[random,length]")
    priced = price(cfg, found, devices.speeds(devices.parse("8xH100")[1]), 8)
    held = {p.task.label: (p.devices, p.memory) for p in priced if p.task.stage == "score"}
    assert held["random"] == held["length"] == (0, 0)
    assert held["exact"][1] > 8e9


def test_an_arm_that_teaches_nothing_has_no_dpo():
    _, found = planned("quickstart", "scoring.estimator=none")
    assert not [t for t in found if t.stage == "dpo"]
    _, found = planned("quickstart", "scoring.estimator=none", "stop_after=scores")
    assert not [t for t in found if t.stage in ("dpo", "sft", "answer")]


def test_a_folder_says_how_large_its_model_is(tmp_path):
    config = {
        "hidden_size": 576,
        "num_hidden_layers": 30,
        "intermediate_size": 1536,
        "vocab_size": 49152,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "tie_word_embeddings": True,
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    found = shape_of(str(tmp_path))
    assert found.parameters == pytest.approx(KNOWN["smollm2-135m-instruct"].parameters, rel=0.01)
    with pytest.raises(UserError, match="how large is the model"):
        shape_of("nobody/nothing")
    for text in ("", "null", "[]", json.dumps(config | {"hidden_size": "wide"})):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(UserError, match="expected a model's settings as JSON"):
            shape_of(str(tmp_path))


def test_speeds_come_back_from_their_file_and_a_missing_one_says_what_to_do(tmp_path):
    path = tmp_path / calibration.FILE
    with pytest.raises(UserError, match="--calibrate"):
        calibration.read(path)
    calibration.save(path, SLOW)
    assert dataclasses.asdict(calibration.read(path)) == dataclasses.asdict(SLOW)
    for text in ("{}", "null", "[]", json.dumps(dataclasses.asdict(SLOW) | {"load": None})):
        path.write_text(text)
        with pytest.raises(UserError, match="measure again"):
            calibration.read(path)


@pytest.mark.parametrize("text", ["8xB9000", "0xH100", "H100x8", "many"])
def test_an_unknown_machine_is_named(text):
    with pytest.raises(UserError, match="expected NUMBERxDEVICE"):
        devices.parse(text)


def test_the_command_prints_the_table_and_runs_nothing(tmp_path):
    done = influbench("plan", "tiny", "--devices", "2xH200", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "in all" in done.stdout
    assert "assumed" in done.stdout
    assert not list(tmp_path.iterdir())
    bad = influbench("plan", "tiny", cwd=tmp_path)
    assert bad.returncode == 2
    assert "--calibrate" in bad.stderr


def test_layers_computed_again_take_less_memory_and_a_third_more_passes():
    def dpo(*more):
        cfg, found = planned("paper_8b", "rounds=1", *more)
        return price(cfg, [one(found, "dpo", "exact")], devices.speeds(devices.DEVICES["H200"]))[0]

    usual, again = (dpo(f"dpo.gradient_checkpointing={on}") for on in (False, True))
    assert again.memory < usual.memory - 1e10
    assert usual.seconds < again.seconds < usual.seconds * 4 / 3


def test_an_adapter_of_the_student_is_cheaper_than_all_of_it():
    found = [planned("paper_8b", f"sft.method={m}") for m in ("full", "lora")]
    full, lora = (
        price(cfg, [one(work, "sft", "none")], devices.speeds(devices.DEVICES["H200"]))[0]
        for cfg, work in found
    )
    assert lora.memory < full.memory / 2
    assert lora.seconds < full.seconds


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("generation.engine=vllm", "generation.engine = vllm: priced as Hugging Face"),
        ("evaluation.turns.engine=server", "evaluation.turns.engine = server: priced as"),
        ("judge.kind=vllm", "judge.kind = vllm: priced as Hugging Face"),
    ],
)
def test_what_a_server_will_do_is_said_to_be_priced_as_hugging_face(tmp_path, setting, said):
    words = ("plan", "quickstart", "--devices", "H100")
    assert said in influbench(*words, "--set", setting, cwd=tmp_path).stdout
    assert "priced as" not in influbench(*words, cwd=tmp_path).stdout


def test_calibration_gives_speeds_that_a_plan_can_count_on(tmp_path):
    found = measure.calibrate("cpu", model="tiny")
    names = ("read", "prompt", "learn", "train", "pair")
    paces = [pace for name in names for pace in getattr(found, name).values()]
    numbers = [*(pace.flops for pace in paces), *found.write.values(), *found.stream.values()]
    numbers += [
        found.update,
        found.move,
        found.load,
        found.opened,
        found.save,
        found.training,
        found.launch,
    ]
    assert all(number > 0 and math.isfinite(number) for number in numbers)
    assert all(pace.weight >= 0 for pace in paces)
    calibration.save(tmp_path / calibration.FILE, found)
    assert calibration.read(tmp_path / calibration.FILE) == found
    cfg, work = planned("tiny")
    assert 0 < sum(p.seconds for p in price(cfg, work, found)) < 3600


def test_an_8b_candidate_costs_what_one_h100_measured():
    """3.62 s, offloaded, bf16 products (docs/LOG.md)."""
    cfg, found = planned("paper_8b")
    prices = price(cfg, found, devices.speeds(devices.parse("H100")[1]))
    (exact,) = [p for p in prices if (p.task.stage, p.task.label) == ("score", "exact")][:1]
    assert exact.seconds / exact.task.items == pytest.approx(3.62, rel=0.25)


ROOT = Path(__file__).parents[2]


def planned_once(study):
    """The stages of a study in the order of its runs, each once: stage and label."""
    runs = load_study(ROOT / "experiments" / f"{study}.yaml").runs.values()
    told = [cfg for cfg in runs if isinstance(cfg, RunConfig)]
    assert len(told) == len(runs)
    work = [(cfg, tasks(cfg, lengths.lengths(cfg.data, cfg.generation))) for cfg in told]
    return [
        (task.stage, task.label.removesuffix(" instructions").removesuffix(" responses"))
        for _, own in once(work)
        for task in own
        if not task.label.endswith(" instructions")  # one stage with the responses
    ]


def test_the_stages_of_a_study_are_those_that_its_store_had_each_once():
    found = planned_once("quickstart")
    assert len(set(found)) == len(found)
    had = {(row["stage"], row["label"]) for rows in ledgers(LEDGER).values() for row in rows}
    assert set(found) == {(stage, label) for stage, label in had if stage != "lengths"}


def test_seeds_share_nothing_and_settings_all_that_comes_before_they_act():
    grid = {"seed": [0, 1], "dpo.learning_rate": [1e-5, 1e-4], "data.num_reference": [8, 9]}
    for setting, values in grid.items():
        runs = [
            load_run("quickstart", [f"{setting}={v}", "scoring.estimator=exact"]) for v in values
        ]
        work = [(cfg, tasks(cfg, lengths.lengths(cfg.data, cfg.generation))) for cfg in runs]
        (_, first), (_, second) = once(work)
        again = {task.stage for task in second}
        assert len(first) == len(work[0][1])
        if setting == "seed":
            assert len(second) == len(first)
        elif setting == "dpo.learning_rate":
            assert again == {"dpo", "generate", "sft", "answer", "losses", "grade", "compare"}
            assert all(task.label.split()[0].endswith(("exact", "exact-turns")) for task in second)
        else:
            assert {"score", "losses"} <= again
            assert not [t for t in second if "round1" in t.label or t.stage == "warm_up"]


def test_two_rounds_are_two_rounds_and_later_ones_belong_to_their_arm():
    runs = [
        load_run("quickstart", ["rounds=2", f"scoring.estimator={a}"]) for a in ("loss", "random")
    ]
    work = [(cfg, tasks(cfg, lengths.lengths(cfg.data, cfg.generation))) for cfg in runs]
    (_, first), (_, second) = once(work)
    assert [t.stage for t in first].count("warm_up") == 2
    assert [t.stage for t in second].count("warm_up") == 1
    shared = {"round1-warmup", "round1-candidates", "training-none"}
    assert not shared & {t.label.split()[0] for t in second if t.stage == "generate"}
    assert "round2-candidates responses" in {t.label for t in second}


KEPT = ("keep_checkpoints=2", "scoring.compare=[]")


def test_what_a_student_on_the_way_scores_hangs_on_how_it_is_scored():
    runs = [
        load_run("tiny", [*KEPT, f"scoring.estimator={arm}", f"scoring.learn={learn}"])
        for arm in ("none", "random")
        for learn in ("all", "last")
    ]
    work = [(cfg, tasks(cfg, lengths.lengths(cfg.data, cfg.generation))) for cfg in runs]
    own = [
        [t.label for t in found if t.label.startswith("none student@")] for _, found in once(work)
    ]
    both = ["none student@0.5"] * 2 + ["none student@1"] * 2  # with the noise floor of each
    assert [sorted(labels) for labels in own] == [both, both, [], []]


@pytest.mark.parametrize("compare", ["[]", "[exact]"])
def test_a_kept_teacher_is_looked_at_before_its_first_step(compare):
    settings = [*KEPT, f"scoring.compare={compare}", "scoring.estimator=random", "rounds=2"]
    _, found = planned("tiny", *settings)
    assert [t.stage for t in found if t.label == "exact"] == ["score", "noise_floor"] * 2


def test_a_filter_learns_candidates_and_writes_no_training_data():
    _, found = planned("quickstart", "scoring.estimator=filter:loss", "sizes.training=8")
    written = [task.label for task in found if task.stage == "generate"]
    assert "training-none responses" in written
    assert not [label for label in written if "filter" in label]
    assert one(found, "sft", "filter:loss").items == 8


def test_the_command_prices_a_study_of_the_loop(tmp_path):
    study = str(ROOT / "experiments" / "quickstart.yaml")
    done = influbench("plan", study, "--devices", "H100", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "3 runs, 38 stages: 44 more are shared by runs" in done.stdout
    seeded = influbench("plan", study, "--devices", "H100", "--seed", "1", cwd=tmp_path)
    assert seeded.returncode == 2
    assert "the study" in seeded.stderr
    for name, kind in (("sanity", "sanity"), ("paper_mode", "released_code")):
        file = str(ROOT / "experiments" / f"{name}.yaml")
        other = influbench("plan", file, "--devices", "H100", cwd=tmp_path)
        assert other.returncode == 2
        assert f"study of kind '{kind}'" in other.stderr

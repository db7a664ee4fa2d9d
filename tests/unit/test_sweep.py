"""A sweep: names, exclusions, failures, what is put back, and what another terminal sees."""

import json
from concurrent.futures import Future

import pytest
import torch
from command import influbench

from influbench import executors
from influbench.config import Config
from influbench.data.records import ResultRow
from influbench.errors import MethodError, UserError
from influbench.executors import Outcome
from influbench.executors.executor import RETRIES, WorkerLostError, attempt
from influbench.executors.local import Local
from influbench.loop.reading import load_run
from influbench.results import RunResult
from influbench.store import BusyError, Stage, Store, receipts, upkeep
from influbench.studies import grid, kind
from influbench.studies.kind import Kind
from influbench.studies.standing import standing
from influbench.studies.study_file import load_study


class Cheap(Config):
    """Of a run that adds numbers."""

    seed: int = 0
    arm: str = "a"
    base: float = 1.0


def add(cfg, salt, *, work):
    if cfg.arm == "wrong":
        raise UserError("arm: expected another")
    if cfg.arm == "broken":
        raise KeyError("oops")
    if cfg.arm == "theirs":
        raise MethodError("estimator 'x' (package y) failed")
    work.write("numbers", [])
    (work.folder("model") / "weights").write_bytes(salt.encode())
    work.meta["sum"] = cfg.base + cfg.seed


FIRST, SECOND = Stage("first", 1, add), Stage("second", 1, add)


def run(cfg, session, study, run_id):
    shared = session.run(FIRST, Cheap(seed=cfg.seed, base=cfg.base), "salt")
    entry = session.run(SECOND, cfg, shared.model("model").digest, label=cfg.arm)
    row = ResultRow(
        study=study, run=run_id, estimator=cfg.arm, round=1, seed=cfg.seed, metric="sum",
        value=entry.meta["sum"], stderr=None, n=1, unit="",
    )  # fmt: skip
    return RunResult(config=cfg.model_dump(), provenance={}, rows=[row], ledger=session.ledger)


def check(cfg):
    if cfg.arm == "refused":
        raise UserError("arm refused: expected another")


@pytest.fixture
def cheap(tmp_path, monkeypatch):
    """Writes a study of the cheap kind and reads it."""
    monkeypatch.setattr(kind, "load", lambda _: Kind(settings=Cheap, check=check, run=run))

    def written(text, name="cheap"):
        file = tmp_path / "study.yaml"
        file.write_text(f"name: {name}\nquestion: q\nkind: cheap\n{text}\n")
        return load_study(file)

    return written


def swept(study, tmp_path, **more):
    return grid.run_all(study, tmp_path / "store", tmp_path / "results", **more)


def test_a_failed_run_is_named_and_stops_no_other(cheap, tmp_path, capsys):
    study = cheap("grid: {arm: [a, wrong, broken, theirs, refused, b]}")
    found = swept(study, tmp_path)
    assert list(found.done) == ["seed=0,arm=a", "seed=0,arm=b"]
    assert {run: outcome.kind for run, outcome in found.failed.items()} == {
        "seed=0,arm=refused": "user",
        "seed=0,arm=wrong": "user",
        "seed=0,arm=broken": "bug",
        "seed=0,arm=theirs": "method",
    }
    lines = {line.split(": ")[0]: line for line in found.lines()}
    assert "this is a bug of influbench: KeyError: 'oops' (test_sweep" in lines["seed=0,arm=broken"]
    assert "bug" not in lines["seed=0,arm=theirs"]
    said = capsys.readouterr().err
    assert "2 done, 3 failed" in said.splitlines()[-1]


@pytest.mark.parametrize(
    ("arm", "raised", "said"),
    [
        ("wrong", UserError, "arm: expected another"),
        ("broken", RuntimeError, "run seed=0,arm=broken: KeyError"),
        ("theirs", MethodError, "run seed=0,arm=theirs: estimator 'x'"),
    ],
)
def test_where_nothing_ran_the_sweep_itself_fails(cheap, tmp_path, arm, raised, said):
    with pytest.raises(raised, match=said):
        swept(cheap(f"grid: {{arm: [{arm}]}}"), tmp_path)


def test_shared_stages_are_made_once_and_finished_runs_are_a_line_each(cheap, tmp_path, capsys):
    study = cheap("grid: {arm: [a, b, c], seed: [0, 1]}")
    first = swept(study, tmp_path)
    assert sum(done.made for done in first.done.values()) == 2 + 6
    more = cheap("grid: {arm: [a, b, c, d], seed: [0, 1]}")
    capsys.readouterr()
    second = swept(more, tmp_path)
    assert sum(done.made for done in second.done.values()) == 2, "the new arm's own stages"
    again = swept(more, tmp_path)
    assert sum(done.made for done in again.done.values()) == 0
    lines = capsys.readouterr().err.splitlines()[-9:]
    assert [line.endswith(": cached") for line in lines] == [True] * 8 + [False]
    assert lines[-1].startswith("cheap: 8 runs: 8 cached; cost so far ")


def test_exclusions_leave_points_of_the_grid_out(cheap):
    study = cheap(
        "grid: {arm: [a, b, c], seed: [0, 1, 2]}\n"
        "exclude: [{arm: b, seed: 1}, {arm: [a, c], seed: [1, 2]}]"
    )
    assert list(study.runs) == [
        "seed=0,arm=a", "seed=0,arm=b", "seed=2,arm=b", "seed=0,arm=c",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("exclude", "said"),
    [
        ("[{arm: z}]", "matches no run"),
        ("[{amr: a}]", "names amr: expected settings of the grid"),
        ("{arm: a}", "a list of settings"),
        ("[{arm: [a, b]}]", "leaves no run"),
    ],
)
def test_an_exclusion_that_cannot_be_meant_is_refused(cheap, exclude, said):
    with pytest.raises(UserError, match=said):
        cheap(f"grid: {{arm: [a, b]}}\nexclude: {exclude}")


def test_values_that_differ_in_punctuation_or_case_are_runs_of_their_own(cheap):
    study = cheap("grid: {arm: [x/y, 'x:y', x_y, A, a, plain]}")
    assert len(study.runs) == 6
    assert len({run.casefold() for run in study.runs}) == 6
    assert "seed=0,arm=plain" in study.runs
    assert all(cfg.arm for cfg in study.runs.values())


def test_a_long_value_is_a_file_name_still(cheap, tmp_path):
    study = cheap(f"grid: {{arm: [{'x' * 400}, {'x' * 401}]}}")
    assert len(study.runs) == 2
    assert all(len(done.path.name) < 250 for done in swept(study, tmp_path).done.values())


@pytest.mark.parametrize("name", ["../out", "a/b", ".hidden", "''", "a b"])
def test_a_bad_study_name_is_refused_before_anything_is_computed(cheap, tmp_path, name):
    study = cheap("grid: {arm: [a]}", name=name)
    with pytest.raises(UserError, match="expected a study name"):
        swept(study, tmp_path)
    with pytest.raises(UserError, match="expected a study name"):
        grid.what_is_missing(study, tmp_path / "store", tmp_path / "results")
    assert not (tmp_path / "store").exists()


def test_only_and_dry_run(cheap, tmp_path):
    study = cheap("grid: {arm: [a, b], seed: [0, 1]}")
    assert list(swept(study, tmp_path, only=["*arm=b"]).done) == ["seed=0,arm=b", "seed=1,arm=b"]
    with pytest.raises(UserError, match=r"--only nosuch: expected the name of a run"):
        swept(study, tmp_path, only=["nosuch"])
    before = sorted((tmp_path / "store").rglob("*"))
    assert grid.what_is_missing(study, tmp_path / "store", tmp_path / "results") == [
        "seed=0,arm=a: would run, from second a",
        "seed=1,arm=a: would run, from second a",
        "seed=0,arm=b: cached",
        "seed=1,arm=b: cached",
    ]
    assert sorted((tmp_path / "store").rglob("*")) == before


def test_another_terminal_reads_the_store_alone(cheap, tmp_path):
    study = cheap("grid: {arm: [a, wrong, b, c]}")
    swept(study, tmp_path, only=["*a", "*wrong"])
    store = tmp_path / "store"
    gone = receipts.started("cheap", "seed=0,arm=b")
    receipts.write(store, Receipt(gone, pid=2**22 + 1))
    states = {receipt.run: receipt.now for receipt in standing(store, "cheap").runs}
    assert list(states.values()) == ["done", "failed", "stopped", "to do"]
    assert (
        standing(store, "cheap")
        .summary()
        .startswith("4 runs: 1 done, 1 failed, 1 stopped, 1 to do; cost so far 0:00:00; about ")
    )
    done = influbench("status", "cheap", "--store", str(store), cwd=tmp_path)
    assert done.returncode == 0
    assert "expected another" in done.stdout
    lost = influbench("status", "nosuch", "--store", str(store), cwd=tmp_path)
    assert (lost.returncode, "there are: cheap" in lost.stderr) == (2, True)


def Receipt(receipt, **changes):  # noqa: N802
    return type(receipt)(**{**vars(receipt), **changes})


def test_gc_keeps_what_results_and_kept_models_need(cheap, tmp_path):
    swept(cheap("grid: {arm: [a, b]}"), tmp_path)
    swept(cheap("set: {base: 2.0}\ngrid: {arm: [a]}"), tmp_path)
    store = tmp_path / "store"
    entries = upkeep.listing(store)
    idle = {entry.path.name.rsplit("-", 1)[0] for entry in entries if not entry.users}
    assert len(entries) == 5
    assert idle == {"second-a"}, "of the settings that were given up"
    assert [entry.path.name.rsplit("-", 1)[0] for entry in upkeep.remove(store)] == ["second-a"]
    assert [problems for _, problems in upkeep.verify(store)] == [[], [], [], []]
    (tmp_path / "results/cheap/seed=0,arm=b.json").unlink()
    idle = [entry for entry in upkeep.listing(store) if not entry.users]
    assert [entry.path.name.rsplit("-", 1)[0] for entry in idle] == ["first", "second-b"]


class Scripted(Local):
    """An executor that answers as it was told, run by run; keeps what it was asked."""

    def __init__(self, answers):
        super().__init__()
        object.__setattr__(self, "answers", {k: list(v) for k, v in answers.items()})
        object.__setattr__(self, "asked", [])

    def submit(self, function, *args):
        name, patient = args
        self.asked.append((name, patient))  # pyright: ignore[reportAttributeAccessIssue]
        future: Future[Outcome] = Future()
        answer = self.answers[name].pop(0)  # pyright: ignore[reportAttributeAccessIssue]
        if isinstance(answer, Exception):
            future.set_exception(answer)
        else:
            future.set_result(answer)
        return future


DONE, BUSY = Outcome(1), Outcome(kind="busy")


def test_busy_runs_are_put_back_and_another_one_is_taken():
    scripted = Scripted({"x": [BUSY, DONE], "y": [DONE], "z": [BUSY, BUSY, DONE]})
    found = executors.mapped(scripted, print, [("x",), ("y",), ("z",)])
    assert [number for number, _ in found] == [1, 0, 2]
    asked = scripted.asked  # pyright: ignore[reportAttributeAccessIssue]
    assert asked[:3] == [("x", False), ("y", False), ("z", False)]
    assert ("z", True) in asked, "with nothing else to take, it waits"


def test_a_lost_worker_is_replaced_so_often_and_no_more():
    lost = WorkerLostError("killed")
    scripted = Scripted({"x": [lost, DONE], "y": [lost] * (RETRIES + 1)})
    found = dict(executors.mapped(scripted, print, [("x",), ("y",)]))
    assert found[0] == DONE
    assert "its worker was lost 3 times" in found[1].error


def test_a_store_that_does_not_wait_says_that_it_is_busy(tmp_path):
    def inner(cfg, *, work):
        outcome = attempt(Store(tmp_path, waits=0).run, stage, cfg)
        work.meta["kind"] = outcome.kind

    stage = Stage("outer", 1, inner)
    assert Store(tmp_path).run(stage, Cheap()).meta == {"kind": "busy"}
    assert issubclass(BusyError, RuntimeError)


def test_a_base_that_is_its_own_is_one_line(tmp_path):
    (tmp_path / "a.yaml").write_text("base: b.yaml\n")
    (tmp_path / "b.yaml").write_text("base: a.yaml\n")
    done = influbench("run", "a.yaml", cwd=tmp_path)
    assert done.returncode == 2
    assert "its own base" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_receipt_that_is_damaged_is_none(tmp_path):
    receipts.write(tmp_path, receipts.started("s", "r"))
    path = tmp_path / ".runs/s/r.json"
    assert json.loads(path.read_text())["state"] == "running"
    whole = json.loads(path.read_text())
    for text in ("{", "null", "[]", json.dumps(whole | {"pid": "x"}), '{"state": "done"}'):
        path.write_text(text)
        assert receipts.read(tmp_path, "s", "r") is None
        assert list(receipts.all_of(tmp_path)) == []
    path.write_text(json.dumps(whole | {"pid": -1}))
    (stopped,) = receipts.all_of(tmp_path)
    assert stopped.now == "stopped", "there is no such process"


def test_a_damaged_list_of_runs_is_one_line_and_the_next_sweep_mends_it(cheap, tmp_path):
    study, file = cheap("grid: {arm: [a]}"), tmp_path / "store/.runs/cheap/.grid.json"
    swept(study, tmp_path)
    for text in ("", "null", '{"runs": null, "workers": 1}', '{"runs": ["a"], "workers": 0}'):
        file.write_text(text)
        with pytest.raises(UserError, match="'cheap' is damaged: sweep it again"):
            standing(tmp_path / "store", "cheap")
    swept(study, tmp_path)
    assert standing(tmp_path / "store", "cheap").summary().startswith("1 runs: 1 done")


def test_a_run_that_begins_anew_keeps_what_it_came_to_before(cheap, tmp_path, monkeypatch):
    study, store = cheap("grid: {arm: [a]}"), tmp_path / "store"
    swept(study, tmp_path)
    (receipt,) = receipts.all_of(store)
    receipts.write(store, Receipt(receipt, state="stopped"))

    def looks(cfg, session, study, run_id):
        assert [entry.users for entry in upkeep.listing(store)] == [("cheap/seed=0,arm=a",)] * 2
        raise UserError("not today")

    monkeypatch.setattr(kind, "load", lambda _: Kind(settings=Cheap, check=check, run=looks))
    with pytest.raises(UserError, match="not today"):
        swept(study, tmp_path)
    assert all(entry.users for entry in upkeep.listing(store)), "a failed run goes on from them"


def test_stages_that_a_run_made_before_it_was_put_back_are_told(cheap, tmp_path, monkeypatch):
    tried = set()

    def put_back_once(cfg, session, study, run_id):
        session.run(FIRST, Cheap(seed=cfg.seed, base=cfg.base), "salt")
        if run_id not in tried:
            tried.add(run_id)
            raise BusyError("second: another process is working on it")
        return run(cfg, session, study, run_id)

    study = cheap("grid: {seed: [0, 1]}")
    told = Kind(settings=Cheap, check=check, run=put_back_once)
    monkeypatch.setattr(kind, "load", lambda _: told)
    assert [done.made for done in swept(study, tmp_path).done.values()] == [2, 2]
    assert [done.made for done in swept(study, tmp_path).done.values()] == [0, 0]


def test_stages_of_an_earlier_sweep_are_not_told_as_made_by_this_one(cheap, tmp_path):
    study = cheap("grid: {seed: [0]}")
    swept(study, tmp_path)
    (receipt,) = receipts.all_of(tmp_path / "store")
    receipts.write(tmp_path / "store", Receipt(receipt, state="stopped"))
    (done,) = swept(study, tmp_path).done.values()
    assert (done.made, done.kept) == (0, 2)


def test_a_run_that_fails_twice_says_so_twice(cheap, tmp_path):
    study = cheap("grid: {arm: [a, wrong]}")
    for _ in range(2):
        swept(study, tmp_path)
        said = standing(tmp_path / "store", "cheap").summary()
        assert said.startswith("2 runs: 1 done, 1 failed")


def test_a_full_device_is_no_bug_of_ours_wherever_it_was_met():
    def load():
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 20.00 MiB")

    outcome = attempt(load)
    assert outcome.kind == "user"
    assert "the device's memory is full (CUDA out of memory. Tried" in outcome.error
    assert "--jobs" in outcome.error


def test_a_study_where_a_run_is_expected_is_called_one(tmp_path):
    study = tmp_path / "study.yaml"
    study.write_text("name: s\nquestion: q\nbase: run.yaml\ngrid: {seed: [0]}\n")
    (tmp_path / "run.yaml").write_text("base: tiny\nseed: 3\n")
    (tmp_path / "other.yaml").write_text("base: run.yaml\n")
    with pytest.raises(UserError, match=r"expected one run, got a study .*influbench sweep"):
        load_run(str(study))
    assert load_run(str(tmp_path / "other.yaml")).seed == 3

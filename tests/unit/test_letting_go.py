"""Weights that were let go: what is made of them counts as made, and they come back when needed."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from command import influbench

from influbench import models
from influbench.config import Config
from influbench.data.records import Example, ModelRef
from influbench.errors import UserError
from influbench.store import MissingError, Stage, Store, letting_go, receipts, upkeep
from influbench.store.session import Session

OPEN = Path(__file__)
"""A gate that is there."""


class Settings(Config):
    factor: int = 1


def note(line: str) -> None:
    with Path(os.environ["MADE"]).open("a") as file:
        file.write(line + "\n")


def wait_for(gate: Path) -> None:
    end = time.monotonic() + 600
    while not gate.exists():
        assert time.monotonic() < end
        time.sleep(0.002)


def train(cfg: Settings, text: str, base: ModelRef | None, *, work) -> None:
    """A model whose weights hang on those of its base, on the settings and on the device."""
    note(work.title)
    wait_for(Path(os.environ.get("GATE", OPEN)))
    below = b"" if base is None else (Path(base.path) / "model.safetensors").read_bytes()
    made = f"{text} by {cfg.factor}{os.environ.get('DEVICE', '')};".encode()
    folder = work.folder("student")
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(below + made)
    (folder / "optimizer.pt").write_bytes(made)
    kept = work.folder("kept/1")
    (kept / "config.json").write_text("{}")
    (kept / "model.safetensors").write_bytes(b"half " + below + made)
    with work.meter.phase("train", items=1):
        pass
    work.write("losses", [Example(id="1", instruction=text, response=f"loss {cfg.factor}")])
    work.meta["steps"] = 1


def read(cfg: Settings, model: ModelRef, *, work) -> None:
    note(work.title)
    text = (Path(model.path) / "model.safetensors").read_text()
    work.write("texts", [Example(id=str(cfg.factor), instruction=text, response="")])


BASE, TUNE = Stage("base", 1, train), Stage("tune", 1, train)
READ, GLANCE = Stage("read", 1, read), Stage("glance", 1, read, opens=lambda _: False)


@pytest.fixture(autouse=True)
def made(tmp_path, monkeypatch):
    """The stages whose functions ran since it was asked last."""
    log = tmp_path / "made.log"
    monkeypatch.setenv("MADE", str(log))

    def since() -> list[str]:
        lines = log.read_text().splitlines() if log.exists() else []
        log.unlink(missing_ok=True)
        return lines

    return since


def tuned(session: Session) -> ModelRef:
    base = session.run(BASE, Settings(), "base", None).model("student")
    return session.run(TUNE, Settings(factor=2), "tune", base).model("student")


def texts(session: Session, factor: int = 1) -> str:
    entry = session.run(READ, Settings(factor=factor), tuned(session), label=str(factor))
    return entry.records("texts", Example)[0].instruction


def session_of(root: Path) -> Session:
    return Session(Store(root))


def ran(root: Path, state: receipts.State = "done", run: str = "r") -> Session:
    """A run of a study that came so far."""
    session = session_of(root)
    texts(session)
    result = root.parent / "result.json"
    result.touch()
    entries = tuple(entry.path.name for entry in session.entries.values())
    told = receipts.Receipt(study="s", run=run, state=state, result=str(result), entries=entries)
    receipts.write(root, told)
    return session


@pytest.fixture
def lean(tmp_path, made):
    """A store of a finished run whose weights were let go."""
    root = tmp_path / "store"
    ran(root)
    gone = upkeep.let_go(root)
    assert [entry.stage for entry in gone] == ["base", "tune"]
    assert heavy(root) == []
    made()
    return root


def heavy(root: Path) -> list[str]:
    return letting_go.weights(p.relative_to(root).as_posix() for p in root.rglob("*"))


def content(root: Path) -> dict[str, bytes]:
    """Every file of all entries but those that hold clocks."""
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in root.glob("[!.]*/**/*")
        if path.is_file() and path.name not in ("manifest.json", "ledger.jsonl")
    }


def manifest(root: Path, stage: str) -> dict:
    (path,) = root.glob(f"{stage}-*/manifest.json")
    return json.loads(path.read_text())


def test_what_was_made_of_weights_that_are_gone_counts_as_made(lean, made):
    session = session_of(lean)
    assert texts(session) == "base by 1;tune by 2;"
    assert made() == []
    assert heavy(lean) == []
    assert all(entry.cached for entry in session.entries.values())
    assert session.notes == []


def test_only_what_a_missing_stage_needs_is_made_again_and_the_rest_is_as_in_a_whole_store(
    lean, made, tmp_path
):
    whole = tmp_path / "whole" / "store"
    session = ran(whole)
    assert texts(session, 3) == texts(lean_session := session_of(lean), 3)
    assert made()[3:] == ["read 3", "base", "tune", "read 3"]
    assert content(lean) == content(whole)
    assert lean_session.notes == []
    assert not list(lean.glob("*/again"))
    assert [lines for _, lines in upkeep.verify(lean) if lines] == []
    texts(session_of(lean), 3)
    assert made() == []


def test_a_run_is_charged_once_for_what_was_made_twice(lean):
    before = session_of(lean)
    texts(before)
    price = before.ledger
    texts(session_of(lean), 3)
    after = session_of(lean)
    texts(after)
    assert after.ledger == price
    assert {row.attempts for row in after.ledger} == {1}
    assert [row["phase"] for row in manifest(lean, "tune")["made_again"]] == ["run", "train"]
    assert "made_again" not in manifest(lean, "read-1")


def test_a_stage_that_opens_no_weights_leaves_them_gone(lean, made):
    session = session_of(lean)
    model = tuned(session)
    with pytest.raises(FileNotFoundError):
        session.run(GLANCE, Settings(), model)  # this one looks all the same
    assert made() == ["glance"]
    assert heavy(lean) == []


def test_weights_that_come_back_as_others_are_one_note_of_every_run_made_of_them(
    lean, monkeypatch, made
):
    monkeypatch.setenv("DEVICE", " on another")
    session = session_of(lean)
    assert texts(session, 3) == "base by 1 on another;tune by 2 on another;"
    assert session.notes == [letting_go.DIFFERS]
    monkeypatch.delenv("DEVICE")
    later = session_of(lean)
    texts(later)
    assert later.notes == [letting_go.DIFFERS]
    assert [manifest(lean, stage)["differs"] for stage in ("base", "tune")] == [True, True]
    upkeep.let_go(lean)
    texts(again := session_of(lean), 4)
    assert again.notes == [letting_go.DIFFERS], "what was made in between is of the others"


def test_a_model_opened_outside_a_stage_is_made_again_too(lean, made):
    session = session_of(lean)
    model = session.opened(tuned(session))
    assert (Path(model.path) / "optimizer.pt").read_bytes() == b"tune by 2;"
    assert made() == ["base", "tune"]
    outside = ModelRef(path="gpt-5", digest="x")
    assert session.opened(outside) == outside


class KillError(BaseException):
    """Stands for a kill."""


def killed(*_: object, **__: object) -> None:
    raise KillError


def test_killed_before_the_first_file_is_deleted_nothing_is_used_and_the_next_time_goes_on(
    tmp_path, monkeypatch, made
):
    root = tmp_path / "store"
    ran(root)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", killed)
        with pytest.raises(KillError):
            upkeep.let_go(root)
    stale = heavy(root)
    assert len(stale) == 6
    (one,) = root.glob("base-*/student/model.safetensors")
    one.write_bytes(b"torn")  # whatever state they are in
    made()
    assert [entry.lean for entry in upkeep.listing(root)] == [True, False, False]
    session = session_of(root)
    base = session.run(BASE, Settings(), "base", None).model("student")
    entry = session.run(READ, Settings(factor=3), base)
    assert entry.records("texts", Example)[0].instruction == "base by 1;"
    assert made() == ["base", "read"]
    upkeep.let_go(root)
    assert heavy(root) == []


@pytest.mark.parametrize("where", ["after a move", "before the manifest"])
def test_killed_while_made_again_a_model_is_made_once_more(lean, monkeypatch, made, where):
    moved = Path.replace

    def once(self: Path, target: Path) -> None:
        moved(self, target)
        raise KillError

    with monkeypatch.context() as patch:
        if where == "after a move":
            patch.setattr(Path, "replace", once)
        else:
            patch.setattr(letting_go, "write_manifest", killed)
        with pytest.raises(KillError):
            texts(session_of(lean), 3)
    assert list(lean.glob("*/again")), "killed in the middle"
    made()
    assert texts(session_of(lean)) == "base by 1;tune by 2;"
    assert made() == []
    assert texts(session_of(lean), 3) == "base by 1;tune by 2;"
    assert made() == ["base", "tune", "read 3"]
    assert not list(lean.glob("*/again"))
    assert [lines for _, lines in upkeep.verify(lean) if lines] == []


def test_what_a_kill_left_of_the_making_goes_with_the_weights(lean, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(letting_go, "put_back", killed)
        with pytest.raises(KillError):
            texts(session_of(lean), 3)
    assert list(lean.glob("base-*/again"))
    assert [entry.stage for entry in upkeep.let_go(lean)] == ["base"]
    assert not list(lean.glob("base-*/again"))


def test_two_processes_make_it_again_once(lean, tmp_path, monkeypatch, made):
    code = (
        "import sys; sys.path[:0] = sys.argv[2:4]\n"
        "from pathlib import Path; import test_letting_go as t\n"
        "print(t.texts(t.session_of(Path(sys.argv[1])), int(sys.argv[4])))"
    )
    gate = tmp_path / "gate"
    monkeypatch.setenv("GATE", str(gate))
    here = str(OPEN.parent), str(OPEN.parent.parent)
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(lean), *here, factor],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for factor in "34"
    ]  # fmt: skip
    wait_for(tmp_path / "made.log")
    gate.touch()
    said = [process.communicate(timeout=600) for process in processes]
    assert [out for out, _ in said] == ["base by 1;tune by 2;\n"] * 2, said
    assert sorted(made()) == ["base", "read 3", "read 4", "tune"]


@pytest.mark.parametrize("state", ["running", "failed", "stopped"])
def test_nothing_of_a_run_that_is_not_finished_goes(tmp_path, state):
    root = tmp_path / "store"
    session = ran(root)
    (tune,) = root.glob("tune-*")
    name = {"entries": (tune.name,), "result": ""}
    receipts.write(root, receipts.Receipt(study="s", run="other", state=state, **name))
    del session
    assert upkeep.let_go(root) == [], "base too: tune was made of it"
    receipts.write(root, receipts.Receipt(study="s", run="other", state="done", **name))
    assert len(upkeep.let_go(root)) == 2


def test_nothing_goes_that_no_finished_run_is_made_of(tmp_path):
    texts(session_of(tmp_path))
    assert upkeep.let_go(tmp_path) == []
    assert len(heavy(tmp_path)) == 6


def test_damage_of_what_stayed_is_still_found(lean, made, capsys):
    (losses,) = lean.glob("base-*/losses.jsonl")
    good = losses.read_bytes()
    losses.write_bytes(good.replace(b"loss 1", b"loss 2"))
    found = [line for _, lines in upkeep.verify(lean) for line in lines]
    assert found == [f"{losses}: other content than was written"]
    assert texts(session_of(lean)) == "base by 1;tune by 2;"
    assert made() == ["base"]
    assert losses.read_bytes() == good
    assert "damaged, made again" in capsys.readouterr().err


def test_a_store_that_makes_nothing_has_what_counts_as_made(lean):
    session = Session(Store(lean, makes=False))
    assert texts(session) == "base by 1;tune by 2;"
    with pytest.raises(MissingError, match=r"the weights of tune-"):
        session.opened(tuned(session))


def test_who_does_not_know_the_maker_is_told_what_to_do_in_one_line(lean, made):
    (folder,) = lean.glob("tune-*/student")
    ref = ModelRef(path=str(folder), digest="x")
    for opens in (
        lambda: models.resolve(str(folder)),
        lambda: models.resolve(str(folder.parent / "kept/1")),
        lambda: session_of(lean).opened(ref),
        lambda: session_of(lean).run(READ, Settings(), ref),
    ):
        with pytest.raises(UserError, match=r"were let go .* delete .*tune-\w+ and give the run"):
            opens()
    assert made() == []


def test_a_ranking_knows_the_moments_of_a_student_whose_weights_were_let_go(tmp_path, made):
    from influbench import testing  # here: the processes above import this file, not torch
    from influbench.scoring.given import StudentConfig
    from influbench.scoring.rank import RankConfig, rank

    candidates, reference, warm = (
        testing.tiny_examples(kind, count)
        for kind, count in (("candidate", 4), ("reference", 4), ("w", 16))
    )
    told = RankConfig(student=StudentConfig(name="tiny"), estimator="exact")

    def ranked():
        found = rank(told, candidates, reference, session_of(tmp_path), warmup=warm)
        return found.scores, found.hangs_on, found.about

    before = ranked()
    (entry,) = tmp_path.glob("warm_up-*")
    letting_go.let_go(entry)
    assert heavy(tmp_path) == []
    assert ranked() == before


def test_the_commands_say_what_goes_what_it_costs_and_what_is_gone(tmp_path, made):
    root = tmp_path / "store"
    ran(root)
    made()
    names = sorted(path.name for path in root.glob("[!.]*") if path.name.startswith(("b", "t")))

    def store(*arguments: str) -> list[str]:
        done = influbench("store", *arguments, "--store", str(root), cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    told = store("gc", "--weights")
    assert [line.split(":")[0] for line in told[:2]] == names
    assert all(" MB, 0." in line and line.endswith(" s to make again") for line in told[:2])
    assert told[2].startswith("2 entries, ")
    assert told[2].endswith("would go; --yes deletes them")
    assert told[3].startswith("3 entries, ")
    assert len(heavy(root)) == 6
    assert store("gc", "--weights", "--yes")[2].endswith("deleted")
    assert heavy(root) == []
    assert store("gc", "--weights")[0].startswith("0 entries, ")
    assert sum("weights let go" in line for line in store("ls")) == 2
    gone = "kept/1/model.safetensors, student/model.safetensors, student/optimizer.pt"
    assert store("verify") == [
        *(f"{name}: weights let go ({gone})" for name in names),
        "3 entries read, 0 damaged",
    ]
    assert made() == []

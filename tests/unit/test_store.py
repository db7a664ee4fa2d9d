import dataclasses
import errno
import fcntl
import gc
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from influbench.config import Config, transport
from influbench.data.records import Example, ModelRef, Score
from influbench.errors import UserError, of_the_machine
from influbench.store import Meter, MissingError, Stage, Store, Work, upkeep
from influbench.store.chunks import Chunks
from influbench.store.disk import ExplainedWhenFull
from influbench.store.entry import MANIFEST
from influbench.store.presence import FILE, FOLDER
from influbench.terminal.progress import SilentProgress

EXAMPLES = [Example(id=f"e{i}", instruction=f"ask {i}", response="a\u2028b\x85c") for i in range(7)]


class Settings(Config):
    scale: float = 1.0
    size: int = transport(3)


def length(cfg: Settings, examples, *rest, work: Work) -> None:
    def score(part: list[Example]) -> list[Score]:
        return [Score(id=e.id, value=cfg.scale * len(e.instruction)) for e in part]

    with work.meter.phase("score", items=len(examples)):
        scores = work.chunks("scores", examples, score, size=cfg.size, kind=Score)
    work.write("scores", scores)
    (work.folder("model") / "weights").write_bytes(b"12345678")
    (work.folder("scratch") / "large").write_bytes(b"0" * 100)
    work.meta["mean"] = sum(s.value for s in scores) / len(scores)


STAGE = Stage("score", 1, length)


@dataclasses.dataclass
class Heard:
    notes: list[str] = dataclasses.field(default_factory=list)
    tasks: list[tuple[str, int, int]] = dataclasses.field(default_factory=list)

    def task(self, description: str, total: int, done: int = 0):
        self.tasks.append((description, total, done))
        return SilentProgress().task(description, total, done)

    def note(self, text: str) -> None:
        self.notes.append(text)


def content(path: Path) -> dict[str, bytes]:
    """Every file of an entry but the two that hold clocks."""
    return {
        p.relative_to(path).as_posix(): p.read_bytes()
        for p in path.rglob("*")
        if p.is_file() and p.name not in (MANIFEST, "ledger.jsonl")
    }


def test_a_stage_runs_once_per_distinct_input(tmp_path):
    heard = Heard()
    store = Store(tmp_path, heard)
    first = store.run(STAGE, Settings(), EXAMPLES, label="length")
    again = store.run(STAGE, Settings(), EXAMPLES, label="length")
    assert (first.cached, again.cached) == (False, True)
    assert again.path == tmp_path / f"score-length-{first.key[:16]}"
    assert dataclasses.replace(again, cached=False) == first
    assert again.meta == {"mean": 5.0}
    assert again.records("scores", Score) == [Score(id=f"e{i}", value=5.0) for i in range(7)]
    assert again.model("model") == ModelRef(
        path=str(again.path / "model"), digest=f"{again.key}/model"
    )
    assert heard.notes[0] == "score length: started"
    assert heard.notes[1].startswith("score length: done in ")
    assert len(heard.notes) == 2, "what is there already is not worth a line"
    assert heard.tasks == [("score length: scores", 7, 0)]


def test_a_hit_costs_what_it_cost_then(tmp_path):
    store = Store(tmp_path)
    first = store.run(STAGE, Settings(), EXAMPLES, label="length").ledger()
    again = store.run(STAGE, Settings(), EXAMPLES, label="length").ledger()
    assert again == first
    assert [(r.stage, r.label, r.phase, r.items, r.attempts) for r in first] == [
        ("score", "length", "run", 0, 1),
        ("score", "length", "score", 7, 1),
    ]
    assert all(r.seconds > 0 for r in first)


def test_only_what_matters_is_in_the_key(tmp_path):
    store = Store(tmp_path)
    model = ModelRef(path="/here", digest="d")

    def key(
        stage: Stage = STAGE,
        config: Settings | None = None,
        examples: list[Example] = EXAMPLES,
        extra: ModelRef | str | list[Example] | None = model,
    ) -> str:
        return store.run(stage, config or Settings(), examples, extra).key

    same = key()
    assert key(config=Settings(size=2)) == same, "a chunk size is transport"
    assert key(extra=ModelRef(path="/moved", digest="d")) == same, "so is where a model lies"
    others = [
        key(config=Settings(scale=2.0)),
        key(stage=Stage("score", 2, length)),
        key(stage=Stage("other", 1, length)),
        key(examples=EXAMPLES[:6]),
        key(examples=EXAMPLES[::-1]),
        key(extra=ModelRef(path="/here", digest="e")),
        key(extra=None),
        key(extra="d"),
        key(extra=[]),
    ]
    assert len({same, *others}) == 1 + len(others)


def test_the_entry_holds_the_result_and_nothing_else(tmp_path):
    entry = Store(tmp_path).run(STAGE, Settings(), EXAMPLES)
    assert sorted(content(entry.path)) == ["model/weights", "scores.jsonl"]
    manifest = json.loads((entry.path / MANIFEST).read_text())
    assert manifest["files"]["model/weights"]["size"] == 8
    assert sorted(manifest["files"]) == ["model/weights", "scores.jsonl"]
    assert (manifest["stage"], manifest["version"], manifest["key"]) == ("score", 1, entry.key)
    assert manifest["config"] == {"scale": 1.0}
    assert len(manifest["inputs"]) == 1
    assert manifest["influbench"]
    assert not list(entry.path.glob(".*"))


def bend(path: Path, part: str, instead: object) -> None:
    """Puts something else in place of a part of an entry's manifest."""
    manifest = json.loads((path / MANIFEST).read_text())
    (path / MANIFEST).write_text(json.dumps(manifest | {part: instead}))


def moved(path: Path) -> Path:
    """The entry's folder on another disk, linked to."""
    other = path.parent.parent / f"{path.parent.name}-elsewhere"
    path.rename(other)
    path.symlink_to(other)
    return path


DAMAGES = {
    "a changed byte": lambda p: (p / "scores.jsonl").write_bytes(
        (p / "scores.jsonl").read_bytes().replace(b"5.0", b"6.0")
    ),
    "a cut file": lambda p: (p / "scores.jsonl").write_bytes(b""),
    "a lost file": lambda p: (p / "scores.jsonl").unlink(),
    "a cut model": lambda p: (p / "model" / "weights").write_bytes(b"1234"),
    "a cut manifest": lambda p: (p / MANIFEST).write_bytes((p / MANIFEST).read_bytes()[:50]),
    "another manifest": lambda p: (p / MANIFEST).write_text("[1]"),
    "no facts": lambda p: bend(p, "meta", None),
    "no ledger": lambda p: bend(p, "ledger", None),
    "an odd ledger": lambda p: bend(p, "ledger", [{"seconds": "long"}]),
    "other facts": lambda p: bend(p, "meta", {"kept": 9}),
    "a cheaper ledger": lambda p: bend(p, "ledger", []),
    "a file less": lambda p: bend(p, "files", {}),
    "another setting": lambda p: bend(p, "config", {"scale": 2.0}),
    "odd files": lambda p: bend(p, "files", {"scores.jsonl": None}),
    "a folder as manifest": lambda p: (
        (p / MANIFEST).unlink(),
        (p / MANIFEST / "in").mkdir(parents=True),
    ),
    "a folder as file": lambda p: ((p / "scores.jsonl").unlink(), (p / "scores.jsonl").mkdir()),
    "a link to nowhere": lambda p: (
        (p / "scores.jsonl").unlink(),
        (p / "scores.jsonl").symlink_to("nowhere"),
    ),
    "elsewhere, and cut": lambda p: moved(p).joinpath("scores.jsonl").write_bytes(b""),
    "another key": lambda p: (p / MANIFEST).write_text(json.dumps({"key": "?", "files": {}})),
}


def test_an_entry_that_was_moved_and_linked_to_is_used_and_only_its_link_goes(tmp_path):
    store = Store(tmp_path)
    entry = store.run(STAGE, Settings(), EXAMPLES)
    moved(entry.path)
    assert store.run(STAGE, Settings(), EXAMPLES).cached
    del store
    gc.collect()
    assert len(upkeep.remove(tmp_path)) == 1
    assert not entry.path.is_symlink()
    assert (tmp_path.parent / f"{tmp_path.name}-elsewhere" / "scores.jsonl").exists()


ODD_LINES = {
    "a list as name": lambda told: told | {"stage": ["a"]},
    "a number as name": lambda told: told | {"attempt": 5},
    "less than nothing": lambda told: told | {"money": -1.0},
    "no number": lambda told: told | {"seconds": float("nan")},
    "no end": lambda told: told | {"seconds": float("inf")},
    "another cost": lambda told: told | {"lunch": 1},
}


@pytest.mark.parametrize("odd", [*ODD_LINES, "deep"])
def test_an_odd_line_of_a_half_done_ledger_costs_nothing_but_itself(tmp_path, capsys, odd):
    path = tmp_path / "ledger.jsonl"
    with Meter(path, stage="score").phase("score", items=3):
        pass
    lines = path.read_text().splitlines()
    bent = "[" * 9999 if odd == "deep" else json.dumps(ODD_LINES[odd](json.loads(lines[0])))
    path.write_text("\n".join([bent, *lines]) + "\n")
    (row,) = Meter(path, stage="score").rows()
    assert (row.items, row.attempts) == (3, 1)
    assert capsys.readouterr().err == f"{path}:1: damaged; what it cost is not counted\n"


def test_a_folder_in_place_of_a_chunk_is_one_line():
    error = IsADirectoryError(errno.EISDIR, "Is a directory", "/store/chunks/000000.jsonl")
    assert of_the_machine(error).startswith("expected to read or write /store/chunks/000000.jsonl")
    assert of_the_machine(IsADirectoryError(errno.EISDIR, "Is a directory")) == ""


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_entry_is_made_again(tmp_path, capsys, name):
    store = Store(tmp_path)
    before = store.run(STAGE, Settings(), EXAMPLES)
    good = content(before.path)
    (before.path / "left over").touch()
    DAMAGES[name](before.path)
    assert len(upkeep.listing(tmp_path)) == 1
    assert problems(tmp_path)
    after = store.run(STAGE, Settings(), EXAMPLES)
    assert not after.cached
    assert content(after.path) == good
    said = capsys.readouterr().err
    assert said.startswith("score: damaged, made again (")
    assert said.count("\n") == 1
    assert store.run(STAGE, Settings(), EXAMPLES).cached
    assert capsys.readouterr().err == ""


def test_only_what_the_store_made_is_listed_and_can_go(tmp_path):
    entry = Store(tmp_path).run(STAGE, Settings(), EXAMPLES)
    for name in ("extension", "extension-2024"):  # of a browser, say, or of a package
        (tmp_path / name).mkdir()
        (tmp_path / name / MANIFEST).write_text('{"name": "mine"}')
    assert [kept.path for kept in upkeep.listing(tmp_path)] == [entry.path]


IN = """
import sys
from pathlib import Path
from influbench.store.presence import present
here = present(Path(sys.argv[1]))
print("in", flush=True)
sys.stdin.read()
"""


def test_nothing_is_deleted_while_another_process_uses_the_store(tmp_path):
    store = Store(tmp_path)
    entry = store.run(STAGE, Settings(), EXAMPLES)
    other = subprocess.Popen(
        [sys.executable, "-c", IN, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert other.stdout is not None
    try:
        assert other.stdout.readline() == b"in\n"
        with pytest.raises(UserError, match="got another process that uses it"):
            upkeep.remove(tmp_path)
        assert store.run(STAGE, Settings(), EXAMPLES).cached
    finally:
        other.kill()
        other.communicate()
    upkeep.remove(tmp_path)
    assert not entry.path.exists()
    assert not store.run(STAGE, Settings(), EXAMPLES).cached


def test_a_store_is_used_as_long_as_somebody_holds_it(tmp_path):
    store = Store(tmp_path)
    store.run(STAGE, Settings(), EXAMPLES)
    with (tmp_path / FOLDER / FILE).open() as other:
        with pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        del store
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


def problems(store: Path) -> list[str]:
    """What ``store verify`` says."""
    return [line for _, lines in upkeep.verify(store) for line in lines]


def test_verify_reads_models_too(tmp_path):
    store = Store(tmp_path)
    entry = store.run(STAGE, Settings(), EXAMPLES)
    assert problems(tmp_path) == []
    weights = entry.path / "model" / "weights"
    when = weights.stat().st_mtime_ns
    weights.write_bytes(b"87654321")
    os.utime(weights, ns=(when, when))
    assert store.run(STAGE, Settings(), EXAMPLES).cached, "a disk that rots is left to verify"
    assert problems(tmp_path) == [f"{weights}: other content than was written"]


def test_entries_with_the_digests_of_before_are_still_verified(tmp_path):
    store = Store(tmp_path)
    entry = store.run(STAGE, Settings(), EXAMPLES)
    weights, path = entry.path / "model" / "weights", entry.path / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["seal"]
    for name, fact in manifest["files"].items():
        assert len(fact["digest"]) == 64
        data = (entry.path / name).read_bytes()
        fact["digest"] = hashlib.blake2b(data, digest_size=16).hexdigest()
    path.write_text(json.dumps(manifest))
    assert problems(tmp_path) == []
    assert store.run(STAGE, Settings(), EXAMPLES).cached
    weights.write_bytes(b"87654321")
    assert problems(tmp_path) == [f"{weights}: other content than was written"]


def test_a_model_that_was_written_to_is_not_used(tmp_path, capsys):
    store = Store(tmp_path)
    entry = store.run(STAGE, Settings(), EXAMPLES)
    good = content(entry.path)
    weights = entry.path / "model" / "weights"
    weights.write_bytes(b"1234567\x39")  # one bit of the last byte, the same size
    again = store.run(STAGE, Settings(), EXAMPLES)
    assert not again.cached
    assert content(again.path) == good
    assert "weights: other content than was written" in capsys.readouterr().err


def test_a_model_that_was_copied_is_read_and_used(tmp_path):
    store = Store(tmp_path)
    entry = store.run(STAGE, Settings(), EXAMPLES)
    os.utime(entry.path / "model" / "weights", ns=(1, 1))
    assert store.run(STAGE, Settings(), EXAMPLES).cached


def test_a_store_in_place_of_a_file_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot write .*file.*name a folder that can be written"):
        Store(tmp_path / "file").run(STAGE, Settings(), EXAMPLES)


def test_a_long_or_odd_label_stays_inside_the_store(tmp_path):
    store = Store(tmp_path / "s")
    for label in ("../../x", "x" * 1000, "."):
        entry = store.run(STAGE, Settings(), EXAMPLES, label=label)
        assert entry.path.parent == store.root


def test_a_store_that_makes_nothing_names_what_is_not_there(tmp_path):
    with pytest.raises(MissingError, match="score length"):
        Store(tmp_path, makes=False).run(STAGE, Settings(), EXAMPLES, label="length")
    assert not list(tmp_path.iterdir())


class KillError(Exception):
    """Stands for a kill."""


def broken_after(chunks: int, made: list[int]):
    """The stage ``length``, which fails when it has made some chunks; ``made`` counts them."""

    def function(cfg: Settings, examples, *, work: Work) -> None:
        def score(part: list[Example]) -> list[Score]:
            if len(made) == chunks:
                raise KillError
            made.append(len(part))
            return [Score(id=e.id, value=len(e.instruction) / 3) for e in part]

        work.write("scores", work.chunks("scores", examples, score, size=cfg.size, kind=Score))

    return Stage("broken", 1, function)


def test_finished_chunks_are_not_made_again(tmp_path):
    whole = Store(tmp_path / "whole").run(broken_after(99, []), Settings(), EXAMPLES)
    heard, made = Heard(), []
    store = Store(tmp_path / "broken", heard)
    with pytest.raises(KillError):
        store.run(broken_after(2, made), Settings(), EXAMPLES)
    again = store.run(broken_after(99, made), Settings(), EXAMPLES)
    assert made == [3, 3, 1]
    assert content(again.path) == content(whole.path)
    assert heard.tasks == [("broken: scores", 7, 0), ("broken: scores", 7, 6)]
    assert "broken: resumes scores, 6 of 7 done before" in heard.notes


def test_chunks_that_are_left_are_those_that_are_not_finished(tmp_path):
    with pytest.raises(KillError):
        Store(tmp_path).run(broken_after(2, []), Settings(), EXAMPLES)
    (folder,) = tmp_path.glob("broken-*")
    work = Work(folder, Meter(tmp_path / "ledger", stage="broken", label=""))
    assert work.left("scores", EXAMPLES, size=3, kind=Score) == {2}
    assert work.left("scores", EXAMPLES, size=2, kind=Score) == {0, 1, 2, 3}


def test_chunks_of_another_size_are_not_used(tmp_path):
    made: list[int] = []
    store = Store(tmp_path)
    with pytest.raises(KillError):
        store.run(broken_after(1, made), Settings(size=3), EXAMPLES)
    entry = store.run(broken_after(99, made), Settings(size=2), EXAMPLES)
    assert made == [3, 2, 2, 2, 1]
    assert [s.id for s in entry.records("scores", Score)] == [e.id for e in EXAMPLES]
    assert not (entry.path / "chunks").exists()


def test_a_damaged_chunk_is_made_again(tmp_path, capsys):
    made: list[int] = []
    store = Store(tmp_path)
    with pytest.raises(KillError):
        store.run(broken_after(2, made), Settings(), EXAMPLES)
    chunk = sorted(tmp_path.glob("broken-*/chunks/scores/*"))[1]
    chunk.write_bytes(chunk.read_bytes().replace(b"1.666", b"9.666", 1))
    entry = store.run(broken_after(99, made), Settings(), EXAMPLES)
    assert made == [3, 3, 3, 1]
    assert {s.value for s in entry.records("scores", Score)} == {5 / 3}
    assert capsys.readouterr().err == f"{chunk}: damaged; this chunk is made again\n"


def test_chunks_take_anything_json_can_say_and_keep_odd_line_breaks(tmp_path):
    chunks = Chunks(tmp_path, Example)
    items = [(EXAMPLES[0], 3), "text", 1.5]
    assert chunks.read(0, items) is None
    assert chunks.write(0, items, EXAMPLES) == EXAMPLES
    assert chunks.read(0, items) == EXAMPLES
    assert chunks.read(1, items) is None
    assert chunks.read(0, [(EXAMPLES[1], 3), "text", 1.5]) is None


def test_a_kill_before_the_manifest_leaves_a_half_done_entry(tmp_path):
    store = Store(tmp_path)
    entry = store.run(STAGE, Settings(), EXAMPLES)
    good = content(entry.path)
    (entry.path / MANIFEST).unlink()
    (entry.path / ".scores.jsonl.x7").write_text("half a fi")
    (entry.path / "model" / "stale").touch()
    (entry.path / "checkpoint").touch()
    again = store.run(STAGE, Settings(), EXAMPLES)
    assert not again.cached
    assert content(again.path) == {**good, "checkpoint": b""}, "a stage's own checkpoint stays"


def test_a_kill_after_the_manifest_leaves_a_whole_entry(tmp_path):
    store = Store(tmp_path)
    entry = store.run(STAGE, Settings(), EXAMPLES)
    (entry.path / "chunks" / "scores").mkdir(parents=True)
    assert store.run(STAGE, Settings(), EXAMPLES).cached
    assert not (entry.path / "chunks").exists()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_the_users_one_line(tmp_path, code):
    def function(cfg, *, work: Work) -> None:
        raise OSError(code, "No space left on device", "/data/model.safetensors")

    with pytest.raises(UserError, match=r"could not write /data/model\.safetensors \(.* free\)"):
        Store(tmp_path).run(Stage("full", 1, function), Settings())


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_real_full_device_is_recognised():
    def write() -> None:
        with Path("/dev/full").open("wb", buffering=0) as file:
            file.write(b"x")

    with (
        pytest.raises(UserError, match="the disk is full: could not write /r") as caught,
        ExplainedWhenFull(Path("/r/scores.jsonl"), needed=1234),
    ):
        write()
    assert "1,234 bytes needed" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_errors_that_are_no_full_disk_pass(tmp_path):
    for error in (PermissionError("no"), UserError("theirs"), KeyboardInterrupt()):
        with pytest.raises(type(error)) as caught, ExplainedWhenFull(tmp_path):
            raise error
        assert caught.value is error


def test_rich_progress_writes_a_line_now_and_then(tmp_path):
    import io

    from rich.console import Console

    from influbench.terminal.progress import RichProgress

    text, now = io.StringIO(), [0.0]
    progress = RichProgress(Console(file=text, width=20), clock=lambda: now[0])
    with progress.task("score [exact]: scores", 1000, done=200) as advance:
        for _ in range(4):
            now[0] += 6
            advance(100)
    assert text.getvalue().splitlines() == [
        "score [exact]: scores: 40% (400/1000), 0:00:36 left",
        "score [exact]: scores: 60% (600/1000), 0:00:24 left",
    ]


def test_rich_progress_draws_a_bar_on_a_terminal():
    import io

    from rich.console import Console

    from influbench.terminal.progress import RichProgress

    text = io.StringIO()
    progress = RichProgress(Console(file=text, width=100, force_terminal=True))
    with progress.task("scores", 10, done=4) as advance:
        advance(6)
        progress.note("a [word]")
    assert "10/10" in text.getvalue()
    assert "a [word]" in text.getvalue()

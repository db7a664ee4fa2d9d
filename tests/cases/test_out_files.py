"""--out is the user's folder: no input, no device and nothing foreign is ever overwritten."""

import json
import os
from pathlib import Path

import pytest
from command import influbench

from influbench.data.records import Score
from influbench.errors import UserError
from influbench.report import comparison
from influbench.results import outputs, result_file, score_files
from influbench.results.score_files import ScoreFile

ROWS = "".join(
    json.dumps({"id": f"c{n}", "instruction": f"Say {n}.", "response": "word " * (n + 1)}) + "\n"
    for n in range(4)
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "c.jsonl").write_text(ROWS)
    return tmp_path


def score(folder: Path, out: str):
    return influbench(
        "score", "--student", "tiny", "--candidates", "c.jsonl", "--reference", "c.jsonl",
        "--estimator", "length", "--out", out, "--store", "store", cwd=folder,
    )  # fmt: skip


def refused(folder: Path, out: str, *words: str) -> None:
    done = score(folder, out)
    assert done.returncode == 2, done.stdout
    assert all(word in done.stderr for word in words), done.stderr
    assert not (folder / "store").exists(), "refused before anything is computed"


def test_an_input_is_never_overwritten(folder):
    (folder / "link.jsonl").symlink_to(folder / "c.jsonl")
    os.link(folder / "c.jsonl", folder / "hard.jsonl")
    for name in ("c.jsonl", "./c.jsonl", "link.jsonl", "hard.jsonl"):
        refused(folder, name, "an input of the command")
    assert (folder / "c.jsonl").read_text() == ROWS


def test_foreign_files_folders_devices_and_pipes_stay(folder):
    (folder / "mine.txt").write_text("mine")
    refused(folder, "mine.txt", "did not write")
    (folder / "new.jsonl.meta.json").write_text('{"mine": 1}')
    refused(folder, "new.jsonl", "meta.json", "did not write")
    (folder / "sub").mkdir()
    refused(folder, "sub", "a folder")
    refused(folder, "none/x.jsonl", "no folder")
    os.mkfifo(folder / "pipe")
    refused(folder, "pipe", "a device or pipe")
    refused(folder, "/dev/null", "a device or pipe")
    assert Path("/dev/null").is_char_device()
    assert (folder / "mine.txt").read_text() == "mine"


def test_our_own_file_is_replaced_a_link_is_followed_and_an_empty_file_filled(folder):
    assert score(folder, "s.jsonl").returncode == 0
    first = (folder / "s.jsonl").read_text()
    assert score(folder, "s.jsonl").returncode == 0
    (folder / "l.jsonl").symlink_to(folder / "s.jsonl")
    assert score(folder, "l.jsonl").returncode == 0
    assert (folder / "l.jsonl").is_symlink()
    assert (folder / "s.jsonl").read_text() == first
    (folder / "empty.jsonl").touch()
    assert score(folder, "empty.jsonl").returncode == 0
    # Rewritten by the user with the same facts beside it: theirs again.
    (folder / "s.jsonl").write_text("mine")
    assert score(folder, "s.jsonl").returncode == 2


def test_the_file_is_there_although_the_table_cannot_be_printed(folder, monkeypatch):
    from influbench.report import tables

    def broken(*_: object) -> None:
        raise BrokenPipeError

    monkeypatch.setattr(tables, "ranking_table", broken)
    assert score(folder, "s.jsonl").returncode != 0
    assert len((folder / "s.jsonl").read_text().splitlines()) == 4


def written(path: Path, values: list[float]) -> Path:
    scores = [Score(id=f"c{n}", value=v) for n, v in enumerate(values)]
    groups = {f"c{n}": str(n // 2) for n in range(len(values))}
    score_files.write(path, ScoreFile(name=path.stem, scores=scores, groups=groups))
    return path


def test_compare_keeps_its_inputs_and_foreign_tables(folder):
    a = written(folder / "exact.jsonl", [1.0, 2.0, 3.0, 4.0])
    b = written(folder / "b.jsonl", [1.0, 3.0, 2.0, 4.0])
    for out in (a, b):
        done = influbench("compare", str(a), str(b), "--out", str(out), cwd=folder)
        assert (done.returncode, "an input" in done.stderr) == (2, True)
    (folder / "t.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match="did not write"):
        comparison.claim(folder / "t.csv")
    for _ in range(2):
        assert influbench("compare", str(a), str(b), "--out", "n.csv", cwd=folder).returncode == 0
    assert (folder / "n.csv").read_text().startswith("estimator,metric,value")


def test_every_setting_of_compare_and_report_is_reached_by_set(folder):
    files = [written(folder / f"{n}.jsonl", [1.0, 3.0, 2.0, float(v)]) for v, n in enumerate("xyz")]
    scores, out = [*map(str, files), "--oracle", "x"], ("--out", "n.csv")
    told = []
    for wanted in ("seed=0", "seed=1", "resamples=2", "oracle=y"):
        done = influbench("compare", *scores, "--set", wanted, *out, cwd=folder)
        assert done.returncode == 0, done.stderr
        told.append((folder / "n.csv").read_text())
    assert len(set(told)) == len(told)
    assert influbench("report", *scores, "--set", "oracle=y", cwd=folder).returncode == 0
    for command in ("compare", "report"):
        done = influbench(command, *scores, "--set", "resample=9", cwd=folder)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert "resample" in done.stderr


def test_results_and_figures_replace_only_their_own(folder):
    from paper_figs import drawing

    (folder / "study").mkdir()
    mine = folder / "study" / "run.json"
    mine.write_text('{"mine": true}')
    with pytest.raises(UserError, match="did not write"):
        result_file.claim(folder, "study", "run")
    mine.write_text('{\n "format": 3,\n "stu')  # ours, cut short: written anew
    assert result_file.claim(folder, "study", "run") == mine
    with pytest.raises(UserError, match="expected a run name"):
        result_file.claim(folder, "study", "../run")
    (folder / "file").write_text("x")
    with pytest.raises(UserError, match="results cannot be written"):
        result_file.claim(folder / "file", "study", "run")

    from matplotlib.figure import Figure

    figure = Figure()
    first = drawing.save(figure, folder / "f", "fig", "what it shows")
    assert drawing.save(figure, folder / "f", "fig", "what it shows") == first
    (folder / "f" / "other.txt").write_text("mine")
    with pytest.raises(UserError, match="did not write"):
        drawing.save(figure, folder / "f", "other", "what it shows")
    first[1].write_bytes(b"\x89PNG of somebody else")
    with pytest.raises(UserError, match="did not write"):
        drawing.save(figure, folder / "f", "fig", "what it shows")
    assert first[1].read_bytes() == b"\x89PNG of somebody else"


def test_a_folder_that_cannot_be_written_is_told_before(folder, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(UserError, match="cannot be written in"):
        outputs.claim(folder / "x", lambda _: True)

import dataclasses
import json

import numpy as np
import pytest
from rich.console import Console

import influbench
from influbench.data.records import LedgerRow, Score
from influbench.errors import UserError
from influbench.report import agreement_tables as agreement
from influbench.report import comparison
from influbench.results import score_files
from influbench.results.score_files import ScoreFile

GROUPS = {f"c{i}": f"g{i // 4}" for i in range(16)}
VALUES = np.random.default_rng(0).normal(size=16)
FEW = comparison.CompareConfig(resamples=20)


def ledger(seconds, forward):
    base = dict.fromkeys([f.name for f in dataclasses.fields(LedgerRow)], 0)
    row = {**base, "stage": "score", "label": "m", "items": 16, "seconds": seconds, "attempts": 1}
    row["device"] = "cpu"
    return [
        LedgerRow(**{**row, "phase": "prepare", "items": 8}),
        LedgerRow(**{**row, "phase": "score", "forward_passes": forward, "backward_passes": 16}),
    ]


def scored(name, values, scale="nats", each=None, **about):
    return ScoreFile(
        name=name,
        scores=[
            Score(
                id=f"c{i}",
                value=float(v),
                stderr=0.01,
                per_reference=None if each is None else tuple(each[i]),
            )
            for i, v in enumerate(values)
        ],
        groups=GROUPS,
        about={"scale": scale, "needs": ["gradients"], **about},
        ledger=ledger(32.0, 48),
    )


@pytest.fixture
def written(tmp_path):
    """Writes score files and returns their paths."""

    def write(*files, **options):
        paths = [tmp_path / f"{file.name}.jsonl" for file in files]
        for path, file in zip(paths, files, strict=True):
            score_files.write(path, file, **options)
        return paths

    return write


def compare(paths, oracle="exact", resamples=20):
    return influbench.compare(paths, oracle, resamples=resamples)


def cells(frame):
    return {(r["estimator"], r["metric"]): r for r in frame.to_dict("records")}


def test_files_come_back_as_they_were_written(written):
    each = np.stack([VALUES - 1, VALUES + 1], axis=1)
    file = scored("exact", VALUES, each=each, diagnostics={"noise_floor": 1e-9})
    assert score_files.read(written(file, per_reference=True)[0]) == file
    without = [dataclasses.replace(s, per_reference=None) for s in file.scores]
    assert score_files.read(written(file)[0]) == dataclasses.replace(file, scores=without)


def test_a_perfect_a_reversed_and_a_shifted_method(written):
    paths = written(
        scored("exact", VALUES),
        scored("perfect", 3 * VALUES),
        scored("reversed", -VALUES),
        scored("shifted", VALUES + 100),
        scored("ranks", np.argsort(np.argsort(VALUES)), scale="rank"),
    )
    found = cells(compare(paths))
    for metric in ("spearman", "kendall", "spearman_within", "sign_agreement", "top_overlap"):
        assert found["perfect", metric]["value"] == pytest.approx(1)
    assert found["perfect", "pair_precision_margin"]["value"] == 1
    for metric in ("spearman", "kendall_within"):
        assert found["reversed", metric]["value"] == pytest.approx(-1)
    assert found["reversed", "sign_agreement"]["value"] == 0
    assert found["shifted", "sign_agreement"]["value"] == pytest.approx(np.mean(VALUES > 0))
    assert found["shifted", "sign_agreement_centred"]["value"] == 1
    assert found["ranks", "spearman"]["value"] == pytest.approx(1)
    assert ("ranks", "sign_agreement") not in found
    assert ("exact", "spearman") not in found


def test_costs_stand_next_to_agreement(written):
    paths = written(
        scored("exact", VALUES), scored("cheap", VALUES, diagnostics={"parameter_share": 0.25})
    )
    found = cells(compare(paths))
    assert found["exact", "prepare_seconds"]["value"] == 32
    assert found["cheap", "seconds_per_candidate"]["value"] == 2
    assert found["cheap", "passes_per_candidate"]["value"] == (48 + 2 * 16) / 16
    assert found["cheap", "parameter_share"]["value"] == 0.25


def test_an_oracle_against_the_state_before_is_centred_on_the_empty_step(written):
    facts = {"reference_loss_before": 2.0, "reference_loss_null": 1.5}
    each = np.stack([VALUES + 0.4, VALUES + 0.6], axis=1)
    file = scored(
        "exact", VALUES + 0.5, options={"baseline": "before"}, diagnostics=facts, each=each
    )
    centred = comparison.null_centred(file)
    assert np.allclose([s.value for s in centred.scores], VALUES)
    assert all(np.mean(s.per_reference or ()) == pytest.approx(s.value) for s in centred.scores)
    found = cells(compare(written(file, scored("first", VALUES))))
    assert found["first", "sign_agreement"]["value"] == 1
    broken = dataclasses.replace(file, about={**file.about, "diagnostics": {}})
    with pytest.raises(UserError, match="baseline=null"):
        comparison.null_centred(broken)


def test_ceiling_and_noise_floor_rows(written):
    each = VALUES[:, None] + np.random.default_rng(1).normal(size=(16, 32)) * 0.01
    oracle = scored("exact", each.mean(1), each=each, diagnostics={"noise_floor": 1e-6})
    paths = written(oracle, scored("noise", -VALUES), per_reference=True)
    found = cells(compare(paths))
    assert 0.95 < found["ceiling", "spearman"]["value"] <= 1
    assert found["own noise", "spearman"]["value"] == pytest.approx(1)
    loud = dataclasses.replace(oracle, about={**oracle.about, "diagnostics": {"noise_floor": 1e3}})
    found = cells(compare(written(loud, per_reference=True) + paths[1:]))
    assert abs(found["own noise", "spearman"]["value"]) < 0.9


def test_a_ceiling_on_few_references_is_not_shown_and_said_so(written):
    each = VALUES[:, None] + np.random.default_rng(1).normal(size=(16, 8)) * 0.01
    paths = written(
        scored("exact", each.mean(1), each=each), scored("a", VALUES), per_reference=True
    )
    found = comparison.verdict(paths, FEW)
    assert "ceiling" not in set(found.rows["estimator"])
    assert any("8 references leave too few to a half, it takes 32" in note for note in found.notes)


def test_own_noise_is_not_worded_as_something_to_reach(written):
    oracle = scored("exact", VALUES, diagnostics={"noise_floor": 1e-6})
    found = comparison.verdict(written(oracle, scored("a", VALUES**3)), FEW)
    caption = str(agreement.comparison_tables(found)[-1])
    assert "own noise" in caption
    assert "no score to reach" in caption


def test_the_same_seed_gives_the_same_intervals_in_any_company(written):
    paths = written(scored("exact", VALUES), scored("a", VALUES**3), scored("b", np.abs(VALUES)))
    both, alone = cells(compare(paths)), cells(compare(paths[:2]))
    assert all(both[key] == row for key, row in alone.items() if row["low"] == row["low"])


@pytest.mark.parametrize("width", [80, 200])
def test_tables_show_every_method_and_note(written, width):
    paths = written(scored("exact", VALUES), scored("cheap", VALUES, student={"digest": "b"}))
    bare = paths[1].with_name("bare.jsonl")
    bare.write_text(paths[1].read_text())
    found = comparison.verdict([*paths, bare], FEW)
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: PTH123, SIM115
    for table in agreement.comparison_tables(found, width):
        console.print(table)
    text = console.export_text()
    assert text.index("cheap") < text.index("exact", text.index("cheap"))
    assert "without .meta.json (no costs, no sign): bare" in " ".join(text.split())
    assert "among siblings, 4 seed prompts" in text


def test_what_was_scored_otherwise_is_said(written):
    paths = written(
        scored("exact", VALUES, reference={"digest": "a"}, student={"digest": "a"}),
        scored("other", VALUES, reference={"digest": "b"}, student={"digest": "b"}),
        scored("words", VALUES, reference={"digest": "a"}, student={"digest": "b"}, needs=[]),
    )
    notes = comparison.verdict(paths, FEW).notes
    assert "scored with other references than exact: other" in notes
    assert "scored with another student than exact: other" in notes


def test_the_same_rows_in_another_order_are_no_other_rows(written):
    same, other = ({"digest": order, "rows": "r"} for order in "ab")
    paths = written(
        scored("exact", VALUES, candidates=same, reference=same),
        scored("turned", VALUES, candidates=other, reference=other),
        scored("older", VALUES, candidates={"digest": "b"}, reference={"digest": "a"}),
    )
    notes = "\n".join(comparison.verdict(paths, FEW).notes)
    assert "turned" not in notes
    assert "scored with other candidates than exact: older" in notes
    assert "references than exact" not in notes


@pytest.mark.parametrize(
    ("fact", "own", "others", "said"),
    [
        ("hangs_on", {"steps": 3}, {"steps": 4}, "another step"),
        ("hangs_on", {"steps": 3}, None, ""),  # a method without moments hangs on none
        ("max_length", None, 256, "examples cut at another length"),
        ("learn", "all", "last", "other turns that learn"),
        ("objective", "dpo", "nll", "another objective"),
        ("dtype", "float32", "bfloat16", "weights of another dtype"),
    ],
)
def test_another_step_or_other_tokens_are_said(written, fact, own, others, said):
    paths = written(
        scored("exact", VALUES, **{fact: own}), scored("other", VALUES, **{fact: others})
    )
    notes = comparison.verdict(paths, FEW).notes
    assert any(f"scored with {said}" in note for note in notes) == bool(said)


def test_mistakes_are_named(written, tmp_path):
    paths = written(scored("exact", VALUES), scored("a", VALUES))
    with pytest.raises(UserError, match=r"oracle 'truth': expected the stem of one of the 2"):
        compare(paths, "truth")
    with pytest.raises(UserError, match="got none"):
        compare(paths[:1])
    (tmp_path / "other").mkdir()
    twin = tmp_path / "other" / "a.jsonl"
    twin.write_text(paths[1].read_text())
    with pytest.raises(UserError, match="two files named 'a'"):
        compare([*paths, twin])
    lines = paths[1].read_text().splitlines()
    paths[1].write_text("\n".join(lines[:-1]))
    with pytest.raises(UserError, match="'c15' is on one side only"):
        compare(paths)
    paths[1].write_text("\n".join([*lines, lines[0]]))
    with pytest.raises(UserError, match=r"a.jsonl:17: expected every id once"):
        compare(paths)
    paths[1].write_text('{"id": "c0", "score": NaN}')
    with pytest.raises(UserError, match=r"a.jsonl:1: expected a finite number in 'score'"):
        compare(paths)
    meta = score_files.meta_path(paths[1])
    meta.write_text(json.dumps({"format": 99}))
    paths[1].write_text("\n".join(lines))
    with pytest.raises(UserError, match="format: expected 1, got 99"):
        compare(paths)

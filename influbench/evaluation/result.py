"""An evaluation as rows, as a result file and as a table."""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich import box
from rich.markup import escape
from rich.table import Table

from influbench.evaluation.answers import AnswerConfig
from influbench.evaluation.judge_quality import CONSISTENT, PREFERS_FIRST, UNPARSEABLE
from influbench.evaluation.numbers import CHARACTERS
from influbench.evaluation.plan import HARNESS, ONE_TURN, TWO_TURNS, EvaluateConfig
from influbench.evaluation.standalone import Evaluation, Part
from influbench.records import Outcome, ResultRow
from influbench.results import result_file
from influbench.results.provenance import provenance
from influbench.results.result_file import RunResult
from influbench.statistics.estimate import Estimate
from influbench.terminal import cell


def run_name(found: Evaluation) -> str:
    """What an evaluation's file is called: the student, and a digest of what it was put through."""
    plain = re.sub(r"[^\w.=+-]+", "-", found.student).strip("-.") or "student"
    return f"{plain},{found.identity[:8]}"


def save(found: Evaluation, root: Path, study: str, run: str) -> Path:
    """Writes ``root/study/run.json``; one that holds this very result keeps its date and commit.

    Metrics and outcomes begin with their suite, such as ``alpaca_eval/win_rate``; the judge's
    behaviour stands beside them as ``alpaca_eval/judge_prefers_first``. Harness numbers are
    ``harness:TASK/metric/filter``.

    Raises:
        UserError: a name that is no file name.
    """
    import torch

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    result = RunResult(
        config=_settings(found),
        provenance=provenance(
            datetime.datetime.now(datetime.UTC), device=device, threads=torch.get_num_threads()
        ),
        rows=[_row(found, study, run, *number) for number in _numbers(found)],
        ledger=found.ledger,
        outcomes={found.student: [o for part in found.parts for o in _outcomes(part)]},
        notes=[*decoding(found.cfg), *found.notes],
    )
    return result_file.write_if_new(root, study, run, result)


def decoding(cfg: EvaluateConfig) -> list[str]:
    """How answers were written, a line each kind."""
    kinds = {
        "one-turn answers": (ONE_TURN, cfg.answers),
        "two-turn answers": (TWO_TURNS, cfg.turns),
    }
    return [
        f"{name}: {_decoding(answers)}"
        for name, (suites, answers) in kinds.items()
        if set(suites) & set(cfg.suites)
    ]


def score_table(found: Evaluation) -> Table:
    """Every number with its standard error and, beside it, how the judge behaved."""
    table = Table(
        title=cell(found.student + (f" against {found.baseline}" if found.baseline else "")),
        caption=escape("\n".join(_caption(found))),
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        show_edge=False,
    )
    for title in ("suite", "number"):
        table.add_column(title, overflow="fold")
    for title in ("value", "s.e.", "n", "unit", "judge: first\nplace (%)"):
        table.add_column(title, justify="right", overflow="fold")
    for title in ("judge: both\norders (%)", "judge:\nsilent (%)"):
        table.add_column(title, justify="right", overflow="fold")
    for part in found.parts:
        judged = [
            _short(part.quality.get(name)) for name in (PREFERS_FIRST, CONSISTENT, UNPARSEABLE)
        ]
        for name, summary in part.numbers.items():
            table.add_row(
                escape(part.suite.removeprefix(HARNESS)),
                escape(name.partition("/")[2] if part.suite.startswith(HARNESS) else name),
                _value(summary.value),
                "–" if summary.stderr is None else _value(summary.stderr),
                str(summary.n),
                summary.unit,
                *(judged if summary.unit != CHARACTERS else ("–",) * len(judged)),
            )
    return table


def _caption(found: Evaluation) -> list[str]:
    lines = decoding(found.cfg)
    if found.judge:
        spent = [row for row in found.ledger if row.phase == "judge"]
        calls = sum(row.api_calls for row in spent)
        asked, written = (
            sum(row.api_prompt_tokens for row in spent),
            sum(row.api_completion_tokens for row in spent),
        )
        lines.append(
            f"judge {found.judge}: {calls:,} requests, {asked:,} tokens read, {written:,} written, "
            f"${sum(row.money for row in spent):.4f}"
        )
        lines.append("first place: preference for the answer shown first, 50 = no position bias")
    return [*lines, *found.notes]


def _settings(found: Evaluation) -> Mapping[str, Any]:
    judge = found.cfg.judge
    prices = (
        {}
        if judge is None
        else {"prompt_price": judge.prompt_price, "completion_price": judge.completion_price}
    )
    # Not all of it: an address may hold a name or a password.
    return {**found.cfg.identity(), **prices, "baseline_name": found.baseline}


def _numbers(found: Evaluation) -> Iterator[tuple[str, Estimate]]:
    for part in found.parts:
        for name, summary in (part.numbers | part.quality).items():
            yield _metric(part, name), summary


def _outcomes(part: Part) -> Iterator[Outcome]:
    for outcome in part.outcomes:
        yield replace(outcome, metric=_metric(part, outcome.metric))


def _metric(part: Part, name: str) -> str:
    # The harness's own names begin with the task, which may be one of a group.
    return f"{HARNESS}{name}" if part.suite.startswith(HARNESS) else f"{part.suite}/{name}"


def _row(found: Evaluation, study: str, run: str, metric: str, summary: Estimate) -> ResultRow:
    return ResultRow(
        study=study,
        run=run,
        estimator=found.student,
        round=1,
        seed=found.cfg.seed,
        metric=metric,
        value=summary.value,
        stderr=summary.stderr,
        n=summary.n,
        unit=summary.unit,
    )


def _decoding(cfg: AnswerConfig) -> str:
    sampling = cfg.sampling
    said = _temperature(sampling.temperature)
    if cfg.temperatures:
        said += " (" + ", ".join(f"{k} {v:g}" for k, v in sorted(cfg.temperatures.items())) + ")"
    more = {
        "top_p": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "repetition_penalty": 1.0,
    }
    given = sampling.model_dump()
    said += "".join(f", {k} {given[k]:g}" for k, usual in more.items() if given[k] != usual)
    said += f", at most {sampling.max_new_tokens} tokens, {cfg.dtype}"
    return f"{said}, batches of {cfg.batch_size}, seed {cfg.seed}"


def _temperature(value: float) -> str:
    return "greedy" if value == 0 else f"temperature {value:g}"


def _value(value: float) -> str:
    return f"{value:.2f}" if abs(value) >= 1 else f"{value:.3f}"


def _short(summary: Estimate | None) -> str:
    if summary is None:
        return "–"
    return f"{summary.value:.0f}" + ("" if summary.stderr is None else f" ± {summary.stderr:.0f}")

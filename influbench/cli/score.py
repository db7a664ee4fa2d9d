"""The commands about a user's own data: scores, and how far they agree. Parse, call, print."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import typer

from influbench import terminal
from influbench.cli import options
from influbench.errors import UserError


def score(
    student: Annotated[
        str, typer.Option(help="hub name, packaged model, folder or Trainer checkpoint")
    ],
    candidates: Annotated[str, typer.Option(help="file or hub name with instruction and response")],
    reference: Annotated[str, typer.Option(help="the pairs whose loss defines what helps")],
    estimator: Annotated[
        str | None,
        typer.Option(
            help="see 'influbench estimators'; else exact where the student has moments or a "
            "warm-up, gradient_dot where not"
        ),
    ] = None,
    warmup: Annotated[
        str | None, typer.Option(help="pairs that give the student its moments")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="the first N candidates only")] = None,
    reference_limit: Annotated[int | None, typer.Option(min=1)] = None,
    max_length: Annotated[
        int | None, typer.Option(min=2, help="cut examples at so many tokens")
    ] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:N")] = None,
    dtype: Annotated[str | None, typer.Option(help="of the weights: float32, bfloat16")] = None,
    compute: Annotated[
        str | None, typer.Option(help="of matrix products: float32, tf32, bfloat16")
    ] = None,
    placement: Annotated[
        str | None, typer.Option(help="of the student: auto, device, offloaded, sharded (torchrun)")
    ] = None,
    compile_layers: Annotated[
        str | None, typer.Option("--compile", help="layers, on CUDA: auto, on, off")
    ] = None,
    token_budget: Annotated[
        int | None, typer.Option(min=1, help="tokens in one pass; by default what fits")
    ] = None,
    chunk_size: Annotated[
        int | None, typer.Option(min=1, help="candidates between two safe points")
    ] = None,
    workers: options.Workers = None,
    executor: options.Executor = None,
    ray_address: options.RayAddress = None,
    seed: options.Seed = None,
    overrides: options.Set = None,
    out: Annotated[
        Path | None,
        typer.Option(help="JSONL file of scores; facts and costs beside it in OUT.meta.json"),
    ] = None,
    per_reference: Annotated[
        bool, typer.Option("--per-reference", help="with one number a reference in OUT")
    ] = False,
    top: Annotated[
        str | None, typer.Option(metavar="N|P%", help="the best N, or P percent, go to OUT-DATA")
    ] = None,
    out_data: Annotated[
        Path | None,
        typer.Option(help="new file of the best rows, in the form and order of CANDIDATES"),
    ] = None,
    store: options.StoreRoot = options.STORE,
) -> None:
    """Rank your own data for your own model; --set options.KEY=VALUE is for the estimator."""
    from influbench.data import selecting
    from influbench.report import tables
    from influbench.results import score_files
    from influbench.scoring.rank import RankConfig, rank

    inputs = (student, candidates, reference, warmup)
    if out is not None:
        score_files.claim(out, inputs=inputs)
    how_many = _selection(top, out_data, candidates, inputs, out)
    given = {
        "student.name": student,
        "student.dtype": dtype,
        "estimator": estimator,
        "limit": limit,
        "reference_limit": reference_limit,
        "scoring.max_length": max_length,
        "scoring.compute": compute,
        "scoring.placement": placement,
        "scoring.compile": compile_layers,
        "scoring.token_budget": token_budget,
        "scoring.chunk_size": chunk_size,
        **options.sharing(executor, workers, ray_address),
        "device": device,
        "seed": seed,
    }
    cfg = options.checked(RankConfig, given, overrides)
    session = options.session(store, cfg.judge.max_dollars)
    found = rank(cfg, candidates, reference, session, warmup=warmup)
    frame = found.frame()
    if out is not None:  # before anything is printed: a closed pipe must not cost the file
        score_files.write(out, found.as_file(out.stem), per_reference=per_reference)
    kept = [] if how_many is None else selecting.best(frame["score"].tolist(), how_many(len(frame)))
    if out_data is not None:
        _claim_rows(out_data, inputs, out)
        selecting.write(candidates, kept, out_data)
    console = terminal.console()
    for note in found.notes:
        console.print(f"note: {note}", markup=False, highlight=False, soft_wrap=True)
    frame = tables.with_text(frame, found.candidates)
    console.print(tables.ranking_table(frame, found.facts, width=console.width))
    for line in found.hangs_on:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    console.print(tables.ledger_table(found.ledger))
    if out is not None:
        console.print(f"{len(frame)} scores in {out}", markup=False, soft_wrap=True)
    if out_data is not None:
        told = f"the best {len(kept)} of {len(frame)} rows, in their order, in {out_data}"
        console.print(told, markup=False, soft_wrap=True)


def _selection(
    top: str | None,
    out_data: Path | None,
    candidates: str,
    inputs: Sequence[object],
    out: Path | None,
) -> Callable[[int], int] | None:
    """How many of so many rows are kept; None where nothing is selected."""
    from influbench.data import selecting

    if top is None and out_data is None:
        return None
    if top is None or out_data is None:
        raise UserError("expected --top and --out-data together: which rows, and where to")
    selecting.check_kind(candidates, out_data)
    _claim_rows(out_data, inputs, out)
    return selecting.share(top)


def _claim_rows(out_data: Path, inputs: Sequence[object], out: Path | None) -> None:
    from influbench.results import outputs, score_files

    # A user's own format bears no mark of ours, so what is there is never replaced.
    named = outputs.claim(out_data, lambda _: False, inputs=inputs, option="--out-data")
    if out is not None and named.resolve() in (
        out.resolve(),
        score_files.meta_path(out).resolve(),
    ):
        raise UserError(f"--out-data {out_data}: --out writes there as well; give another name")


def compare(
    scores: Annotated[
        list[str],
        typer.Argument(metavar="SCORES...", help="files of 'score --out'; the stem is the name"),
    ],
    oracle: Annotated[
        str | None, typer.Option(help="the stem of one of them, or another such file; else exact")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="of the bootstrap")] = None,
    overrides: options.Set = None,
    out: Annotated[Path | None, typer.Option(help="CSV file of all numbers")] = None,
) -> None:
    """Agreement of score files with the oracle, with intervals, next to what each cost."""
    from influbench.report import agreement_tables as agreement
    from influbench.report import comparison

    given = {"oracle": oracle, "seed": seed}
    cfg = options.checked(comparison.CompareConfig, given, overrides)
    if out is not None:
        comparison.claim(out, (*scores, cfg.oracle))
    found = comparison.verdict(scores, cfg)
    if out is not None:
        comparison.write(out, found)
    console = terminal.console()
    for table in agreement.comparison_tables(found, console.width):
        console.print(table)

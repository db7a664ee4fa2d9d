"""The commands about evaluation: parse, call, print."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from influbench import terminal
from influbench.cli import options
from influbench.cli.options import RESULTS, STORE
from influbench.errors import UserError

JudgeSpec = Annotated[
    str | None,
    typer.Option(
        "--judge", metavar="KIND:MODEL",
        help="local:MODEL, vllm:MODEL (started on it), openai:MODEL (any compatible endpoint) or "
        "recorded:NAME",
    ),
]  # fmt: skip
JudgeUrl = Annotated[
    str | None, typer.Option("--judge-url", help="of the endpoint; else $INFLUBENCH_JUDGE_URL")
]
MaxDollars = Annotated[
    float | None, typer.Option(help="stop before the judge has cost more; needs the prices")
]
PromptPrice = Annotated[float | None, typer.Option(help="US dollars per million tokens read")]
CompletionPrice = Annotated[
    float | None, typer.Option(help="US dollars per million tokens written")
]


def evaluate(
    student: Annotated[str, typer.Option(help="hub name, packaged model or folder")],
    suite: Annotated[
        str,
        typer.Option(
            help="losses, alpaca_eval, mt_bench, mt_bench_pairwise, head_to_head, harness:TASK; "
            "commas"
        ),
    ],
    judge: JudgeSpec = None,
    baseline: Annotated[
        str | None,
        typer.Option(
            help="a model, or a file of outputs (instruction, output, generator); "
            "else the prompts' own outputs"
        ),
    ] = None,
    prompts: Annotated[
        str | None, typer.Option(help="hub name or file, one turn; else alpaca_eval")
    ] = None,
    questions: Annotated[
        str | None, typer.Option(help="hub name or file, two turns; else mt_bench")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="the first N of each suite")] = None,
    max_new_tokens: Annotated[int | None, typer.Option(min=1, help="of an answer")] = None,
    temperature: Annotated[
        float | None, typer.Option(min=0, help="else greedy, and MT-Bench's own by category")
    ] = None,
    preferences: Annotated[
        str | None, typer.Option(help="recorded preferences that the judge is checked on")
    ] = None,
    judge_url: JudgeUrl = None,
    max_dollars: MaxDollars = None,
    prompt_price: PromptPrice = None,
    completion_price: CompletionPrice = None,
    seed: options.Seed = None,
    overrides: options.Set = None,
    study: Annotated[str, typer.Option(help="folder under --results")] = "evaluate",
    run: Annotated[str | None, typer.Option(help="name of the result file")] = None,
    executor: options.Executor = None,
    ray_address: options.RayAddress = None,
    store: options.StoreRoot = STORE,
    results: options.Results = RESULTS,
) -> None:
    """Score one student: AlpacaEval, MT-Bench, head to head, lm-eval; the judge is scored too."""
    from influbench.evaluation import standalone
    from influbench.report import evaluation_tables, tables
    from influbench.results import result_file

    given: dict[str, Any] = {
        "student.name": student,
        "evaluation.suites": [name.strip() for name in suite.split(",") if name.strip()],
        "baseline": baseline,
        "data.evaluation": prompts,
        "data.questions": questions,
        "limit": limit,
        "seed": seed,
        "preferences": preferences,
        "judge": _judge(judge, judge_url, max_dollars, prompt_price, completion_price),
    }
    for kind in ("answers", "turns"):
        given[f"evaluation.{kind}.sampling.max_new_tokens"] = max_new_tokens
        given[f"evaluation.{kind}.sampling.temperature"] = temperature
    if temperature is not None:
        given["evaluation.turns.temperatures"] = {}
    cfg = options.checked(standalone.EvaluateConfig, given, overrides)
    result_file.claim(results, study, run or "evaluation")
    where = options.executor(executor, ray_address)
    if where.kind == "local":
        found = standalone.evaluate(cfg, options.session(store))
    else:
        found = standalone.evaluate_on(where, cfg, options.session(store).store)
    path = standalone.save(found, results, study, run or standalone.run_name(found))
    console = terminal.console()
    console.print(evaluation_tables.marks_table(found))
    console.print(tables.ledger_table(found.ledger))
    console.print(f"results: {path}", soft_wrap=True, markup=False)


def judge_check(
    preferences: Annotated[
        str,
        typer.Option(
            help="file or hub name: instruction, output_1, output_2, preference; "
            "or prompt, chosen, rejected"
        ),
    ],
    judge: JudgeSpec,
    limit: Annotated[int | None, typer.Option(min=1, help="the first N pairs")] = None,
    judge_url: JudgeUrl = None,
    max_dollars: MaxDollars = None,
    prompt_price: PromptPrice = None,
    completion_price: CompletionPrice = None,
    overrides: options.Set = None,
    store: options.StoreRoot = STORE,
) -> None:
    """How good is a judge? Agreement with recorded preferences, position bias, length bias."""
    from influbench.evaluation import judge_check as checking
    from influbench.evaluation import recorded
    from influbench.report import evaluation_tables, tables

    asked = _judge(judge, judge_url, max_dollars, prompt_price, completion_price)
    cfg = options.checked(checking.JudgeCheckConfig, {"judge": asked}, overrides)
    session = options.session(store)
    pairs = recorded.read_preferences(preferences, limit)
    found = checking.examine(cfg.judge, pairs, session)
    console = terminal.console()
    console.print(evaluation_tables.judge_table(found))
    console.print(tables.ledger_table(session.ledger))


def _judge(
    spec: str | None,
    url: str | None,
    max_dollars: float | None,
    prompt_price: float | None,
    completion_price: float | None,
) -> dict[str, Any] | None:
    """The judge that a command's options describe; None where none is named."""
    if not spec:
        return None
    kind, _, model = spec.partition(":")
    if not model or kind not in ("local", "openai", "recorded", "vllm"):
        raise UserError(
            f"--judge {spec}: expected KIND:MODEL with KIND local, openai, recorded or vllm, "
            "for example local:smollm2-135m-instruct or openai:gpt-4-turbo"
        )
    given = {
        "kind": kind,
        "model": model,
        "base_url": url,
        "max_dollars": max_dollars,
        "prompt_price": prompt_price,
        "completion_price": completion_price,
    }
    return {name: value for name, value in given.items() if value is not None}

"""The commands about evaluation: parse, call, print."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from influbench import terminal
from influbench.errors import UserError

if TYPE_CHECKING:
    from influbench.judging.protocol import JudgeConfig

JudgeSpec = Annotated[
    str,
    typer.Option(
        "--judge", metavar="KIND:MODEL",
        help="local:MODEL, openai:MODEL (any compatible endpoint) or recorded:NAME",
    ),
]  # fmt: skip
JudgeUrl = Annotated[
    str | None, typer.Option("--judge-url", help="of the endpoint; else $INFLUBENCH_JUDGE_URL")
]
JudgeSet = Annotated[
    list[str] | None,
    typer.Option("--judge-set", metavar="KEY=VALUE", help="any other setting of the judge"),
]
MaxDollars = Annotated[
    float | None, typer.Option(help="stop before the judge has cost more; needs the prices")
]
PromptPrice = Annotated[float, typer.Option(help="US dollars per million tokens read")]
CompletionPrice = Annotated[float, typer.Option(help="US dollars per million tokens written")]
Concurrency = Annotated[int, typer.Option(help="requests in flight")]
StoreRoot = Annotated[
    Path,
    typer.Option(
        "--store", envvar="INFLUBENCH_STORE", help="where finished and half-done work is kept"
    ),
]
Results = Annotated[Path, typer.Option(help="where result files go")]
Study = Annotated[str, typer.Option(help="folder under --results")]
RunName = Annotated[str | None, typer.Option("--run", help="name of the result file")]
STORE, RESULTS = Path(".influbench"), Path("results")


def evaluate(
    student: Annotated[str, typer.Option(help="hub name, packaged model or folder")],
    suite: Annotated[
        str,
        typer.Option(
            help="alpaca_eval, mt_bench, mt_bench_pairwise, head_to_head, harness:TASK; commas"
        ),
    ],
    judge: JudgeSpec = "",
    baseline: Annotated[
        str | None,
        typer.Option(
            help="a model, or a file of outputs (instruction, output, generator); "
            "else the prompts' own outputs"
        ),
    ] = None,
    prompts: Annotated[str, typer.Option(help="hub name or file; one turn")] = "alpaca_eval",
    questions: Annotated[str, typer.Option(help="hub name or file; two turns")] = "mt_bench",
    question_answers: Annotated[
        str | None, typer.Option(help="FastChat's reference_answer file for the questions")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="the first N of each suite")] = None,
    orders: Annotated[
        str, typer.Option(help="both, or one at random as in the official package")
    ] = "both",
    seed: Annotated[int, typer.Option()] = 0,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="of an answer")] = 1024,
    temperature: Annotated[
        float | None, typer.Option(min=0, help="else greedy, and MT-Bench's own by category")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="answers written at a time")] = 32,
    dtype: Annotated[str, typer.Option(help="float32 or bfloat16")] = "float32",
    chat_template: Annotated[
        str | None, typer.Option(help="for a student without one: chatml or a jinja file")
    ] = None,
    difficulty: Annotated[
        Path | None, typer.Option(help="table of instruction_difficulty by instruction or index")
    ] = None,
    gamed: Annotated[
        Path | None, typer.Option(help="AlpacaEval's df_gamed.csv, for the official variant")
    ] = None,
    preferences: Annotated[
        str | None, typer.Option(help="recorded preferences that the judge is checked on")
    ] = None,
    preferences_limit: Annotated[int | None, typer.Option(min=1)] = None,
    include_path: Annotated[
        Path | None, typer.Option(help="folder of harness task files, in place of its own tasks")
    ] = None,
    gsm8k_train: Annotated[Path | None, typer.Option(help="for harness:gsm8k_local")] = None,
    gsm8k_test: Annotated[Path | None, typer.Option(help="for harness:gsm8k_local")] = None,
    shots: Annotated[
        int | None, typer.Option(min=0, help="of every harness task; else the paper's, or its own")
    ] = None,
    harness_chat: Annotated[
        bool, typer.Option("--harness-chat", help="harness questions through the chat template")
    ] = False,
    judge_url: JudgeUrl = None,
    judge_set: JudgeSet = None,
    max_dollars: MaxDollars = None,
    prompt_price: PromptPrice = 0.0,
    completion_price: CompletionPrice = 0.0,
    concurrency: Concurrency = 8,
    study: Study = "evaluate",
    run: RunName = None,
    store: StoreRoot = STORE,
    results: Results = RESULTS,
) -> None:
    """Score one student: AlpacaEval, MT-Bench, head to head, lm-eval; the judge is scored too."""
    given = locals()
    from influbench.evaluation import plan, result, standalone
    from influbench.progress import RichProgress
    from influbench.report import tables
    from influbench.results import result_file
    from influbench.store import Store

    sampling = {"max_new_tokens": max_new_tokens, "temperature": temperature or 0.0}
    answers = {
        "seed": seed,
        "sampling": sampling,
        "batch_size": batch_size,
        "dtype": dtype,
        "chat_template": chat_template,
    }
    by_category = plan.MT_BENCH_TEMPERATURES if temperature is None else {}
    same = ("student", "baseline", "prompts", "questions", "question_answers", "limit", "orders")
    same += ("seed", "difficulty", "gamed", "preferences", "preferences_limit")
    cfg = _checked(
        plan.EvaluateConfig,
        {name: given[name] for name in same}
        | {
            "suites": [name.strip() for name in suite.split(",") if name.strip()],
            "judge": _judge(given) if judge else None,
            "answers": answers,
            "turns": {**answers, "temperatures": by_category},
            "harness": {
                "task": "", "shots": shots, "chat": harness_chat, "chat_template": chat_template,
                "dtype": dtype, "include_path": include_path, "gsm8k_train": gsm8k_train,
                "gsm8k_test": gsm8k_test,
            },
        },
    )  # fmt: skip
    result_file.claim(results, study, run or "evaluation")
    found = standalone.evaluate(cfg, Store(store, RichProgress()))
    path = result.save(found, results, study, run or result.run_name(found))
    console = terminal.console()
    console.print(result.score_table(found))
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
    judge_set: JudgeSet = None,
    max_dollars: MaxDollars = None,
    prompt_price: PromptPrice = 0.0,
    completion_price: CompletionPrice = 0.0,
    concurrency: Concurrency = 8,
    store: StoreRoot = STORE,
) -> None:
    """How good is a judge? Agreement with recorded preferences, position bias, length bias."""
    given = locals()
    from influbench.evaluation import examination
    from influbench.progress import RichProgress
    from influbench.report import tables
    from influbench.store import Store

    found = examination.examine(
        _judge(given), preferences, Store(store, RichProgress()), limit=limit
    )
    console = terminal.console()
    console.print(examination.table(found))
    console.print(tables.ledger_table(found.ledger))


def _judge(given: dict[str, Any]) -> JudgeConfig:
    """The judge that a command's options describe."""
    from influbench.judging.protocol import JudgeConfig
    from influbench.loop.reading import parse_options

    kind, found, model = given["judge"].partition(":")
    if not found or not model or kind not in ("local", "openai", "recorded"):
        raise UserError(
            f"--judge {given['judge']}: expected KIND:MODEL with KIND local, openai or recorded, "
            "for example local:smollm2-135m-instruct or openai:gpt-4-turbo"
        )
    names = ("max_dollars", "prompt_price", "completion_price", "concurrency")
    tree = {name: given[name] for name in names} | {"base_url": given["judge_url"]}
    return _checked(
        JudgeConfig, tree | parse_options(given["judge_set"] or []) | {"kind": kind, "model": model}
    )


def _checked(kind: type[Any], tree: dict[str, Any]) -> Any:
    """A configuration, or one line about its first mistake."""
    from pydantic import ValidationError

    try:
        return kind.model_validate(tree)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        got = "" if not where else f", got {first['input']!r}"
        raise UserError(f"{f'setting {where}: ' if where else ''}{first['msg']}{got}") from None

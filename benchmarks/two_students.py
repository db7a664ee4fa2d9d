"""Two real students through AlpacaEval and MT-Bench against a real judge server, killed half-way.

    python -m benchmarks.two_students --prompts alpaca_eval.json --questions question.jsonl \
        --question-answers reference_gpt-4.jsonl [--limit 32]

SmolLM2-135M-Instruct and a copy of it after a few SFT steps answer the same prompts; llama.cpp with
the packaged SmolLM2 judges (``benchmarks.judge_server``). The first command is killed (SIGKILL) at
``--kill-at`` requests and run again; then the other student; then both again. Prints what the
server counted next to the ledger: no request twice, the same tokens. One request at a time, and
the server holds the one that the kill interrupts: those in flight at a kill are asked again. At
135M parameters the judge exercises the path only.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from influbench import data, models, training
from influbench.results import result_file
from influbench.store import Store
from influbench.training import SFTConfig

MODEL = "smollm2-135m-instruct"
STEPS, BATCH = 4, 4


def main() -> int:
    """Runs all of it in a folder of its own and prints what came out."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--prompts", type=Path, required=True)
    parser.add_argument("--questions", type=Path, required=True)
    parser.add_argument("--question-answers", type=Path, required=True)
    parser.add_argument("--limit", type=int, default=32)
    parser.add_argument("--max-new-tokens", type=int, default=64)
    parser.add_argument("--judge-tokens", type=int, default=48, help="of a reply, at most")
    parser.add_argument("--kill-at", type=int, default=40, help="requests before the kill")
    parser.add_argument("--folder", type=Path, default=Path("two_students"))
    options = parser.parse_args()
    folder = options.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    tuned = Path(fine_tuned(folder / "students"))
    served = folder / "served.jsonl"
    served.unlink(missing_ok=True)
    server = subprocess.Popen(
        [
            *(sys.executable, "-m", "benchmarks.judge_server", "--log", str(served)),
            *("--hold-after", str(options.kill_at)),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert server.stdout is not None
    url = server.stdout.readline().strip()
    common = ["--judge", "openai:smollm2", "--judge-url", url, "--baseline", MODEL]
    common += ["--prompts", str(options.prompts.resolve()), "--set", "judge.concurrency=1"]
    common += ["--questions", str(options.questions.resolve()), "--limit", str(options.limit)]
    common += ["--set", f"data.question_answers={options.question_answers.resolve()}"]
    common += ["--max-new-tokens", str(options.max_new_tokens)]
    common += ["--set", f"judge.max_tokens={options.judge_tokens}"]
    commands = [
        ["--student", str(tuned), "--suite", "alpaca_eval,mt_bench", "--run", "tuned", *common],
        ["--student", MODEL, "--suite", "mt_bench", "--run", "original", *common],
    ]
    try:
        first = evaluate(commands[0], folder)
        for line in server.stdout:
            if line.startswith("holding"):
                print(line.strip() + ": SIGKILL", flush=True)
                break
        first.send_signal(signal.SIGKILL)
        first.wait()
        for command in commands:
            assert evaluate(command, folder, quiet=False).wait() == 0
        report(folder, served)
        before = len(served.read_text().splitlines())
        for command in commands:
            assert evaluate(command, folder).wait() == 0
        print(f"both again: {len(served.read_text().splitlines()) - before} requests")
    finally:
        server.terminate()
    return 0


def fine_tuned(root: Path) -> str:
    """Folder of the model after a few SFT steps on starter pairs."""
    store = Store(root)
    cfg = SFTConfig(batch_size=BATCH, learning_rate=2e-5, device="cpu")
    rows = data.load_starter("seed")[: STEPS * BATCH]
    return store.run(training.SFT, cfg, rows, models.resolve(MODEL)).model("student").path


def evaluate(arguments: list[str], folder: Path, *, quiet: bool = True) -> subprocess.Popen[str]:
    """The command, started in ``folder`` with a store and results of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "influbench", "evaluate", *arguments],
        cwd=folder,
        env={
            **os.environ,
            "INFLUBENCH_JUDGE_KEY": "none",
            "INFLUBENCH_STORE": str(folder / "kept"),
        },
        stdout=subprocess.DEVNULL if quiet else None,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def report(folder: Path, served: Path) -> None:
    """Requests and tokens, as the server counted them and as the ledgers hold them."""
    lines = [json.loads(line) for line in served.read_text().splitlines()]
    print(f"server: {len(lines)} requests, {len({line['asked'] for line in lines})} distinct")
    theirs = tuple(sum(line[f"{k}_tokens"] for line in lines) for k in ("prompt", "completion"))
    ours = [0, 0]
    for path in sorted((folder / "results" / "evaluate").glob("*.json")):
        for row in result_file.read(path)[2].ledger:
            ours[0] += row.api_prompt_tokens
            ours[1] += row.api_completion_tokens
    print(f"tokens on the server's side {theirs}, in the ledgers {tuple(ours)}")
    assert tuple(ours) == theirs, "the ledger does not hold what the server counted"


if __name__ == "__main__":
    sys.exit(main())

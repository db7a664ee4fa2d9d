"""Our decoding against ``transformers.generate``: the same rows, greedy, CPU seconds of one run.

``python -m benchmarks.decoding`` lets SmolLM2 answer prompts that siblings share, as the loop does;
``--limit`` is the most tokens a row. CPU seconds, since other jobs may share the machine.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from transformers import GenerationConfig

from influbench import data, models
from influbench.data import DataConfig
from influbench.generation.instructions import OPEN, request
from influbench.generation.sampling import Sampling, complete
from influbench.models import LoadedModel, chat_prompt


def main() -> None:
    """Prints CPU seconds and tokens a CPU second of both, and how far they agree."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--dtype", default="bfloat16", choices=["float32", "bfloat16"])
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--siblings", type=int, default=4)
    parser.add_argument("--shots", type=int, default=8)
    parser.add_argument("--limit", type=int, default=48)
    told = parser.parse_args()
    loaded = models.load(models.resolve(told.model), device="cpu", dtype=told.dtype)
    seeds = [s.instruction for s in data.load_seed_prompts(DataConfig())]
    shown = [seeds[n * told.shots : (n + 1) * told.shots] for n in range(told.prompts)]
    prompts = [
        chat_prompt(loaded.tokenizer, [("user", request(shots))], OPEN)
        for shots in shown
        for _ in range(told.siblings)
    ]
    theirs = report("transformers", lambda: _theirs(loaded, prompts, told.limit))
    ours = report("ours", lambda: _ours(loaded, prompts, told.limit))
    same = sum(a == b for a, b in zip(theirs, ours, strict=True))
    print(f"{same} of {len(prompts)} rows are the same; {told}")


def report(name: str, function: Callable[[], list[list[int]]]) -> list[list[int]]:
    """Runs it, prints what it cost, returns what it wrote."""
    began = time.process_time()
    written = function()
    seconds, tokens = time.process_time() - began, sum(map(len, written))
    print(f"{name:13} {seconds:7.1f} CPU s, {tokens} tokens, {tokens / seconds:.0f} tokens a CPU s")
    return written


def _ours(loaded: LoadedModel, prompts: list[str], limit: int) -> list[list[int]]:
    names = [str(n) for n in range(len(prompts))]
    sampling = Sampling(temperature=0, max_new_tokens=limit)
    done = complete(*loaded, prompts, ids=names, seed=0, sampling=sampling, batch_size=len(names))
    return [list(c.ids) for c in done]


def _theirs(loaded: LoadedModel, prompts: list[str], limit: int) -> list[list[int]]:
    given = loaded.tokenizer(
        prompts, add_special_tokens=False, padding=True, padding_side="left", return_tensors="pt"
    )
    pad, end = loaded.tokenizer.pad_token_id, loaded.tokenizer.eos_token_id
    settings = GenerationConfig(
        do_sample=False, max_new_tokens=limit, eos_token_id=end, pad_token_id=pad
    )
    with torch.inference_mode():
        out = loaded.model.generate(**given, generation_config=settings)  # pyright: ignore[reportCallIssue]
    rows = out[:, given["input_ids"].shape[1] :].tolist()
    return [row[: row.index(end) + 1] if end in row else row for row in rows]


if __name__ == "__main__":
    main()

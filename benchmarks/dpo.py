"""Our DPO step against TRL's: the same pairs after prompts of the loop, CPU seconds of one run.

``python -m benchmarks.dpo`` makes pairs of SmolLM2's own instructions; ``--compute bfloat16`` needs
a CPU with AMX to be worth it. CPU seconds, since other jobs may share the machine. TRL's reference
pass is part of its step, ours is done before the training and counted here all the same.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from typing import Any

import datasets
import torch

from influbench import data, models
from influbench.data import DataConfig
from influbench.generation.instructions import CLOSE, OPEN, request
from influbench.models import LoadedModel, chat_prompt
from influbench.training.pair_tokens import PairTokens
from influbench.training.preference_trainer import Reader, loss
from influbench.training.trainer import off_screen


def main() -> None:
    """Prints CPU seconds a pair of both, and how far their losses are apart."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--compute", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--pairs", type=int, default=4)
    parser.add_argument("--shots", type=int, default=8)
    told = parser.parse_args()
    ref = models.resolve(told.model)
    loaded = models.load(ref, device="cpu")
    given = _pairs(loaded, told.pairs, told.shots)
    sizes = [(len(p.prompt), len(p.chosen), len(p.rejected)) for p in given]
    print(f"{told.compute}; tokens of prompt, chosen, rejected: {sizes}")

    def ours() -> float:
        reader = Reader(*loaded, told.compute)
        with torch.no_grad():
            before = torch.cat([reader.log_probabilities([pair]) for pair in given])
        values = torch.cat(
            [
                loss(reader.log_probabilities([pair]), before[n : n + 1], 0.1)[0]
                for n, pair in enumerate(given)
            ]
        )
        values.mean().backward()
        return values.mean().item()

    step = _trl(loaded, models.load(ref, device="cpu"), given, told.compute)
    theirs = measured("TRL", step, len(given))
    print(f"losses differ by {abs(measured('ours', ours, len(given)) - theirs):.1e}")


def measured(name: str, function: Any, count: int) -> float:
    """Runs it twice, prints what the second cost, returns the loss."""
    function()
    began = time.process_time()
    value = function()
    print(f"{name:5} {(time.process_time() - began) / count:.1f} CPU s a pair, loss {value:.4f}")
    return value


def _pairs(loaded: LoadedModel, count: int, shots: int) -> list[PairTokens]:
    seeds = [s.instruction for s in data.load_seed_prompts(DataConfig())]
    made: list[PairTokens] = []
    for n in range(count):
        shown = seeds[n * shots : (n + 1) * shots]
        prompt = chat_prompt(loaded.tokenizer, [("user", request(shown))], OPEN)
        ids, *sides = (
            loaded.tokenizer(text, add_special_tokens=False).input_ids
            for text in (prompt, f"{seeds[-n - 1]}{CLOSE}", f"{seeds[-n - 20]}{CLOSE}")
        )
        made.append(PairTokens(ids, sides[0], sides[1], cut=False))
    return made


def _trl(
    loaded: LoadedModel, reference: LoadedModel, given: Sequence[PairTokens], compute: str
) -> Any:
    from trl.trainer.dpo_config import DPOConfig
    from trl.trainer.dpo_trainer import DataCollatorForPreference, DPOTrainer

    blank = datasets.Dataset.from_list([{"prompt": "p", "chosen": "c", "rejected": "r"}])
    settings = DPOConfig(
        output_dir=tempfile.mkdtemp(), use_cpu=True, bf16=compute == "bfloat16", report_to="none"
    )
    with off_screen():
        theirs = DPOTrainer(
            model=loaded.model,
            ref_model=reference.model,
            args=settings,
            train_dataset=blank,
            processing_class=loaded.tokenizer,
        )
    pad = loaded.tokenizer.pad_token_id
    assert isinstance(pad, int)
    collator = DataCollatorForPreference(pad_token_id=pad)

    def step() -> float:
        total = 0.0
        for start in range(0, len(given), 2):  # two pairs in a pass
            batch = collator(
                [
                    {"prompt_ids": t.prompt, "chosen_ids": t.chosen, "rejected_ids": t.rejected}
                    for t in given[start : start + 2]
                ]
            )
            with theirs.compute_loss_context_manager():
                value = theirs.compute_loss(loaded.model, batch)
            value.backward()
            total += value.item() * len(batch["input_ids"]) / 2
        return total / len(given)

    return step


if __name__ == "__main__":
    main()

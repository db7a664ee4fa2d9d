"""What a step of an arm is made of on a GPU, counted on a CPU: kernels, and the host's time.

``python -m benchmarks.launches`` gives a model SmolLM2-135M's depth and hardly any width, so that
its arithmetic is nothing and what is left is what the host does: an operator that is no view starts
about one kernel, and Python, torch and autograd take as long as they would beside a GPU. Each step
is made as on a GPU: several rows in a pass, under autocast. Milliseconds are the least of a few
tries, of CPU time in one thread.
"""

# The parts of a step are looked at one by one:
# pyright: reportPrivateUsage=false
from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoConfig, AutoModelForCausalLM

from influbench import models
from influbench.generation.choosing import Chooser
from influbench.generation.decoding import Reader
from influbench.generation.recorded import FixedStep, size_of
from influbench.generation.settings import Sampling
from influbench.student.language_student import LanguageStudent
from influbench.student.losses import Encoded
from influbench.training import preference_trainer, replaying
from influbench.training.low_memory import with_adapter
from influbench.training.pair_tokens import PairTokens
from influbench.training.trainer import off_screen

VIEWS = {
    *("view", "_unsafe_view", "t", "transpose", "permute", "reshape", "flatten", "unflatten"),
    *("expand", "slice", "narrow", "select", "split", "split_with_sizes", "unbind", "as_strided"),
    *("unsqueeze", "squeeze", "detach", "detach_", "alias", "lift_fresh"),
    *("empty", "empty_like", "empty_strided", "new_empty"),
}
"""Operators that start no kernel."""

NEW = 48
"""Tokens that are written."""


class Counting(TorchDispatchMode):
    """Counts operators below autograd and autocast."""

    kernels = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.kernels += func._schema.name.split("::")[1] not in VIEWS
        return func(*args, **(kwargs or {}))


def main(argv: Sequence[str] | None = None) -> None:
    """Prints a row for each part of an arm."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--layers", type=int, default=None, help="fewer than the model has")
    parser.add_argument("--tries", type=int, default=3)
    told = parser.parse_args(argv)
    torch.set_num_threads(1)
    with off_screen():
        _decoding(_hollow(told.model, told.layers, torch.bfloat16), told.tries)
        _sft(_hollow(told.model, told.layers, torch.float32), told.tries)
        _dpo(_hollow(told.model, told.layers, torch.float32), told.tries)


def _hollow(name: str, layers: int | None, dtype: torch.dtype) -> models.LoadedModel:
    ref = models.resolve(name)
    config: Any = AutoConfig.from_pretrained(ref.path, trust_remote_code=False)
    config.hidden_size, config.head_dim, config.intermediate_size = 18, 2, 24
    config.num_hidden_layers = layers or config.num_hidden_layers
    config.vocab_size, config.pad_token_id = 512, 2
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(
        config, trust_remote_code=False, attn_implementation="sdpa", dtype=dtype
    )
    return models.LoadedModel(model.eval(), models.load_tokenizer(ref))


def report(name: str, function: Callable[[], Any], tries: int) -> Any:
    """Runs it, prints the kernels that it starts and what it costs, returns what it gives."""
    with Counting() as seen:
        result = function()
    seconds: list[float] = []
    for _ in range(tries):
        began = time.process_time()
        function()
        seconds.append(time.process_time() - began)
    print(f"{name:44} {seen.kernels:6} kernels {min(seconds) * 1e3:8.1f} CPU ms", flush=True)
    return result


def _ids(count: int) -> list[int]:
    return torch.randint(5, 500, (count,)).tolist()


def _decoding(loaded: models.LoadedModel, tries: int) -> None:
    model, rows = loaded.model, [tuple(_ids(20 + n % 5)) for n in range(16)]
    with torch.inference_mode():
        reader = Reader(model, 2)
        _, cache, mask = report("prompts of a batch", lambda: reader._read(rows), tries)
        token, position = torch.full((16,), 7), mask.sum(-1, keepdim=True)
        width = mask.shape[1]
        fixed = FixedStep.of(model, cache.layers, size_of(16, width + NEW))
        report("a batch put into a room", lambda: fixed.begin(cache.layers, mask), tries)
        report("a token put there", lambda: fixed.put(token, position, width), tries)
        report("a step in it, one replay of a graph", fixed.run, tries)
        longer = torch.cat([mask, mask.new_ones(16, NEW)], 1)
        usual = iter(range(NEW))

        def step() -> torch.Tensor:
            return reader._step(cache, token, longer, position, width + next(usual))

        report("a step the usual way", step, tries)
        sampling = Sampling(temperature=1.0, top_p=0.9, presence_penalty=1.0)
        names, flat = [str(n) for n in range(16)], torch.randn(16, 512)
        for how, scale in (("the nucleus in 256 tokens", 4.0), ("all tokens sorted", 0.1)):
            chooser = Chooser.start(sampling, rows, names, vocabulary=512, device=flat.device)
            report(f"a token chosen, {how}", lambda c=chooser, s=scale: c.choose(flat * s), tries)


def _student(loaded: models.LoadedModel) -> LanguageStudent:
    optimizer = torch.optim.SGD(loaded.model.parameters())
    return LanguageStudent(
        *loaded, optimizer, None, 0, cut=False, token_budget=0, compute="bfloat16"
    )


def _sft(loaded: models.LoadedModel, tries: int) -> None:
    held = _student(loaded)
    held.model.train()
    rows = [Encoded(tuple(_ids(30 + n)), ((20, 30 + n),)) for n in range(8)]

    def usual() -> replaying.Gradient:
        (batch,) = held.laid_out(rows, 1000)
        return replaying.by_weight(held.loss(batch).mean(), held.model)

    report("SFT: gradient, 8 rows, the usual way", usual, tries)
    shape = replaying.Shape.of(rows, 8)
    batch = report("SFT: laid out", lambda: shape.laid_out(rows), tries)

    def fixed() -> replaying.Gradient:
        return replaying.by_weight(replaying.token_nll(held, batch).sum(), held.model)

    gradient = report("SFT: gradient, one replay of a graph", fixed, tries)
    _step("SFT: clipping and optimizer", list(held.model.parameters()), gradient, tries)


def _dpo(loaded: models.LoadedModel, tries: int) -> None:
    pairs = [PairTokens(_ids(24), _ids(20), _ids(16), cut=False) for _ in range(4)]
    reader = preference_trainer.Reader(*loaded, "bfloat16")
    reader._together = True
    with torch.no_grad():
        before = report("DPO: reference of 4 pairs", lambda: reader.log_probabilities(pairs), tries)
    model = with_adapter(loaded.model, rank=8, alpha=16, seed=0)

    def usual() -> replaying.Gradient:
        values, _ = preference_trainer.loss(reader.log_probabilities(pairs), before, 0.1)
        return replaying.by_weight(values.sum(), model)

    report("DPO: model.train()", model.train, tries)
    report("DPO: gradient the usual way", usual, tries)
    rows = [row for pair in pairs for row in preference_trainer._rows(pair)]
    shape = replaying.Shape.of(rows, len(rows))
    batch = report("DPO: laid out", lambda: shape.laid_out(rows), tries)

    def fixed() -> replaying.Gradient:
        nll = replaying.token_nll(reader.student, batch)
        sides = -nll.new_zeros(len(rows)).index_add(0, batch["row"], nll)
        values, _ = preference_trainer.loss(sides.view(-1, 2), before, 0.1)
        return replaying.by_weight(values.sum(), model)

    gradient = report("DPO: gradient, one replay of a graph", fixed, tries)
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    _step("DPO: clipping and optimizer", weights, gradient, tries)


def _step(
    name: str, weights: Sequence[torch.Tensor], gradient: replaying.Gradient, tries: int
) -> None:
    for weight, part in zip(weights, gradient, strict=True):
        weight.grad = part
    optimizer = torch.optim.AdamW(weights, lr=1e-6, fused=True)
    optimizer.step()

    def step() -> None:
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()

    report(name, step, tries)


if __name__ == "__main__":
    main()

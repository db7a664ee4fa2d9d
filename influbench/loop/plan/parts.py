"""The parts of a run that a calibration times: each kind of pass, short and long."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from influbench import models
from influbench.data.records import Example, ModelRef, Pair
from influbench.derivatives import gradients, step
from influbench.generation.sampling import complete
from influbench.generation.settings import Sampling
from influbench.judging.local import LocalBackend
from influbench.judging.protocol import JudgeConfig, Request
from influbench.loop.plan.calibration import Pace
from influbench.loop.plan.clock import Clock, Steps
from influbench.loop.plan.shapes import Shape
from influbench.models.chat import chat_prompt
from influbench.store import Work
from influbench.store.ledger import Meter
from influbench.student import LanguageStudent, StudentSettings, load_student
from influbench.training.dpo import dpo
from influbench.training.fine_tuning import sft
from influbench.training.settings import DPOStageConfig, SFTConfig

SHORT, LONG = 10, 100
"""Words of an answer; a word is a token or little more."""
ROWS = 4
"""Of a batch in the Trainer."""
REFERENCES = 16
"""Rows that are read packed."""
FEW, MANY = 4, 24
"""Rows of the two measured decodings."""
NEW = 8
"""Tokens of each row of a decoding, and of a second one beyond those."""
WORDS = (
    *("tell", "the", "story", "of", "a", "day", "on", "a", "lake", "in", "a", "small", "boat"),
    *("with", "as", "many", "words", "as", "you", "like", "and", "say", "why", "it", "was"),
)
TOKENS = range(10, 110)
"""That every model knows."""
TYPES = ("bfloat16", "float32")


@dataclass(frozen=True)
class Parts:
    """The parts for one model."""

    clock: Clock
    device: str
    name: str
    ref: ModelRef
    shape: Shape
    launch: float
    """Seconds of a layer in a pass, however small it is."""

    def student(self) -> tuple[dict[str, Pace], dict[str, Pace], dict[str, float]]:
        """Passes without and with gradients, by type; loading, saving and changing all weights."""
        clock, weights = self.clock, self.shape.parameters
        opened = clock.of(lambda: models.load_tokenizer(self.ref))
        loaded: list[LanguageStudent] = []
        load = max(clock.of(lambda: loaded.append(self._student())) - opened, 1e-9)
        held = loaded.pop()
        loaded.clear()
        with tempfile.TemporaryDirectory() as folder:
            save = clock.of(lambda: models.save(held.model, held.tokenizer, Path(folder)))
        read: dict[str, Pace] = {}
        learn: dict[str, Pace] = {}
        own: list[torch.Tensor] = list(held.model.parameters())
        for name in TYPES:
            student = replace(held, compute=name)
            read[name] = self._pace(
                1,
                [
                    (
                        sum(len(batch.packing.ids) for batch in batches),
                        clock.of(lambda s=student, b=batches: gradients.losses_of(s, b)),
                    )
                    for batches in (
                        student.batches([_example(n, SHORT) for n in range(count)])
                        for count in (1, REFERENCES)
                    )
                ],
            )
            learn[name] = self._pace(
                3,
                [
                    (
                        len(student.encode(row).ids),
                        clock.of(lambda s=student, r=row: gradients.gradient(s, own, r)),
                    )
                    for row in (_example(0, SHORT), _example(1, LONG))
                ],
            )
        others = {"opened": opened / self.shape.vocabulary}
        others |= {"load": 4 * weights / load, "save": 4 * weights / save}
        return read, learn, others | self._changed(held)

    def _student(self) -> LanguageStudent:
        return load_student(self.ref, StudentSettings(device=self.device, moments=False))

    def _changed(self, held: LanguageStudent) -> dict[str, float]:
        clock, own = self.clock, list(held.model.parameters())
        for weight in own:
            weight.grad = torch.zeros_like(weight)
        adam = torch.optim.AdamW(own, lr=1e-30, weight_decay=0.0, fused=True)

        def update() -> None:
            torch.nn.utils.clip_grad_norm_(own, 1.0)
            adam.step()

        seconds = clock.of(update)
        trip = step.excursion(step.next_update(replace(held, optimizer=adam, clip_norm=1.0)))
        zero = [torch.zeros_like(weight) for weight in own]

        def move() -> None:
            with trip.stepped(zero):
                pass

        weights = self.shape.parameters
        return {"update": weights / seconds, "move": weights / clock.of(move)}

    def started(self) -> float:
        """Seconds of a training, loading and saving included: of a model that is next to none."""
        cfg = SFTConfig(device=self.device, batch_size=1, micro_batch=1)
        rows = [_example(number, 1) for number in range(2)]
        return self.clock.of(lambda: self._run(lambda work: sft(cfg, rows, self.ref, work=work)))

    def trained(self, compute: Any) -> Pace:
        """A step of the stage ``sft``."""

        def once(words: int) -> tuple[int, float]:
            rows = [_example(number, words) for number in range(2 * ROWS)]
            cfg = SFTConfig(
                device=self.device,
                compute=compute,
                batch_size=ROWS,
                micro_batch=ROWS,
                checkpoint_seconds=1e9,
            )
            meter, seconds = self._run(lambda work: sft(cfg, rows, self.ref, work=work))
            return _tokens(meter) // 2, seconds

        return self._pace(3, [once(SHORT), once(LONG)])

    def paired(self, compute: Any) -> Pace:
        """A pair in the stage ``dpo``, by an adapter."""

        def once(words: int) -> tuple[int, float]:
            ids = tuple(TOKENS[n % len(TOKENS)] for n in range(2 * words))
            pairs = [
                Pair(
                    id=str(number),
                    group=str(number),
                    prompt="",
                    chosen="",
                    rejected="",
                    chosen_id="",
                    rejected_id="",
                    margin=0.0,
                    prompt_ids=ids,
                    chosen_ids=tuple(TOKENS[:SHORT]),
                    rejected_ids=tuple(TOKENS[-SHORT:]),
                )
                for number in range(2)
            ]
            cfg = DPOStageConfig(
                device=self.device,
                compute=compute,
                method="lora",
                batch_size=1,
                micro_batch=1,
                held_out=0.0,
                checkpoint_seconds=1e9,
            )
            meter, seconds = self._run(lambda work: dpo(cfg, pairs, self.ref, work=work))
            return _tokens(meter) // 2, seconds

        return self._pace(2, [once(SHORT), once(LONG)])

    def _run(self, stage: Callable[[Work], None]) -> tuple[Meter, float]:
        """A training, and the seconds of its last step."""
        meter, steps = Meter(), Steps(self.clock)
        with tempfile.TemporaryDirectory() as folder:
            stage(Work(Path(folder), meter, steps))
        return meter, steps.last

    def prompted(self, dtype: Any) -> Pace:
        """A request to a local judge."""
        judge = LocalBackend(JudgeConfig(model=self.name, dtype=dtype, device=self.device))

        def once(words: int) -> tuple[int, float]:
            asked = [
                Request(id=str(n), messages=(("user", _text(words + n, n)),), choices=("A", "B"))
                for n in range(2)
            ]
            found: list[Any] = []
            seconds = self.clock.of(lambda: judge.answer(asked, found.extend))
            return found[0].prompt_tokens, seconds / len(asked)

        return self._pace(1, [once(SHORT), once(2 * LONG)])

    def decoded(self, dtype: str) -> tuple[float, float]:
        """Bytes of weights a second, and FLOP/s of a row beyond them."""
        net, tokenizer = models.load(self.ref, dtype=dtype, device=self.device)
        sampling = Sampling(temperature=1.0, top_p=0.9, presence_penalty=1.0, max_new_tokens=NEW)

        def once(rows: int) -> tuple[float, float]:
            prompt = chat_prompt(tokenizer, [("user", _text(LONG, 0))])

            def write(new: int) -> int:
                written = complete(
                    net,
                    tokenizer,
                    [prompt] * rows,
                    ids=[str(row) for row in range(rows)],
                    seed=0,
                    sampling=sampling.model_copy(update={"max_new_tokens": new}),
                    batch_size=rows,
                )
                return sum(completion.tokens for completion in written)

            write(1)
            began = self.clock()
            less = write(NEW)
            between = self.clock()
            more = write(2 * NEW)
            seconds = self.clock() - between - (between - began)
            # A row may end before its time, so tokens are counted.
            return (more - less) / NEW, seconds / NEW

        weights = self.shape.parameters
        (few, short), (many, long) = once(FEW), once(MANY)
        row = max(long - short, 1e-9) / max(many - few, 1)
        alone = max(short - few * row - self.shape.layers * self.launch, 1e-9)
        return (2 if dtype == "bfloat16" else 4) * weights / alone, 2 * weights / row

    def _pace(self, passes: int, found: Sequence[tuple[int, float]]) -> Pace:
        """From tokens and seconds of a short pass and of a long one."""
        (few, short), (many, long) = found
        weights = self.shape.parameters
        token = (long - short) / (many - few)
        if token <= 0:  # of a model that is nothing but calls
            token = long / many
        begun = max(short - few * token, 0.0) - self.shape.layers * self.launch * passes
        return Pace(max(begun, 0.0) / weights, passes * 2 * weights / token)


def _tokens(meter: Meter) -> int:
    return next(row.tokens for row in meter.rows() if row.phase == "train")


def _text(words: int, first: int) -> str:
    return " ".join(WORDS[(first + n) % len(WORDS)] for n in range(words))


def _example(number: int, words: int) -> Example:
    return Example(id=str(number), instruction=_text(SHORT, number), response=_text(words, number))

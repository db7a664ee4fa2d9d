"""What the tests of trainings share: small data, a work folder, a death on time."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import load_file

from influbench import models
from influbench.data.records import Example, ModelRef, Pair
from influbench.store import Meter, Work
from influbench.terminal.progress import Progress, SilentProgress
from influbench.training import SFTConfig, WarmupConfig
from influbench.training.settings import DPOStageConfig

EXAMPLES = [
    Example(
        id=f"e{i}", instruction=f"Say the letter {chr(97 + i)}.", response=chr(97 + i) * (3 + i)
    )
    for i in range(12)
]
WARM = WarmupConfig(batch_size=4, epochs=3, learning_rate=1e-2, device="cpu")
FINE = SFTConfig(batch_size=4, micro_batch=2, epochs=3, learning_rate=5e-3, device="cpu")
TEACH = DPOStageConfig(epochs=3, learning_rate=1e-3, held_out=0.25, device="cpu")


class Killed(BaseException):
    pass


class Watched:
    """Remembers where a task began; kills the process, as it were, when so many steps are done."""

    def __init__(self, last: int | None = None) -> None:
        self.last = last
        self.began: int | None = None

    @contextmanager
    def task(self, description: str, total: int, done: int = 0) -> Generator[Callable[[int], None]]:
        self.began = now = done

        def advance(n: int) -> None:
            nonlocal now
            now += n
            if now == self.last:
                raise Killed

        yield advance

    def note(self, text: str) -> None:
        pass


def at(path: Path, progress: Progress | None = None) -> Work:
    path.mkdir(exist_ok=True)
    return Work(path=path, meter=Meter(), progress=progress or SilentProgress(), title="stage")


def ref(work: Work, name: str) -> ModelRef:
    return ModelRef(path=str(work.path / name), digest="x")


def weights(work: Work, name: str) -> dict[str, torch.Tensor]:
    return load_file(work.path / name / "model.safetensors")


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def pairs(teacher: ModelRef) -> list[Pair]:
    tokenizer = models.load_tokenizer(teacher)
    made = []
    for i in range(8):
        asked = [("user", f"Write a task like task {i // 2}.")]
        prompt = models.chat_prompt(tokenizer, asked, prefill="<instruction>")
        chosen, rejected = f"Sort {i} numbers.</instruction>", f"{'hm ' * (i + 1)}</instruction>"
        made.append(
            Pair(
                id=f"p{i}",
                group=f"g{i // 2}",
                prompt=prompt,
                chosen=chosen,
                rejected=rejected,
                margin=1.0,
                chosen_id=f"c{2 * i}",
                rejected_id=f"c{2 * i + 1}",
            )
        )
    return made

"""Right values by few lines of plain transformers: nothing here comes from influbench."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


class Plain:
    """A model as transformers gives it: eager attention, one conversation at a time."""

    def __init__(self, folder: Path) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
        self.model = model.float().eval()

    def written(self, turns: Sequence[tuple[str, str]], *, ask: bool = False) -> str:
        """The chat template's own text."""
        messages = [{"role": role, "content": text} for role, text in turns]
        return self.tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=ask
        )

    def ids(self, text: str) -> list[int]:
        """Tokens of a text that has its special tokens already."""
        return self.tokenizer(text, add_special_tokens=False).input_ids

    def exchange(self, turns: Sequence[tuple[str, str]], end: str) -> tuple[list[int], int]:
        """Ids up to the last end of turn, and where they leave the prompt's ids."""
        whole = self.written(turns)
        ids = self.ids(whole[: whole.rindex(end) + len(end)] if end else whole.rstrip())
        prompt = self.ids(self.written(turns[:-1], ask=True))
        same = [a == b for a, b in zip(ids, prompt, strict=False)]
        return ids, same.index(False) if False in same else len(prompt)

    def loss(self, ids: Sequence[int], learned: Sequence[int]) -> torch.Tensor:
        """Mean negative log-likelihood of the learned positions, differentiable."""
        logits = self.model(input_ids=torch.tensor([list(ids)]), use_cache=False).logits[0]
        log_p = logits.double().log_softmax(-1)
        return -torch.stack([log_p[t - 1, ids[t]] for t in learned]).mean()

    def influences(
        self,
        optimizer: torch.optim.Optimizer,
        names: Sequence[str],
        candidates: Sequence[tuple[list[int], int]],
        references: Sequence[tuple[list[int], int]],
    ) -> list[float]:
        """By how much one real AdamW step lowers the mean reference loss, against a null step.

        Args:
            optimizer: holds moments and learning rate, of the weights called ``names``.
            names: in the optimizer's order.
            candidates: ids and first learned position.
            references: the same.
        """

        def after(candidate: tuple[list[int], int] | None) -> float:
            stepped = Plain.__new__(Plain)
            stepped.model = copy.deepcopy(self.model)
            weights = dict(stepped.model.named_parameters())
            held = [weights[name] for name in names]
            own = torch.optim.AdamW(held, lr=optimizer.param_groups[0]["lr"])
            own.load_state_dict(copy.deepcopy(optimizer.state_dict()))
            for weight in held:
                weight.grad = torch.zeros_like(weight)
            if candidate is not None:
                stepped.loss(*_span(candidate)).backward()
            torch.nn.utils.clip_grad_norm_(held, 1.0)
            own.step()
            with torch.no_grad():
                losses = [float(stepped.loss(*_span(r))) for r in references]
            return sum(losses) / len(losses)

        null = after(None)
        return [null - after(candidate) for candidate in candidates]


def _span(row: tuple[list[int], int]) -> tuple[list[int], range]:
    ids, start = row
    return ids, range(start, len(ids))

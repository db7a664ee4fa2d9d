"""A local Hugging Face model as judge: the probability of each choice, teacher-forced.

P(choice) is the product of the probabilities of its tokens after the chat prompt. Where a choice is
the beginning of another ("1" of "10", for tokenizers that split digits) the probability of going on
to the longer one is taken off, so that the two do not overlap. Only the last position's logits are
computed: one forward pass a request, and for each beginning that choices share one more token.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from influbench import models
from influbench.errors import UserError
from influbench.judging.archive import judgement
from influbench.judging.protocol import LOCAL, JudgeConfig, Judgement, Keep, Request
from influbench.models import conversation

if TYPE_CHECKING:
    import torch

SMALL_PARAMETERS = 3_000_000_000
"""Below this, verdicts mostly show a liking for one position (0.68 in both orders at 135M)."""

Tokens = tuple[int, ...]


class LocalBackend:
    """Scores choices with a model in this process; greedy text where a request has no choices."""

    grading: Literal["probability", "text"] = "probability"

    def __init__(self, cfg: JudgeConfig) -> None:
        ref = models.resolve(cfg.model, cfg.revision)
        self._loaded = models.load(
            ref, dtype=cfg.dtype, device=cfg.device, chat_template=cfg.chat_template
        )
        self._cfg = cfg
        self.models = (self._loaded.model,)
        parameters = sum(p.numel() for p in self._loaded.model.parameters())
        self.name = f"{LOCAL}{cfg.model.rstrip('/').split('/')[-1]}:{ref.digest[:8]}:{cfg.dtype}"
        self.small = parameters < SMALL_PARAMETERS
        self.note = (
            f"a judge of {parameters / 1e6:.0f}M parameters exercises the plumbing only: "
            "its verdicts say little about the answers"
            if self.small
            else ""
        )

    def recall(self, known: Collection[str]) -> None:
        """Has one name."""

    def answer(self, requests: Sequence[Request], keep: Keep) -> None:
        """Scores or writes all replies, batch by batch, shortest prompts first."""
        from influbench.models.halving import Halves  # torch, which reading settings does without

        halves = Halves("take a smaller judge.model")
        tokenizer = self._loaded.tokenizer
        limit = models.context_length(self._loaded.model)
        prompts: list[tuple[Request, str, list[int]]] = []
        for request in requests:
            text = models.chat_prompt(tokenizer, request.messages)
            ids = tokenizer(text, add_special_tokens=False)["input_ids"]
            room = max((len(c) for c in request.choices), default=self._written(request))
            if len(ids) + room > limit:
                raise UserError(
                    f"judge '{self.name}' reads at most {limit} tokens; the prompt of "
                    f"'{request.id}' has {len(ids)} and {room} are kept for the answer: use a "
                    "judge with a longer context"
                )
            prompts.append((request, text, list(ids)))
        prompts.sort(key=lambda p: (len(p[2]), p[0].id))
        for kind in sorted({p[0].choices for p in prompts}):
            same = [p for p in prompts if p[0].choices == kind]
            for batch in self._batches(same):
                for _, replies in halves(batch, self._choose if kind else self._write):
                    keep(replies)

    def _written(self, request: Request) -> int:
        return min(request.max_tokens, self._cfg.max_tokens + self._cfg.thought_tokens)

    def _batches(
        self, prompts: list[tuple[Request, str, list[int]]]
    ) -> list[list[tuple[Request, str, list[int]]]]:
        """On a CPU each prompt alone: its last digits must not depend on its neighbours.

        Which neighbours there are depends on what the archive has, and that on the order of runs.
        A CPU gains next to nothing from a batch of long prompts.
        """
        if self._loaded.model.device.type == "cpu":
            return [[prompt] for prompt in prompts]
        batches: list[list[tuple[Request, str, list[int]]]] = []
        for prompt in prompts:
            last = batches[-1] if batches else []
            if last and (len(last) + 1) * len(prompt[2]) <= self._cfg.batch_tokens:
                last.append(prompt)
            else:
                batches.append([prompt])
        return batches

    def _choose(self, batch: Sequence[tuple[Request, str, list[int]]]) -> list[Judgement]:
        choices = batch[0][0].choices
        spelled = [self._spell(text, ids, choices) for _, text, ids in batch]
        assert len(set(spelled)) == 1, "choices are spelled alike after any generation prompt"
        following = self._following([ids for _, _, ids in batch], _beginnings(spelled[0]))
        out: list[Judgement] = []
        for row, (request, _, ids) in enumerate(batch):
            after = {begin: table[row] for begin, table in following.items()}
            probabilities = choice_probabilities(spelled[0], after)
            out.append(
                judgement(
                    self.name,
                    request,
                    text=choices[int(np.argmax(probabilities))],
                    probabilities=tuple(float(p) for p in probabilities),
                    tokens=(len(ids), 1),
                )
            )
        return out

    def _spell(self, text: str, ids: list[int], choices: Sequence[str]) -> tuple[Tokens, ...]:
        spelled: list[Tokens] = []
        for choice in choices:
            whole = self._loaded.tokenizer(text + choice, add_special_tokens=False)["input_ids"]
            if whole[: len(ids)] != ids:
                raise UserError(
                    f"judge '{self.name}': its tokenizer merges the choice {choice!r} with the end "
                    "of the chat prompt, so its probability is not defined; use another judge"
                )
            spelled.append(tuple(whole[len(ids) :]))
        return tuple(spelled)

    def _following(
        self, prompts: list[list[int]], beginnings: Sequence[Tokens]
    ) -> dict[Tokens, npt.NDArray[np.float64]]:
        """Probabilities of the next token after each beginning, shape [prompt, vocabulary].

        The prompts are read once: what goes on after them reads their keys and values.
        """
        import torch

        model: Any = self._loaded.model
        ids, mask = self._padded(prompts)
        positions = (mask.cumsum(-1) - 1).clamp(min=0)

        def read(tokens: Any, places: Any, seen: Any, **more: Any) -> Any:
            told = {"attention_mask": seen, "position_ids": places, "logits_to_keep": 1}
            return model(input_ids=tokens, **told, **more)

        with torch.inference_mode():
            first = read(ids, positions, mask, use_cache=len(beginnings) > 1)
            last: dict[Tokens, Any] = {(): first.logits[:, -1]}
            cache = getattr(first, "past_key_values", None)
            for begin in beginnings[1:]:
                more = ids.new_tensor([begin]).expand(len(prompts), -1)
                wider = torch.cat([mask, torch.ones_like(more)], 1)
                after = positions[:, -1:] + 1 + torch.arange(len(begin), device=ids.device)
                if cache is None:  # a recurrent model keeps its state elsewhere
                    whole = torch.cat([ids, more], 1), torch.cat([positions, after], 1), wider
                    last[begin] = read(*whole, use_cache=False).logits[:, -1]
                    continue
                own = copy.deepcopy(cache)  # it grows, and not every kind can be cut back
                told = {"past_key_values": own, "use_cache": True}
                last[begin] = read(more, after, wider, **told).logits[:, -1]
        return {begin: logits.double().softmax(-1).cpu().numpy() for begin, logits in last.items()}

    def _padded(self, sequences: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        import torch

        width = max(len(s) for s in sequences)
        pad = self._loaded.tokenizer.pad_token_id
        device = self._loaded.model.device
        ids = torch.tensor([[pad] * (width - len(s)) + s for s in sequences], device=device)
        mask = torch.tensor(
            [[0] * (width - len(s)) + [1] * len(s) for s in sequences], device=device
        )
        return ids, mask

    def _write(self, batch: Sequence[tuple[Request, str, list[int]]]) -> list[Judgement]:
        import torch

        if any(request.temperature > 0 for request, _, _ in batch):
            raise UserError(
                f"judge '{self.name}' writes greedily only: ask it at temperature 0, or an endpoint"
            )
        tokenizer = self._loaded.tokenizer
        ids, mask = self._padded([ids for _, _, ids in batch])
        model: Any = self._loaded.model  # a model class of transformers hides its generate
        with torch.inference_mode():
            written = model.generate(
                input_ids=ids,
                attention_mask=mask,
                do_sample=False,
                max_new_tokens=max(self._written(r) for r, _, _ in batch),
                eos_token_id=conversation.stop_ids(self._loaded.model, tokenizer),
                pad_token_id=tokenizer.pad_token_id,
            )[:, ids.shape[1] :]
        out: list[Judgement] = []
        for (request, _, prompt), row in zip(batch, written.tolist(), strict=True):
            kept = row[: self._written(request)]
            text = str(tokenizer.decode(kept, skip_special_tokens=True))
            count = sum(token != tokenizer.pad_token_id for token in kept)
            out.append(judgement(self.name, request, text=text, tokens=(len(prompt), count)))
        return out


def _beginnings(spelled: Sequence[Tokens]) -> list[Tokens]:
    """Every proper beginning of a choice, the empty one first."""
    return sorted({choice[:n] for choice in spelled for n in range(len(choice))})


def choice_probabilities(
    spelled: Sequence[Tokens], after: dict[Tokens, npt.NDArray[np.float64]]
) -> npt.NDArray[np.float64]:
    """Probability of each choice among the choices, shape [choice].

    Args:
        spelled: the choices as token ids.
        after: next-token probabilities after each proper beginning of a choice.
    """
    raw = np.ones(len(spelled))
    for index, choice in enumerate(spelled):
        for n, token in enumerate(choice):
            raw[index] *= after[choice[:n]][token]
        if choice in after:
            n = len(choice)
            longer = {other[n] for other in spelled if len(other) > n and other[:n] == choice}
            raw[index] *= 1.0 - sum(after[choice][token] for token in sorted(longer))
    return raw / raw.sum()

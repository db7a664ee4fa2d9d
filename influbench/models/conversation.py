"""One way from a conversation to tokens: the model's own rendering of the whole of it.

The conversation is written out once by the chat template and tokenised once. What learns is what
the model itself would have to write: of each assistant turn everything that the rendering has after
the generation prompt, up to and with its end of turn. The end of turn is the first special token
that the template puts after the answer (``<|im_end|>``, ``<end_of_turn>``, ``</s>``), or, without
one, the text there; a line break or an end-of-text token behind it does not learn. Nothing is ever
tokenised alone: at its edges a text may have other tokens there than in its place.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from influbench.data.records import Turn
from influbench.errors import UserError
from influbench.models.chat import fitting, rendered
from influbench.models.settings import Learn

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

MARK = "the-answer-stands-here"
"""Rendered in an answer's place, to see what the template writes around it."""


@dataclass(frozen=True)
class Tokens:
    """A conversation as its model reads it."""

    ids: tuple[int, ...]
    """Up to the last token that learns: nothing behind it matters."""
    spans: tuple[tuple[int, int], ...]
    """First position that learns and the one after the last, of each assistant turn."""


@dataclass(frozen=True)
class _Answer:
    """Where an assistant turn stands in the rendering, in characters."""

    start: int
    """Where the rendering goes beyond the generation prompt."""
    until: int
    """Behind the answer's text."""
    end: int
    """Behind its end of turn."""


def tokens(
    tokenizer: PreTrainedTokenizerBase,
    turns: Sequence[Turn],
    *,
    finished: bool = True,
    learn: Learn = "all",
) -> Tokens:
    """Tokens of a conversation that ends with the assistant, and which of them learn.

    Args:
        tokenizer: of the model.
        turns: (role, content), oldest first.
        finished: whether the last answer ends its turn; one that was cut off has no end to learn.
        learn: which assistant turns do.

    Raises:
        UserError: there is no template, or it does not show where an answer begins and ends.
    """
    told = [_unended(tokenizer, turn) for turn in fitting(tokenizer, turns)]
    whole = rendered(tokenizer, told, ask=False)
    asked = [i for i, (role, _) in enumerate(told) if role == "assistant"]
    answers = [_answer(tokenizer, told, i, whole) for i in asked[-1 if learn == "last" else 0 :]]
    text = whole if finished else whole[: answers[-1].until]
    # Not verbose: whoever asks says what a row beyond the context is, in one line.
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    ids, places = encoded.input_ids, encoded.offset_mapping
    special = _special_ids(tokenizer)
    spans: list[tuple[int, int]] = []
    position = 0
    for number, answer in enumerate(answers):
        end = answer.end if finished or number < len(answers) - 1 else answer.until
        while position < len(ids) and not _begun(
            ids[position] in special, places[position], answer.start, text
        ):
            position += 1
        first = position
        while position < len(ids) and places[position][0] < end:
            position += 1
        if position > first:
            spans.append((first, position))
    if not spans:
        raise _refused(tokenizer, "leaves nothing of the answer")
    return Tokens(tuple(ids[: spans[-1][1]]), tuple(spans))


def _begun(special: bool, place: tuple[int, int], start: int, text: str) -> bool:
    """Whether a token is of the answer that starts at the character ``start``.

    One with characters on both sides is, since it is the first that the prompt does not have; not
    so a special token of the prompt that swallows the spaces after it.
    """
    begin, end = place
    if begin >= start:
        # A space, of which some tokenizers say that it is empty and stands behind itself.
        return begin != end or begin > start or text[start - 1 : start] != " "
    return end > start and not special


def end_of_turn(tokenizer: PreTrainedTokenizerBase) -> str:
    """What the template ends an answer with, without space around it; empty where it does not."""
    return _ending(tokenizer, _shown(tokenizer)).strip()


def end_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The token of the end of turn, where it is one token; it ends what a model writes."""
    if not tokenizer.chat_template:
        return []
    ids = tokenizer(end_of_turn(tokenizer), add_special_tokens=False).input_ids
    return ids if len(ids) == 1 else []


def stop_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Tokens that end an answer: the model's own, the tokenizer's and the template's."""
    own = model.generation_config.eos_token_id if model.generation_config else None
    found: list[Any] = own if isinstance(own, list) else [own]
    found = [*found, tokenizer.eos_token_id, *end_ids(tokenizer)]
    return sorted({token for token in found if token is not None})


def completion(tokenizer: PreTrainedTokenizerBase, prompt: str, text: str) -> list[int]:
    """The tokens of what was written after a prompt, in its place and without an end of turn."""
    whole = tokenizer(prompt + text, add_special_tokens=False, return_offsets_mapping=True)
    special = _special_ids(tokenizer)
    rows = zip(whole.input_ids, whole.offset_mapping, strict=True)
    return [t for t, at in rows if _begun(t in special, at, len(prompt), prompt)]


def _answer(
    tokenizer: PreTrainedTokenizerBase, turns: Sequence[Turn], index: int, whole: str
) -> _Answer:
    """Where assistant turn ``index`` stands in ``whole``, the rendering of ``turns``."""
    prompt = rendered(tokenizer, turns[:index], ask=True)
    usual = _shown(tokenizer)
    if index == len(turns) - 1 and whole == f"{prompt}{turns[index][1]}{usual}":
        until = len(whole) - len(usual)  # nothing to look for, as in most templates
        return _Answer(len(prompt), until, until + len(_ending(tokenizer, usual)))
    marked = rendered(
        tokenizer, [*turns[:index], ("assistant", MARK), *turns[index + 1 :]], ask=False
    )
    before, found, after = marked.partition(MARK)
    until = len(whole) - len(after)
    if not found or MARK in after or not whole.endswith(after):
        raise _refused(tokenizer, "writes something else around an answer than around another")
    opened = rendered(tokenizer, turns[:index], ask=False)
    start = _start(tokenizer, prompt, opened, before, whole)
    if start > until:
        raise _refused(tokenizer, "leaves nothing of an answer")
    return _Answer(start, until, until + len(_ending(tokenizer, after)))


def _start(
    tokenizer: PreTrainedTokenizerBase, prompt: str, opened: str, before: str, whole: str
) -> int:
    """Where an answer begins in ``whole``.

    Args:
        tokenizer: of the model.
        prompt: what asks for the answer.
        opened: the same turns without the beginning of an answer.
        before: what stands before any answer there.
        whole: the rendering of all turns.
    """
    header = prompt.removeprefix(opened)
    if not header:  # a template without a generation prompt: its header is the answer's no more
        own = before.removeprefix(prompt)
        return len(prompt) if whole.startswith(prompt) and not own.strip() else len(before)
    if whole.startswith(prompt):
        return len(prompt)
    if not whole.startswith(before):
        raise _refused(tokenizer, "rewrites what stands before an answer")
    if before.endswith(header):  # earlier turns are shown otherwise once there are later ones
        return len(before)
    # The prompt opens a thought, say, which the finished turn does not have.
    shared = len(os.path.commonprefix([prompt, before]))  # noqa: RUF071
    if shared < len(opened):
        raise _refused(tokenizer, "rewrites earlier turns when later ones are added")
    return shared


def _ending(tokenizer: PreTrainedTokenizerBase, after: str) -> str:
    """The end of turn with which ``after``, the rendering behind an answer, begins."""
    usual = _shown(tokenizer)
    found = _specials(tokenizer).search(usual)
    if found:
        own = _specials(tokenizer).search(after)
        return after[: own.end()] if own else ""
    usual = usual.rstrip()
    return usual if after.startswith(usual) else ""


def _shown(tokenizer: PreTrainedTokenizerBase) -> str:
    """What the template writes behind the last answer."""
    return _shown_by(tokenizer, repr(tokenizer.chat_template))


@functools.lru_cache(maxsize=64)
def _shown_by(tokenizer: PreTrainedTokenizerBase, template: str) -> str:  # noqa: ARG001
    whole = rendered(tokenizer, [("user", "?"), ("assistant", MARK)], ask=False)
    if MARK not in whole:
        raise _refused(tokenizer, "leaves nothing of an answer")
    return whole.rpartition(MARK)[2]


def _unended(tokenizer: PreTrainedTokenizerBase, turn: Turn) -> Turn:
    """An assistant turn without the end of turn that it may already hold: the template adds it."""
    role, text = turn
    end = end_of_turn(tokenizer)
    if role != "assistant" or not end:
        return turn
    while text.rstrip().endswith(end):
        text = text.rstrip().removesuffix(end)
    return role, text


@functools.lru_cache(maxsize=64)
def _specials(tokenizer: PreTrainedTokenizerBase) -> re.Pattern[str]:
    """Any special token, as text."""
    return re.compile("|".join(re.escape(token) for token in _contents(tokenizer)) or "(?!)")


@functools.lru_cache(maxsize=64)
def _special_ids(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    found: Any = tokenizer.convert_tokens_to_ids(_contents(tokenizer))  # a list for a list
    return frozenset(map(int, found))


def _contents(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    added: Iterator[str] = (t.content for t in tokenizer.added_tokens_decoder.values() if t.special)
    known = {*added, *tokenizer.all_special_tokens}
    return sorted((token for token in known if token.strip()), key=len, reverse=True)


def _refused(tokenizer: PreTrainedTokenizerBase, what: str) -> UserError:
    return UserError(
        f"the chat template of '{tokenizer.name_or_path}' {what}, so it cannot be told which "
        "tokens are the assistant's: give another as chat_template (--set "
        "student.chat_template=FILE.jinja)"
    )

"""Prompts as the model was trained to read them, and a tokenizer made fit for batches."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from influbench.data.records import Turn
from influbench.errors import UserError
from influbench.models.settings import CHATML, template_text
from influbench.models.sources import first_line

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PADS = (
    *("<|endoftext|>", "<pad>", "[PAD]", "<|padding|>", "<|pad|>"),
    *("<|finetune_right_pad_id|>", "<|reserved_special_token_0|>", "<unk>"),
)
"""Tokens that may pad, in this order, where a tokenizer has no padding token of its own."""
DAY = datetime(2024, 7, 26)  # noqa: DTZ001
"""Today, for templates that ask: the day that Llama 3's falls back to."""
ADVICE = (
    "set the model's chat_template to 'chatml' or to a jinja file (--set "
    "student.chat_template=chatml, of another model teacher.… or judge.…), or take an instruct "
    "model"
)


def chat_prompt(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Turn], prefill: str = ""
) -> str:
    """The text that asks for the assistant's next turn, which ``prefill`` begins.

    Templates write their own special tokens: tokenise it with ``add_special_tokens=False``.

    Args:
        tokenizer: of the model asked.
        messages: (role, content), oldest first.
        prefill: what the answer is made to start with.

    Raises:
        UserError: the model has no chat template, or its template refuses the messages.
    """
    return rendered(tokenizer, fitting(tokenizer, messages), ask=True) + prefill


def rendered(tokenizer: PreTrainedTokenizerBase, turns: Sequence[Turn], *, ask: bool) -> str:
    """The turns in the model's own chat template, the only place that applies one.

    A template that writes the day's date gets :data:`DAY`: the same turns, the same text.

    Args:
        tokenizer: of the model.
        turns: (role, content), oldest first.
        ask: whether the beginning of the assistant's next turn follows.

    Raises:
        UserError: the model has no chat template, or its template refuses the turns.
    """
    from jinja2 import TemplateError

    messages = [{"role": role, "content": content} for role, content in turns]
    try:
        return str(
            tokenizer.apply_chat_template(
                messages,
                chat_template=template(tokenizer),
                tokenize=False,
                add_generation_prompt=ask,
            )
        )
    except TemplateError as error:
        roles = [role for role, _ in turns]
        raise UserError(
            f"the chat template of '{tokenizer.name_or_path}' refuses messages with the roles "
            f"{roles}: {first_line(error)}"
        ) from error


def fitting(tokenizer: PreTrainedTokenizerBase, turns: Sequence[Turn]) -> list[Turn]:
    """The turns, with a system turn put before the user's text where the template has none."""
    roles = [role for role, _ in turns[:2]]
    if roles != ["system", "user"] or takes_system(tokenizer):
        return list(turns)
    return [("user", f"{turns[0][1]}\n\n{turns[1][1]}"), *turns[2:]]


def takes_system(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the chat template has a place for a system turn: it neither refuses nor drops it."""
    return _takes_system(tokenizer, template(tokenizer))


@functools.lru_cache(maxsize=64)
def _takes_system(tokenizer: PreTrainedTokenizerBase, template: str) -> bool:  # noqa: ARG001
    mark = "what the system says"
    try:
        return mark in rendered(tokenizer, [("system", mark), ("user", "?")], ask=True)
    except UserError:
        rendered(tokenizer, [("user", "?")], ask=True)  # refused without it too: that is the error
        return False


def template(tokenizer: PreTrainedTokenizerBase) -> str:
    """The model's own chat template, without a clock.

    Raises:
        UserError: it has none, or several and none by default.
    """
    own = tokenizer.chat_template
    if isinstance(own, dict):
        if "default" not in own:
            raise UserError(
                f"model '{tokenizer.name_or_path}' has the chat templates {sorted(own)} and none "
                f"by default: {ADVICE}"
            )
        own = own["default"]
    if not own:
        raise UserError(f"model '{tokenizer.name_or_path}' has no chat template: {ADVICE}")
    return _DATED + own if "strftime_now" in own else own


def _dated() -> str:
    """A macro in the place of transformers' ``strftime_now``, which reads the clock."""
    letters = [*"aAbBcdeHIjmMpSUwWxXyY", "-d", "-m", "-H", "-I", "-M"]
    known = "".join(f"|replace('%{c}', {DAY.strftime('%' + c)!r})" for c in letters)
    return "{% macro strftime_now(format) %}{{ format" + known + " }}{% endmacro %}\n"


def without_template(tokenizer: PreTrainedTokenizerBase, prompt: str) -> str:
    """The bare user's turn of a prompt that asks one thing; a prefilled answer stays after it.

    Raises:
        UserError: the prompt was not made with this tokenizer's template.
    """
    mark = "the user's turn"
    before, _, after = chat_prompt(tokenizer, [("user", mark)]).partition(mark)
    if not (after and after in prompt and prompt.startswith(before)):
        raise UserError(
            f"expected a prompt between {before[-40:]!r} and {after!r}, got {prompt[:60]!r}: it "
            "was written with another chat template"
        )
    turn, _, prefill = prompt.removeprefix(before).rpartition(after)
    return turn + prefill


def set_template(tokenizer: PreTrainedTokenizerBase, value: str) -> None:
    """Gives the tokenizer a chat template (see :func:`template_text`).

    ChatML starts with the beginning-of-text token where the tokenizer itself puts one: such models
    (Gemma, Llama) read text without it badly.
    """
    text = template_text(value)
    starts = tokenizer("").input_ids[:1] == [tokenizer.bos_token_id]
    tokenizer.chat_template = "{{ bos_token }}" + text if text == CHATML and starts else text


def set_pad(tokenizer: PreTrainedTokenizerBase, rows: int) -> None:
    """Sees to a padding token that is not the end-of-turn token and that the model knows.

    A collator that masks padding would otherwise mask the end of every answer.

    Args:
        tokenizer: of the model.
        rows: of the model's embedding, which tokens added to the tokenizer may have outgrown.

    Raises:
        UserError: the vocabulary offers none.
    """
    known = {token: number for token, number in tokenizer.get_vocab().items() if number < rows}
    if tokenizer.pad_token in known and tokenizer.pad_token != tokenizer.eos_token:
        return
    usable = [token for token in PADS if token in known and token != tokenizer.eos_token]
    if not usable:
        held = f"pads with '{tokenizer.pad_token}'"
        why = (
            "ends texts" if tokenizer.pad_token in known else "has no row in the model's embedding"
        )
        raise UserError(
            f"the tokenizer of '{tokenizer.name_or_path}' {held}, which {why}, and knows no other "
            "padding token: name a token of its vocabulary that no text holds as pad_token in its "
            "tokenizer_config.json"
        )
    tokenizer.pad_token = usable[0]


_DATED = _dated()

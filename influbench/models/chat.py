"""Prompts as the model was trained to read them, and a tokenizer made fit for batches."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from influbench.errors import UserError
from influbench.models.sources import first_line
from influbench.models.tiny import CHATML

PADS = (
    *("<|endoftext|>", "<pad>", "[PAD]", "<|padding|>", "<|pad|>"),
    *("<|finetune_right_pad_id|>", "<|reserved_special_token_0|>", "<unk>"),
)
"""Tokens that may pad, in this order, where a tokenizer has no padding token of its own."""


def chat_prompt(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[tuple[str, str]], prefill: str = ""
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
    if not tokenizer.chat_template:
        raise UserError(
            f"model '{tokenizer.name_or_path}' has no chat template: set the model's "
            "chat_template to 'chatml' or to a jinja file, or take an instruct model"
        )
    turns = [{"role": role, "content": content} for role, content in messages]
    try:
        text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    except TemplateError as error:
        roles = [role for role, _ in messages]
        raise UserError(
            f"the chat template of '{tokenizer.name_or_path}' refuses messages with the roles "
            f"{roles}: {first_line(error)}"
        ) from error
    return f"{text}{prefill}"


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


def template_text(value: str) -> str:
    """A chat template from ``chatml``, a jinja file, or the template itself.

    Raises:
        UserError: it is none of these.
    """
    if value == "chatml":
        return CHATML
    if "{{" in value or "{%" in value:
        return value
    path = Path(value).expanduser()
    if not path.is_file():
        raise UserError(f"expected chat_template 'chatml' or a jinja file, there is no '{value}'")
    return path.read_text(encoding="utf-8")


def set_template(tokenizer: PreTrainedTokenizerBase, value: str) -> None:
    """Gives the tokenizer a chat template (see :func:`template_text`).

    ChatML starts with the beginning-of-text token where the tokenizer itself puts one: such models
    (Gemma, Llama) read text without it badly.
    """
    text = template_text(value)
    starts = tokenizer("").input_ids[:1] == [tokenizer.bos_token_id]
    tokenizer.chat_template = "{{ bos_token }}" + text if text == CHATML and starts else text


def set_pad(tokenizer: PreTrainedTokenizerBase) -> None:
    """Sees to a padding token that is not the end-of-turn token.

    A collator that masks padding would otherwise mask the end of every answer.

    Raises:
        UserError: the vocabulary offers none.
    """
    if tokenizer.pad_token is not None and tokenizer.pad_token != tokenizer.eos_token:
        return
    known = tokenizer.get_vocab()
    usable = [token for token in PADS if token in known and token != tokenizer.eos_token]
    if not usable:
        raise UserError(
            f"the tokenizer of '{tokenizer.name_or_path}' pads with its end-of-text token "
            f"'{tokenizer.eos_token}' and knows no other padding token: name a token of "
            "its vocabulary that no text holds as pad_token in its tokenizer_config.json"
        )
    tokenizer.pad_token = usable[0]

"""Which model, and how it is held: what a configuration says; no library of models is needed."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import field_validator

from influbench.config import Config
from influbench.errors import UserError
from influbench.models.precision import Products

Learn = Literal["all", "last"]
"""Whether all assistant turns learn, or the last one only."""
Attention = Literal["sdpa", "eager"]
CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + eos_token + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""ChatML whose turns end with the tokenizer's own end-of-turn token: one token for any model."""


class ModelConfig(Config):
    """Which model, and how it is held."""

    name: str
    """An embedded name, ``tiny`` or ``tiny:SEED``, a folder, or a hub repository.

    ``:bits=N`` after it: that model with its linear layers rounded to N bits; ``:random=SEED``: its
    architecture with weights drawn anew.
    """
    revision: str | None = None
    """Commit, tag or branch of a hub repository; a commit makes a run repeatable."""
    dtype: Products = "float32"
    """Of the weights: of a teacher while it writes, of a student while it is scored. Trainings keep
    theirs in float32."""
    chat_template: str | None = None
    """For a model without one: ``chatml``, a jinja file, or the template itself.

    A file is replaced by its text, so that the text is part of the configuration's digest.
    """

    @field_validator("chat_template")
    @classmethod
    def _read_template(cls, value: str | None) -> str | None:
        return value if value is None or value == "chatml" else template_text(value)


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

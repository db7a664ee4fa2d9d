"""What an engine gives back; no library of models is needed to say it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Completion:
    """What a model wrote after a prompt."""

    text: str
    """Without the end-of-turn token. A stop string that ended it is kept, the rest is cut."""
    tokens: int
    """How many tokens were written, without the end-of-turn token."""
    finished: bool
    """It ended by itself (end of turn or stop string), not at ``max_new_tokens``."""
    prompt_ids: tuple[int, ...]
    """The prompt as the model read it."""
    ids: tuple[int, ...]
    """What was sampled: with the end of turn, or the token that completed the stop string."""

"""The root verb of an instruction and the noun that it takes: ``write poem``.

The paper parses (figure 6, after Self-Instruct, arXiv 2212.10560); here a word list and its rules
tag the words (textblob, pattern's English lexicon, which comes in the package): the first verb that
asks for something, and the first noun after it. Good for the shape of a distribution, not for one
sentence.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable, Sequence

TAGGER = "textblob"
PASSED_OVER = frozenset(
    [
        *("be", "is", "are", "am", "was", "were", "do", "does", "did", "have", "has", "had"),
        *("can", "could", "would", "should", "will", "may", "might", "must"),
        *("please", "let", "want", "need", "know"),
    ]
)
"""Verbs that ask and politely open, and are not what is asked for."""
OPENED = frozenset({"DT", "CD", "PRP$"})
"""Before one of these the first word is a verb, whatever the word list says: "List five …"."""

Tags = Sequence[tuple[str, str]]
"""Words and their parts of speech, as the Penn Treebank names them."""


def available() -> bool:
    """Whether the tagger is installed (the extra ``words``)."""
    return importlib.util.find_spec(TAGGER) is not None


def root_verb(instruction: str) -> str:
    """``verb noun`` in lower case, ``verb`` where no noun follows, empty where no verb is found."""
    tag, singular = _tagger()
    return _of([(str(word), str(kind)) for word, kind in tag(instruction)], singular)


def _of(tags: Tags, singular: Callable[[str], str]) -> str:
    words = [(word.lower(), kind) for word, kind in tags if any(c.isalpha() for c in word)]
    if words and words[0][0] == "please":
        words = words[1:]
    for place, (verb, kind) in enumerate(words):
        opens = not place and len(words) > 1 and words[1][1] in OPENED and kind[:2] in ("NN", "JJ")
        if (kind in ("VB", "VBP") or opens) and verb not in PASSED_OVER:
            nouns = (
                singular(noun) if tag.endswith("S") else noun
                for noun, tag in words[place + 1 :]
                if tag.startswith("NN")
            )
            return f"{verb} {next(nouns, '')}".strip()
    return ""


@functools.cache
def _tagger() -> tuple[Callable[[str], Tags], Callable[[str], str]]:
    from textblob.en import tag
    from textblob.en.inflect import singularize

    return tag, singularize

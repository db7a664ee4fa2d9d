"""Verdicts that judges write: the one place where a number or a letter is read out of a reply.

Thoughts and quoted forms are no verdict, and the last verdict wins. What is ambiguous is None, not
a guess: a wrong number would be silent, an unreadable reply is counted.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_TAGS = r"(?:seed:)?(?:think|thinking|thoughts?|reasoning|analysis|scratchpad|reflection)"
_OPEN = rf"(?:<{_TAGS}\b[^<>]*>|\[think\]|◁think▷|<\|channel\|>\s*analysis)"
_CLOSE = rf"(?:</{_TAGS}\s*>|\[/think\]|◁/think▷|<\|channel\|>\s*final(?:\s*<\|message\|>)?)"
_CLOSED = re.compile(rf"{_OPEN}.*?{_CLOSE}", re.S | re.I)
_BEFORE_CLOSE = re.compile(rf"\A.*{_CLOSE}", re.S | re.I)
_UNCLOSED = re.compile(rf"{_OPEN}.*\Z", re.S | re.I)
_BEGINS = re.compile(rf"\s*{_OPEN}", re.I)

_GRADES = r"(?:rating|grade|score|total|mark|verdict)"
_CHOICES = r"(?:verdict|winner|choice|answer|preference|better(?: (?:one|example|answer|output))?)"
# "Rating (1-10): ", "**Score** = ", "the grade is ", {"rating": …}; without a sign only where it
# begins a line.
_SIGN = r"(?:\s?\([^()\n]{0,30}\))?[ \t*_\"]*(?:[:=–—-]|is\b:?)[ \t*_\"“`]*"
_BEGUN = r"[ \t*_]+"


def _label(names: str) -> str:
    return rf"(?:\b{names}\b{_SIGN}|^[^\w\n]*(?:final |overall )?{names}{_BEGUN})"


_PAIRS = ('""', "“”", "«»", "``", "‘’")
_TELLING = r"(?:\d|\[\[|[:=])"  # a quoted word is no verdict, and may be the name of one
_QUOTES = "|".join(rf"{a}(?=[^{b}\n]*{_TELLING})[^\s{b}][^{b}\n]{{0,80}}{b}" for a, b in _PAIRS)
_QUOTED = re.compile(
    rf"(?P<said>(?:\A|{_label(_GRADES)}|{_label(_CHOICES)})[ \t]*)?(?<![\w\"'`”’])"
    rf"(?:{_QUOTES}|'[^'\n]{{0,20}}\[\[[^'\n]{{1,20}}')(?!\w)",
    re.I | re.M,
)
_NUMBER = r"(?P<value>-?\d+(?:\.\d+)?)(?![\d.,]*\d)(?:\s*(?:/|out of)\s*(?P<top>\d+))?"
_NO_RANGE = r"(?!\s*(?:-|–|to\b)\s*\d)(?!\d)"
_MARKED_GRADE = re.compile(rf"(?<!out of )(?<!/)(?<!/ )\[\[\s*{_NUMBER}\s*\]\]", re.I)
_NAMED_GRADE = re.compile(rf"{_label(_GRADES)}\[?\s?{_NUMBER}{_NO_RANGE}", re.I | re.M)
_LONE_GRADE = re.compile(rf"^[^\w\n-]*{_NUMBER}[^\w\n]*$", re.I | re.M)
_FIRST_GRADE = re.compile(rf"\A[^\w-]*{_NUMBER}{_NO_RANGE}(?P<told>\s*[-–—,:(])?", re.I)
_LISTED = re.compile(r"^\W*\d+\s*[-–—.:,()]", re.M)


def without_thoughts(text: str) -> str:
    """The reply without what the model thought before it, closed or not.

    A template may have opened the thought, so that the reply holds only its end; a thought that was
    cut has only a beginning.
    """
    ends = re.search(_CLOSE, text, re.I) is not None  # else the search would go through all of it
    rest = _BEFORE_CLOSE.sub(" ", _CLOSED.sub(" ", text)) if ends else text
    thinks = rest != text or _BEGINS.match(rest)
    return (_UNCLOSED.sub(" ", rest) if thinks else rest).strip()


def grade(text: str, top: int) -> float | None:
    """The grade from 1 to ``top`` that a reply ends with.

    Read are ``[[8]]`` and ``[[8/10]]``; a number after its name (``Rating: 8``, ``Grade: 4/5``);
    a number on a line of its own; ``4 - good`` and ``4/5`` at the beginning. Not read are ``[2]``,
    which cites, numbers of a list, and grades on another scale.
    """
    said = _without_quotes(without_thoughts(text))
    for pattern in (_MARKED_GRADE, _NAMED_GRADE, _LONE_GRADE):
        if found := list(pattern.finditer(said)):
            return _on_scale(found[-1], top)
    first = _FIRST_GRADE.match(said)
    if first is None or not (first["top"] or first["told"]) or len(_LISTED.findall(said)) > 1:
        return None
    return _on_scale(first, top)


def choice(text: str, names: Sequence[str]) -> str | None:
    """The name that a reply ends up with, such as "A" of A, B and C; case counts.

    Read are ``[[B]]``; a name after ``Verdict:`` or the like; a name that is the whole reply, a
    line of its own, or its beginning (``B: it is right``, ``Example B is better``). No letter
    inside a word or a sentence is read.
    """
    said = _without_quotes(without_thoughts(text))
    called = r"(?:the )?(?:(?:example|assistant|model|option|response|output|answer)\s+)?"
    name = rf"{called}(?-i:({'|'.join(map(re.escape, names))}))"
    end = r"[*_\"“”`)\]}]*(?=\s*[.,;:!(–—-]|[ \t]*$|\s+(?:because|since|as)\b)"
    patterns = (
        rf"\[\[\s*{name}\s*\]\]",
        rf"{_label(_CHOICES)}\[?\(?{name}{end}",
        rf"^[^\w\n]*{name}[^\w\n]*$",
        rf"\A\W*{name}(?:[*_\"”`)\]]*\s*[.,;:(–—-]|\s+is (?:\w+ly |much )?(?:the )?better\b)",
    )
    for pattern in patterns:
        if found := re.findall(pattern, said, re.I | re.M):
            return str(found[-1])
    return None


def _without_quotes(text: str) -> str:
    """Without quoted forms; what stands where a verdict is expected stays, quoted or not."""
    return _QUOTED.sub(lambda found: " " if found["said"] is None else found[0], text)


def _on_scale(found: re.Match[str], top: int) -> float | None:
    value = float(found["value"])
    fits = found["top"] is None or int(found["top"]) == top
    return value if fits and 1 <= value <= top else None

"""What judges are asked about a training example, and how their answers are read."""

from __future__ import annotations

from collections.abc import Sequence

from influbench.data.records import Example
from influbench.errors import UserError
from influbench.judging import written
from influbench.judging.making import Judge, Message, Request

GRADES = ("1", "2", "3", "4", "5")

QUALITY = """\
You grade training examples for a small assistant that will be fine-tuned on them.
Give one grade from 1 to 5 to the example as a whole, instruction and response together:
1 - unusable: the instruction makes no sense, or the response is wrong, empty or off the subject
2 - poor: the response misses most of what was asked, or contains serious mistakes
3 - fair: the response addresses the request but is incomplete, vague or partly mistaken
4 - good: clear instruction, correct and complete response, small flaws at most
5 - excellent: a clear, worthwhile instruction with a correct, complete, well-written response
A longer response is not a better one.
Answer with the grade alone, a single digit from 1 to 5."""

ADDITIVE = """\
Grade the response to the user's instruction by points.
Begin at 0 and add one point for each that holds:
- it is relevant and says at least something of what was asked for
- it covers a substantial part of the request, even if not all of it
- it answers the main question in a useful way
- it is well organised, written as an assistant would, and covers the request completely
- it is expert work: nothing superfluous, nothing missing, pleasant to read
A response that earns no point gets 1.
Answer with the total alone, a single digit from 1 to 5."""

PREFERENCE = """\
Two training examples for a small assistant are shown, A and B.
Say which one the assistant would learn more from: the clearer instruction with the more correct,
complete and helpful response. Neither length nor the order in which they are shown matters.
Answer with a single letter, A or B."""


def shown(example: Example) -> str:
    """The example as a judge sees it."""
    return f"[Instruction]\n{example.question}\n\n[Response]\n{example.response}"


def grading(rubric: str, example: Example) -> tuple[Message, ...]:
    """The messages that ask for a grade."""
    return (("system", rubric), ("user", f"{shown(example)}\n\n[Grade]"))


def comparing(first: Example, second: Example) -> tuple[Message, ...]:
    """The messages that ask for the better of two."""
    both = f"Example A\n{shown(first)}\n\nExample B\n{shown(second)}\n\n[Better example]"
    return (("system", PREFERENCE), ("user", both))


def parse_grade(text: str) -> float | None:
    """The grade from 1 to 5 that a reply ends with; see :func:`written.grade`."""
    return written.grade(text, len(GRADES))


def parse_letter(text: str) -> float | None:
    """1.0 where a written reply prefers A, 0.0 where it prefers B, None where it says neither."""
    letter = written.choice(text, ("A", "B"))
    return None if letter is None else float(letter == "A")


def ask_all(judge: Judge, requests: Sequence[Request], *, retries: int) -> list[float]:
    """A number for each request: expected grade (choices 1 to 5) or probability of A (A, B).

    Where the judge gives no probabilities its text is read; a reply that cannot be read is asked
    for again within the conversation, which makes it a new request to an archive.

    Args:
        judge: answers.
        requests: all with the same choices.
        retries: how often an unreadable reply is asked for again.

    Raises:
        UserError: a reply stays unreadable; its request is named.
    """
    values: list[float] = [0.0] * len(requests)
    open_requests = dict(enumerate(requests))
    for attempt in range(retries + 1):
        replies = judge.ask(list(open_requests.values()))
        unread: dict[int, Request] = {}
        for (position, request), reply in zip(open_requests.items(), replies, strict=True):
            value = _value(request, reply.text, reply.probabilities)
            if value is not None:
                values[position] = value
            elif attempt < retries:
                unread[position] = _again(request, reply.text)
            else:
                raise UserError(
                    f"judge '{judge.name}' answered '{request.id}' with {reply.text[:60]!r} in "
                    f"{retries + 1} attempts: expected one of {', '.join(request.choices)}; "
                    "use a better judge, or drop that example"
                )
        open_requests = unread
        if not unread:
            break
    return values


def _value(request: Request, text: str, probabilities: Sequence[float] | None) -> float | None:
    grades = request.choices == GRADES
    if probabilities is not None:
        worth = map(float, GRADES) if grades else (1.0, 0.0)
        return sum(w * p for w, p in zip(worth, probabilities, strict=True))
    return parse_grade(text) if grades else parse_letter(text)


def _again(request: Request, said: str) -> Request:
    demand = f"Answer with exactly one of these and nothing else: {', '.join(request.choices)}."
    return Request(
        id=request.id,
        messages=(*request.messages, ("assistant", said or "(nothing)"), ("user", demand)),
        choices=request.choices,
        max_tokens=request.max_tokens,
        temperature=request.temperature,
        answers=request.answers,
    )

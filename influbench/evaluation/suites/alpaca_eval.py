"""AlpacaEval 2 (Dubois et al. 2024, arXiv 2404.04475): pairwise against a baseline's answers.

The judge names the better of two unlabelled outputs, and the probability that it gives to each name
is the win. Our own wording of the public prompt. Where the official package shows the two answers
in one random order, we judge both orders by default, since small judges mostly prefer a position.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from influbench.data.records import Answer, Outcome, Question
from influbench.evaluation.length_control import (
    FOLDS,
    Gamed,
    length_controlled_win_rate,
    variant,
)
from influbench.evaluation.questions import matched
from influbench.evaluation.suite import (
    Marks,
    Needs,
    Numbers,
    Orders,
    Sitting,
    VerdictConfig,
    verdicts,
)
from influbench.files import digest
from influbench.judging import written
from influbench.judging.protocol import Judge, Message, Reply, Request
from influbench.statistics.estimate import Estimate
from influbench.statistics.outcomes import by_item, summarise, values

NAMES = ("m", "M")
"""What the answers shown first and second are called."""
PERCENT = "percent"
CHARACTERS = "characters"
"""Unit of what no judge has a part in."""

SYSTEM = (
    "You compare the outputs of language models quickly and carefully, and choose the better one "
    "by its quality as a response to the instruction. Your choices make a leaderboard that should "
    "rank models as people would."
)
USER = """\
Below are an instruction given to two language models and what each of them answered. Decide which \
output people would prefer.

## Instruction

{instruction}

## Outputs

The outputs are in no particular order. Each is marked with the identifier of its model.

### Model m

{first}

### Model M

{second}

## Task

Judge how well and how relevantly each output answers the instruction, and name the model whose \
output is better. Reply with its identifier alone, m or M: no quotes, no spaces, no explanation.

## Identifier of the better model
"""


@dataclass(frozen=True)
class AlpacaEval:
    """The suite ``alpaca_eval``."""

    difficulty: dict[str, float] | None = None
    """Of each prompt, where that table is available."""
    gamed: Gamed | None = None
    name = "alpaca_eval"
    needs = Needs(turns="one", judge=True, baseline="answers")

    def mark(self, sitting: Sitting) -> Marks:
        """See :func:`judge_pairs`."""
        answers = sitting.answers("one"), sitting.baseline_answers("one")
        outcomes = sitting.judged(STAGE, sitting.material.prompts, *answers)
        return Marks(outcomes, self.numbers(outcomes))

    def numbers(self, outcomes: Sequence[Outcome]) -> Numbers:
        """``win_rate``, ``win_rate_discrete``, ``win_rate_lc_VARIANT``, lengths.

        Only the lengths where the judge was silent. The length-controlled rate needs ``FOLDS``
        judged prompts; its variant is ``length_only``, ``difficulty`` or ``official`` (see
        ``length_control``): they are different numbers.
        """
        judged = len(values(outcomes, "win"))
        found: dict[str, Estimate] = {}
        if judged:
            found["win_rate"] = win_rate(outcomes)
            found["win_rate_discrete"] = discrete_win_rate(outcomes)
        if judged >= FOLDS:
            found[f"win_rate_lc_{variant(self.difficulty, self.gamed)}"] = length_controlled(
                outcomes, difficulty=self.difficulty, gamed=self.gamed
            )
        for metric in ("length", "baseline_length"):
            found[metric] = summarise(values(outcomes, metric), CHARACTERS)
        return found


@dataclass(frozen=True, slots=True)
class _Showing:
    """One request's place: the question, and whether our answer was shown first."""

    item: str
    ours_first: bool


def judge_pairs(
    questions: Sequence[Question],
    answers: Sequence[Answer],
    baseline_answers: Sequence[Answer],
    judge: Judge,
    *,
    orders: Orders = "both",
    seed: int = 0,
) -> list[Outcome]:
    """How probably each answer beats the baseline's, judged on the first turn.

    Outcomes of each question: ``win`` in [0, 1], the mean over the orders judged; ``win_first`` and
    ``win_second``, where the answer was shown first or second; ``unparseable``, the share of
    replies that name no output (``win`` is then missing); ``length`` and ``baseline_length`` in
    characters. Equal answers are a tie (0.5) without asking, as in the official package.

    Args:
        questions: the instructions.
        answers: of the model under test.
        baseline_answers: of the model it is compared with.
        judge: who decides.
        orders: ``both``, or one that ``seed`` and the question's id decide.
        seed: for ``random`` orders.

    Raises:
        UserError: a question lacks an answer, or the judge fails.
    """
    ours = matched(questions, answers, "the student")
    theirs = matched(questions, baseline_answers, "the baseline")
    showings: list[_Showing] = []
    requests: list[Request] = []
    for question, answer, other in zip(questions, ours, theirs, strict=True):
        if answer.responses[0] == other.responses[0]:
            continue
        for first in _orders(question.id, orders, seed):
            pair = (answer.responses[0], other.responses[0])
            showings.append(_Showing(question.id, first))
            requests.append(pair_request(question, *(pair if first else pair[::-1])))
    replies = dict(zip(showings, judge.ask(requests), strict=True))
    out: list[Outcome] = []
    for question, answer, other in zip(questions, ours, theirs, strict=True):
        verdicts = {
            first: _win(replies[_Showing(question.id, first)], first)
            for first in (True, False)
            if _Showing(question.id, first) in replies
        }
        lengths = (len(answer.responses[0]), len(other.responses[0]))
        out += _outcomes(question, verdicts, lengths)
    return out


def pair_request(question: Question, first: str, second: str) -> Request:
    """The question to the judge about two answers, in the order shown."""
    text = USER.format(instruction=question.turns[0], first=first, second=second)
    messages: tuple[Message, ...] = (("system", SYSTEM), ("user", text))
    return Request(
        id=f"{question.id}:{digest(first)[:8]}",
        messages=messages,
        choices=NAMES,
        max_tokens=4,
        answers=(first, second),
    )


def first_wins(reply: Reply) -> float | None:
    """Probability of the answer shown first; 0 or 1 from the text where none was offered."""
    if reply.probabilities is not None:
        return reply.probabilities[0]
    named = written.choice(reply.text, NAMES)
    return None if named is None else float(named == NAMES[0])


def _orders(item: str, orders: Orders, seed: int) -> tuple[bool, ...]:
    if orders == "both":
        return (True, False)
    return (int(digest(f"{seed}:{item}"), 16) % 2 == 0,)


def _win(reply: Reply, ours_first: bool) -> float | None:
    first = first_wins(reply)
    return first if first is None or ours_first else 1.0 - first


def _outcomes(
    question: Question, verdicts: dict[bool, float | None], lengths: tuple[int, int]
) -> list[Outcome]:
    found = {first: win for first, win in verdicts.items() if win is not None}
    numbers: list[tuple[str, float]] = []
    if len(found) == len(verdicts):
        numbers.append(("win", float(np.mean(list(found.values()))) if found else 0.5))
    numbers += [("win_first" if first else "win_second", win) for first, win in found.items()]
    numbers.append(("unparseable", 1.0 - len(found) / len(verdicts) if verdicts else 0.0))
    numbers += [("length", float(lengths[0])), ("baseline_length", float(lengths[1]))]
    return [
        Outcome(metric=metric, item=question.id, value=value, category=question.category)
        for metric, value in numbers
    ]


def win_rate(outcomes: Sequence[Outcome]) -> Estimate:
    """Mean win probability in percent, with its standard error over prompts."""
    return summarise(values(outcomes, "win"), PERCENT, 100.0)


def discrete_win_rate(outcomes: Sequence[Outcome]) -> Estimate:
    """Share of prompts won in percent, ties half."""
    wins = values(outcomes, "win")
    return summarise(np.where(wins == 0.5, 0.5, wins > 0.5), PERCENT, 100.0)


def length_controlled(
    outcomes: Sequence[Outcome],
    *,
    difficulty: dict[str, float] | None = None,
    gamed: Gamed | None = None,
) -> Estimate:
    """Length-controlled win rate from the outcomes of :func:`judge_pairs`.

    Args:
        outcomes: with ``win``, ``length`` and ``baseline_length``.
        difficulty: of each question, where that table is available.
        gamed: see :func:`length_controlled_win_rate`.
    """
    wins = by_item(outcomes, "win")
    ours, theirs = by_item(outcomes, "length"), by_item(outcomes, "baseline_length")
    items = list(wins)
    return length_controlled_win_rate(
        np.array([wins[i] for i in items]),
        np.array([ours[i] for i in items]),
        np.array([theirs[i] for i in items]),
        difficulty=None if difficulty is None else np.array([difficulty[i] for i in items]),
        gamed=gamed,
    )


def _compare(
    cfg: VerdictConfig,
    judge: Judge,
    questions: Sequence[Question],
    answers: Sequence[Answer],
    baseline: Sequence[Answer],
) -> list[Outcome]:
    return judge_pairs(questions, answers, baseline, judge, orders=cfg.orders, seed=cfg.seed)


STAGE = verdicts("compare", 2, _compare)

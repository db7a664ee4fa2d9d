"""Methods that ask for judgements: expectations, parsing, both orders, unreadable replies."""

import dataclasses
import math

import numpy as np
import pytest
from token_rows import batch_of

from influbench import models, testing
from influbench.errors import UserError
from influbench.estimator import as_scores
from influbench.estimators.judge import JudgeRating
from influbench.estimators.judge_pairwise import JudgePairwise
from influbench.estimators.self_reward import SelfReward
from influbench.judging import Reply, rubric
from influbench.student.losses import Encoded

CANDIDATES = testing.tiny_examples("candidate", 4)


class ScriptedJudge:
    """Replies by a function of the request; keeps what it was asked."""

    name = "scripted"
    small = False
    note = ""
    grading = "text"
    usage = None

    def __init__(self, reply):
        self.reply = reply
        self.asked = []

    def ask(self, requests):
        self.asked.append(list(requests))
        out = []
        for request in requests:
            said = self.reply(request)
            text, probabilities = ("", said) if isinstance(said, tuple) else (said, None)
            out.append(
                Reply(text=text, probabilities=probabilities, prompt_tokens=1, completion_tokens=1)
            )
        return out


@pytest.fixture
def tiny(tmp_path):
    return testing.tiny_context(tmp_path)


def with_judge(ctx, reply):
    judge = ScriptedJudge(reply)
    return dataclasses.replace(ctx, judge=judge), judge


def test_rating_is_the_expectation_over_the_grades(tiny):
    ctx, _ = with_judge(tiny, lambda r: (0.1, 0.0, 0.2, 0.3, 0.4))
    values = np.asarray(JudgeRating().prepare(ctx)(CANDIDATES))
    np.testing.assert_allclose(values, 0.1 + 0.2 * 3 + 0.3 * 4 + 0.4 * 5)


@pytest.mark.parametrize(
    ("text", "grade"),
    [
        ("4", 4),
        (" 4/5, because it is short", 4),
        ("**3**", 3),
        ("Reasons first. [[2]]", 2),
        ("[[4.5]]", 4.5),
        ("I would say the grade is 5.", 5),
        ("Score: 1", 1),
        ("10", None),
        ("7", None),
        ("45", None),
        ("Score: 4.25 points", 4.25),
        ("good", None),
        ("", None),
    ],
)
def test_written_grades_are_read(text, grade):
    assert rubric.parse_grade(text) == grade


@pytest.mark.parametrize(
    ("text", "value"),
    [("A", 1), ("**B**", 0), ("Example A is better", 1), ("both", None), ("An", None)],
)
def test_written_letters_are_read(text, value):
    assert rubric.parse_letter(text) == value


def test_the_request_shows_the_candidate_and_asks_for_five_choices(tiny):
    ctx, judge = with_judge(tiny, lambda r: "3")
    JudgeRating().prepare(ctx)(CANDIDATES[:1])
    (request,) = judge.asked[0]
    assert request.choices == ("1", "2", "3", "4", "5")
    assert CANDIDATES[0].instruction in request.messages[1][1]
    assert CANDIDATES[0].response in request.messages[1][1]
    assert request.answers == (CANDIDATES[0].response,)


def test_an_unreadable_reply_is_asked_for_again_and_alone(tiny):
    def reply(request):
        first = request.id.endswith("candidate-1") and len(request.messages) == 2
        return "hard to tell" if first else "4"

    ctx, judge = with_judge(tiny, reply)
    np.testing.assert_array_equal(JudgeRating().prepare(ctx)(CANDIDATES), 4.0)
    assert [len(asked) for asked in judge.asked] == [4, 1]
    assert judge.asked[1][0].messages[2] == ("assistant", "hard to tell")


def test_a_reply_that_stays_unreadable_stops_with_the_candidates_name(tiny):
    ctx, judge = with_judge(tiny, lambda r: "no idea" if "candidate-2" in r.id else "4")
    with pytest.raises(UserError, match=r"judge:candidate-2.*'no idea' in 3 attempts") as error:
        JudgeRating(retries=2).prepare(ctx)(CANDIDATES)
    assert "\n" not in str(error.value)
    assert len(judge.asked) == 3


def test_a_run_without_a_judge_is_told_so(tiny):
    alone = dataclasses.replace(tiny, judge=None)
    for method in (JudgeRating(), JudgePairwise()):
        with pytest.raises(UserError, match=r"set judge\.kind"):
            method.prepare(alone)


def test_a_judge_that_always_prefers_the_first_prefers_nobody(tiny):
    ctx, judge = with_judge(tiny, lambda r: (0.9, 0.1))
    got = as_scores(JudgePairwise().prepare(ctx)(CANDIDATES), 4)
    np.testing.assert_allclose(got.value, 0.5)
    assert len(judge.asked[0]) == 4 * 2 * 2


def test_pairwise_scores_are_shares_of_comparisons_won(tiny):
    def longer(request):
        first, second = request.answers
        return "A" if len(first) >= len(second) else "B"

    ctx, _ = with_judge(tiny, longer)
    method = JudgePairwise(opponents=8)
    short = dataclasses.replace(CANDIDATES[0], response="")
    long = dataclasses.replace(CANDIDATES[1], response="x" * 1000)
    got = as_scores(method.prepare(ctx)([short, long]), 2)
    np.testing.assert_allclose(got.value, [0.0, 1.0])


def test_siblings_meet_the_same_opponents_their_own_seed_prompt_first(tiny):
    ctx, judge = with_judge(tiny, lambda r: "A")
    related = dataclasses.replace(tiny.warmup[5], group="candidate-group-0")
    ctx = dataclasses.replace(ctx, warmup=[*tiny.warmup[:5], related, *tiny.warmup[6:]])
    JudgePairwise(opponents=3).prepare(ctx)(CANDIDATES[:2])
    met = [
        {r.id.split(":")[2] for r in judge.asked[0] if r.id.split(":")[1] == c.id}
        for c in CANDIDATES[:2]
    ]
    assert met[0] == met[1]
    assert related.id in met[0]


def test_self_reward_is_the_expectation_under_the_students_own_probabilities(tiny):
    student, example = tiny.student, CANDIDATES[0]
    prompt = models.chat_prompt(student.tokenizer, rubric.grading(rubric.ADDITIVE, example))
    ids = student.tokenizer(prompt, add_special_tokens=False).input_ids
    grades = [student.tokenizer(g, add_special_tokens=False).input_ids for g in rubric.GRADES]
    rows = [Encoded((*ids, *own), ((len(ids), len(ids) + len(own)),)) for own in grades]
    likelihood = [math.exp(-float(student.loss(batch_of(student, [r])).detach())) for r in rows]
    expected = sum(k * p for k, p in enumerate(likelihood, 1)) / sum(likelihood)
    got = as_scores(SelfReward().prepare(tiny)([example]), 1)
    assert got.value[0] == pytest.approx(expected, rel=1e-5)


def test_self_reward_names_an_example_that_does_not_fit(tiny):
    long = dataclasses.replace(
        CANDIDATES[0], response="x" * models.context_length(tiny.student.model)
    )
    with pytest.raises(UserError, match="'candidate-0' with the rubric has"):
        SelfReward().prepare(tiny)([long])

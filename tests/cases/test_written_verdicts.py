"""Written verdicts, as judges of every kind write them; the right value stands beside each."""

import pytest

from influbench.evaluation.suites import alpaca_eval, head_to_head, mt_bench
from influbench.judging import Reply, rubric, written


def said(text: str) -> Reply:
    return Reply(text=text, probabilities=None, prompt_tokens=1, completion_tokens=1)


@pytest.mark.parametrize(
    ("text", "grade"),
    [
        ("Good. Rating: [[9]]", 9),
        ("<think>\n[[1]] is worst. A first guess: [[3]].\n</think>\n\nGood. Rating: [[9]]", 9),
        ("Rating: [[3]] at first.\n</think>\nRating: [[9]]", 9),  # the template opened the thought
        ("<think>\nRating: [[3]] would be", None),
        ("<think>a</think> So. <think> Rating: [[3]]", None),
        ("<|channel|>analysis<|message|>[[2]]<|end|><|channel|>final<|message|>[[9]]", 9),
        ("[THINK]Rating: [[2]][/THINK]Rating: [[9]]", 9),
        ("<THINKING budget='5'>[[2]]</THINKING> [[9]]", 9),
        ("It never closes its <think> tag. Rating: [[2]]", 2),  # about thoughts, no thought
        ('The form asked for is "Rating: [[5]]". It cites [2] and is complete. Rating: [[9]]', 9),
        ('Rating: [[9]], in the form "Rating: [[5]]" as asked.', 9),
        ("I was asked for '[[rating]]' such as '[[5]]'. Rating: 9", 9),
        ('I was asked for "Rating: [[5]]".', None),
        ('"Rating: [[5]]"', 5),
        ('My rating is: "[[5]]"', 5),
        ('The 5" screen it names is right. Rating: [[9]], for its "style"', 9),
        ("The answer cites sources [1] and [2] rightly. Rating: 9/10", 9),
        ("The answer cites sources [1] and [2] rightly.", None),
        ("Rating: [[3]] for the first draft; all in all, Rating: [[7]]", 7),
        ("Good. **Rating: [[ 8 ]]**", 8),
        ("Good. Rating: [[8/10]]", 8),
        ("Rating: [[8]] out of [[10]]", 8),
        ("Rating: [[4/5]]", None),
        ("Rating (1-10): 8", 8),
        ("On the scale 1-10\n\n**Score** = 7.5", 7.5),
        ("Rating: 1-10", None),
        ("A rating of 1 would be too low.", None),
        ("### Rating\n8", 8),
        ("Score\n1. It is clear.\n2. It is right.", None),
        ('{"reason": "cites [1]. Rating: [[3]]", "rating": 8}', 8),
        ('```json\n{"score": "8/10"}\n```', 8),
        ("Rating: [[11]]", None),
        ("Rating: [[-3]]", None),
        ("9", 9),
        ("9.", 9),
        ("1 would be wrong", None),
        ("", None),
    ],
)
def test_the_grade_of_ten(text, grade):
    assert mt_bench.grade_of(said(text)) == grade


@pytest.mark.parametrize(
    ("text", "grade"),
    [
        ("1. clear instruction 2. correct response. Grade: 4", 4),
        ("1. clear instruction\n2. correct response\n\nGrade: 4", 4),
        ("1. clear instruction\n2. correct response", None),
        ("4 - good: clear instruction", 4),
        ("4/5, small flaws", 4),
        ("4\n\nThe instruction is clear.", 4),
        ("The instruction is clear.\n\n4", 4),
        ("<think>5? no: 2</think>4", 4),
        ("Grade: 8/10", None),
        ("Grades go from 1 to 5.", None),
    ],
)
def test_the_grade_of_five(text, grade):
    assert rubric.parse_grade(text) == grade


LETTERS = [
    ("[[B]]", "B"),
    ("<think>If it were shorter I would say [[A]], but it is wrong.</think> Second: [[B]]", "B"),
    ("<think>If it were shorter I would say [[A]]", None),
    ('"[[A]]" if A is better, "[[B]]" if B is better: my verdict is [[B]]', "B"),
    ("First [[A]]; no, on reflection [[B]]", "B"),
    ("B", "B"),
    ("**B**.", "B"),
    ("B: it is right", "B"),
    ("It is right.\n\nB", "B"),
    ("Final verdict: **B**", "B"),
    ('{"reason": "A is long: [[A]]", "verdict": "B"}', "B"),
    ('It says "Verdict: A" there.', None),
    ("The better one is B, since it is right.", "B"),
    ("Example B is better", "B"),
    ("A clear win for Example B", None),
    ("A is worse than B", None),
    ("Both", None),
    ("An answer", None),
    ("Grade A work", None),
    ("", None),
]


@pytest.mark.parametrize(("text", "letter"), LETTERS)
def test_the_letter(text, letter):
    assert written.choice(text, ("A", "B")) == letter
    assert head_to_head.parse(said(text)) == letter
    first = {"A": 1.0, "B": 0.0, None: None}[letter]
    assert rubric.parse_letter(text) == first
    # The same words about the outputs that are called m (shown first) and M.
    other = text.replace("[[A]]", "[[m]]").replace("[[B]]", "[[M]]").replace('"B"', '"M"')
    if other != text:
        assert alpaca_eval.first_wins(said(other)) == first


@pytest.mark.parametrize(
    ("text", "first"),
    [("m", 1.0), ("M", 0.0), ("**M**", 0.0), ("Model m", 1.0), ("I'm unsure", None), ("Mm", None)],
)
def test_names_that_differ_in_case_only(text, first):
    assert alpaca_eval.first_wins(said(text)) == first

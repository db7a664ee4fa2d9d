import random

import pytest
import torch
from rouge_score.rouge_scorer import RougeScorer

from influbench.data.records import SeedPrompt
from influbench.generation.attempts import Attempt, GenerationConfig
from influbench.generation.choosing import Chooser, Sampling, draw
from influbench.generation.instructions import (
    FilterConfig,
    Novelty,
    cleaned,
    parse,
    reason_to_drop,
    request,
)
from influbench.generation.stage import _next_prompts, _plan


def attempt(number: int, dropped: str = "") -> Attempt:
    return Attempt(
        id=str(number),
        group="g",
        teacher_prompt="p",
        raw_completion="c",
        instruction=f"own {number}",
        response="r",
        finished=True,
        dropped=dropped,
        prompt_ids=(),
        completion_ids=(),
    )


SEEDS = [SeedPrompt(id=f"s{i}", instruction=f"seed {i}") for i in range(10)]


@pytest.mark.parametrize(
    ("text", "prefilled", "unclosed", "found"),
    [
        ("So: <instruction> a\nb </instruction> x", False, False, "a\nb"),
        ("<instruction>a", False, False, None),
        ("<instruction>a", False, True, "a"),
        ("a</instruction>", False, True, None),
        ("a</instruction>", True, False, "a"),
        ("again <instruction>a</instruction>", True, True, "a"),
        ("a\n", True, True, "a"),
        ("a", True, False, None),
        ("</instruction>", True, False, ""),
    ],
)
def test_parse(text: str, prefilled: bool, unclosed: bool, found: str | None):
    assert parse(text, prefilled=prefilled, unclosed=unclosed) == found


def test_every_filter_is_off_by_default_and_does_its_own_thing():
    none = FilterConfig()
    bad = "- Draw  NASA's\nLogo"
    assert cleaned(bad, none) == bad
    assert reason_to_drop(bad, none) == ""
    assert cleaned(bad, FilterConfig(collapse_whitespace=True)) == "- Draw NASA's Logo"
    assert cleaned("explain NASA", FilterConfig(capitalize=True)) == "Explain nasa"
    assert reason_to_drop(bad, FilterConfig(drop_keywords=True)) == "keyword"
    assert reason_to_drop("Explain drawing", FilterConfig(drop_keywords=True)) == ""
    assert reason_to_drop(bad, FilterConfig(drop_odd_start=True)) == "odd_start"
    assert reason_to_drop("été", FilterConfig(drop_odd_start=True)) == "odd_start"
    long = FilterConfig(drop_long=True)
    assert [reason_to_drop("x" * n, long) for n in (5, 6, 400, 401)] == ["length", "", "", "length"]
    assert reason_to_drop(None, none) == "unparseable"
    assert reason_to_drop("", none) == "empty"


def test_novelty_is_rouge_l_above_the_threshold():
    novelty = Novelty(0.7)
    novelty.add("one two three four five six seven eight nine ten")
    # Ten words each, seven in common and in order: F = 0.7, not above it.
    assert not novelty.known("one two three four five six seven a b c")
    assert novelty.known("one two three four five six seven eight b c")
    # The same words in the opposite order share all of them, but a subsequence of one only.
    assert not novelty.known("ten nine eight seven six five four three two one")


def test_skipping_hopeless_pairs_changes_no_verdict():
    chance = random.Random(1)
    scorer = RougeScorer(["rougeL"])
    texts = [
        " ".join(chance.choices(["a", "B-c", "don't", "É", "3.5", "f"], k=chance.randint(1, 9)))
        for _ in range(120)
    ]
    for threshold in (0.3, 0.5, 0.7):
        novelty = Novelty(threshold)
        for number, text in enumerate(texts):
            best = max(
                (scorer.score(t, text)["rougeL"].fmeasure for t in texts[:number]), default=0
            )
            assert novelty.known(text) == (best > threshold)
            novelty.add(text)


def test_request_shows_every_shot_in_tags():
    text = request(["a", "b"])
    assert "<instruction>a</instruction>\n<instruction>b</instruction>" in text


def test_plans_use_own_shots_once_there_are_enough():
    cfg = GenerationConfig(num_shots=8, num_own_shots=2)
    early = _plan(cfg, SEEDS, [attempt(0)], "t", 3)
    late = _plan(cfg, SEEDS, [attempt(0), attempt(1), attempt(2)], "t", 3)
    assert [sum(s.startswith("own") for s in p.shots) for p in (early, late)] == [0, 2]
    for plan in (early, late):
        assert len(set(plan.shots)) == 8
        assert "seed 3" in plan.shots
        assert (plan.id, plan.group) == ("t-00003", "s3#0")
    assert _plan(cfg, SEEDS, [], "t", 13).group == "s3#1"
    assert _plan(cfg, SEEDS, [], "t", 13).shots != early.shots
    assert _plan(cfg, SEEDS, [], "u", 3).shots != early.shots


def test_chunks_shrink_to_what_is_still_needed():
    cfg = GenerationConfig(num_candidates=100, prompts_per_chunk=8)
    assert _next_prompts(cfg, 100, []) == 8
    half = [attempt(i, "duplicate" if i % 2 else "") for i in range(32)]
    assert _next_prompts(cfg, 6, half) == 3  # 6 pairs, half of 4 siblings each


def test_one_line_needs_prefill():
    with pytest.raises(ValueError, match="one_line needs prefill"):
        GenerationConfig(one_line=True)


def test_what_can_change_an_answer_is_part_of_the_identity():
    base = GenerationConfig().digest()
    assert GenerationConfig(batch_size=4).digest() != base
    assert GenerationConfig(prompts_per_chunk=4).digest() != base
    assert GenerationConfig(device="cpu").digest() == base


def test_draw_inverts_the_cumulative_nucleus():
    logits = torch.tensor([0.1, 0.4, 0.2, 0.3]).log().repeat(6, 1)
    uniform = torch.tensor([0.0, 0.43, 0.45, 0.76, 0.79, 0.999])
    # Nucleus of 0.85: tokens 1, 3, 2 with 0.4, 0.3, 0.2 of 0.9.
    assert draw(logits, 0.85, uniform).tolist() == [1, 1, 3, 3, 2, 2]
    # Whole distribution, in the order of the vocabulary.
    assert draw(logits, 1.0, uniform).tolist() == [0, 1, 1, 3, 3, 3]


def test_draw_finds_a_nucleus_wider_than_the_head():
    logits = torch.zeros(2, 1000)
    logits[1, 7] = 20.0
    tokens = [draw(logits, 0.9, torch.full((2,), u)).tolist() for u in (0.0, 0.5005, 0.9999)]
    assert [row[1] for row in tokens] == [7, 7, 7]
    assert [row[0] for row in tokens] == [0, 450, 899]


def test_draws_follow_the_distribution():
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log().repeat(20000, 1)
    uniform = torch.rand(20000, generator=torch.Generator().manual_seed(0))
    share = torch.bincount(draw(logits, 0.9, uniform), minlength=4) / 20000
    expected = torch.tensor([0.5, 0.3, 0.15, 0.0]) / 0.95
    assert torch.allclose(share, expected, atol=0.012)


def chooser(sampling: Sampling, prompts: list[list[int]], keys: list[str], vocabulary: int):
    device = torch.device("cpu")
    return Chooser.start(sampling, prompts, keys, vocabulary=vocabulary, device=device)


def test_penalties_follow_vllm():
    sampling = Sampling(
        temperature=0, presence_penalty=1, frequency_penalty=0.5, repetition_penalty=2
    )
    ours = chooser(sampling, [[1, 2]], ["k"], 5)
    # Prompt tokens get the repetition factor only, a negative logit the other way round.
    assert ours.choose(torch.tensor([[1.0, 4.0, -1.0, 2.1, 0.0]])).tolist() == [3]
    # Token 3 written once: (4 / 2) - 1 - 0.5 is less than 0.6, but more than 0.4.
    logits = torch.tensor([[0.4, 0.9, -4.0, 4.0, 0.0]])
    assert ours.choose(logits.clone()).tolist() == [3]
    # Twice: presence once, frequency each time: (4 / 2) - 1 - 1 = 0, less than 0.4.
    assert ours.choose(logits.clone()).tolist() == [1]


def test_a_rows_numbers_depend_on_its_key_alone_and_rows_may_leave():
    sampling = Sampling(temperature=1, presence_penalty=0.5)
    logits = torch.zeros(2, 5000)
    both = chooser(sampling, [[1]] * 2, ["a", "b"], 5000)
    one = chooser(sampling, [[1]], ["b"], 5000)
    first = both.choose(logits)
    assert first[1] == one.choose(logits[:1])[0]
    assert first[0] != first[1]
    both.keep(torch.tensor([1]))
    assert both.choose(logits[:1]).tolist() == one.choose(logits[:1]).tolist()

"""Pairs, listed by hand."""

import math

import pytest

from influbench.data.records import Candidate, Score
from influbench.errors import UserError
from influbench.loop.preferences import (
    PreferenceConfig,
    allowed_rules,
    build_pairs,
    check,
    difference_stderr,
)


def candidate(name, group="g", prompt="P", raw=None, instruction=None):
    return Candidate(
        id=name,
        group=group,
        teacher_prompt=prompt,
        raw_completion=raw if raw is not None else f"raw {name}",
        instruction=instruction or f"do {name}",
        response="ok",
    )


def pairs_of(rule, values, **options):
    """Ids of (chosen, rejected) for one group of candidates named a, b, c …"""
    names = [chr(ord("a") + i) for i in range(len(values))]
    pairs = build_pairs(
        PreferenceConfig(rule=rule, **options),
        [candidate(n) for n in names],
        [Score(id=n, value=v) for n, v in zip(names, values, strict=True)],
    )
    return {(p.chosen_id, p.rejected_id) for p in pairs}


def test_sign_is_every_positive_against_every_negative():
    assert pairs_of("sign", [2.0, -1.0, 1.0, -3.0]) == {
        ("a", "b"), ("a", "d"), ("c", "b"), ("c", "d"),
    }  # fmt: skip
    assert len(pairs_of("sign", [1.0, 2.0, 3.0, -1.0])) == 3
    assert pairs_of("sign", [1.0, 2.0]) == set()


def test_a_score_of_exactly_zero_is_neither_positive_nor_negative():
    assert pairs_of("sign", [1.0, 0.0, -1.0]) == {("a", "c")}


def test_best_worst_is_one_pair_a_group():
    assert pairs_of("best_worst", [0.2, 0.9, 0.1, 0.5]) == {("b", "c")}
    assert pairs_of("best_worst", [1.0, 1.0, 1.0]) == set()


def test_rank_is_every_pair_of_different_scores():
    assert pairs_of("rank", [3.0, 1.0, 3.0]) == {("a", "b"), ("c", "b")}


def test_medium_is_the_half_of_all_pairs_whose_margins_are_in_the_middle():
    # Margins 1, 2, 4 of neighbours, 3, 6 and 7 of the others: 2, 3 and 4 are in the middle.
    assert pairs_of("medium", [0.0, 1.0, 3.0, 7.0]) == {("c", "a"), ("c", "b"), ("d", "c")}
    assert pairs_of("medium", [0.0, 1.0]) == {("b", "a")}
    assert pairs_of("medium", [1.0, 1.0]) == set()


def test_medium_looks_at_the_margins_of_all_groups_together():
    wide, narrow = ([candidate(f"{g}{i}", group=g) for i in range(3)] for g in "wn")
    values = {"w": (0.0, 10.0, 30.0), "n": (0.0, 1.0, 3.0)}
    scores = [
        Score(id=c.id, value=v)
        for c, v in zip([*wide, *narrow], [*values["w"], *values["n"]], strict=True)
    ]
    got = build_pairs(PreferenceConfig(rule="medium"), [*wide, *narrow], scores)
    assert sorted(pair.margin for pair in got) == [2.0, 3.0, 10.0]


@pytest.mark.parametrize("rule", ["sign", "best_worst", "rank", "medium"])
def test_a_difference_at_the_noise_floor_is_a_tie(rule):
    assert pairs_of(rule, [0.25, -0.25], noise_floor=0.5) == set()
    assert pairs_of(rule, [0.25, -0.25], noise_floor=0.49) == {("a", "b")}


def test_margin_uses_the_paired_difference_where_references_are_shared():
    """A shared offset per reference item makes both errors large and their difference exact."""
    offsets = (10.0, -10.0, 3.0, -3.0)
    a = Score(id="a", value=1.0, stderr=5.0, per_reference=tuple(1.0 + o for o in offsets))
    b = Score(id="b", value=0.5, stderr=5.0, per_reference=tuple(0.5 + o for o in offsets))
    assert difference_stderr(a, b) == pytest.approx(0.0, abs=1e-12)
    cfg = PreferenceConfig(rule="margin")
    two = [candidate("a"), candidate("b")]
    assert len(build_pairs(cfg, two, [a, b])) == 1
    bare = [Score(id=s.id, value=s.value, stderr=s.stderr) for s in (a, b)]
    assert difference_stderr(*bare) == pytest.approx(math.sqrt(50))
    assert build_pairs(cfg, two, bare) == []


def test_the_paired_standard_error_by_hand():
    a = Score(id="a", value=2.0, per_reference=(1.0, 3.0))
    b = Score(id="b", value=0.0, per_reference=(0.0, 0.0))
    # Differences 1 and 3: standard deviation sqrt(2), over sqrt(2) items.
    assert difference_stderr(a, b) == pytest.approx(1.0)
    two = [candidate("a"), candidate("b")]
    assert build_pairs(PreferenceConfig(rule="margin", margin_stderrs=2.0), two, [a, b]) == []
    assert len(build_pairs(PreferenceConfig(rule="margin", margin_stderrs=1.9), two, [a, b])) == 1


def test_margin_without_standard_errors_is_refused():
    with pytest.raises(UserError, match="margin needs standard errors"):
        pairs_of("margin", [1.0, 0.0])


def test_pairs_stay_within_group_and_teacher_prompt():
    candidates = [
        candidate("a", group="g1"),
        candidate("b", group="g2"),
        candidate("c", group="g1", prompt="other"),
        candidate("d", group="g1"),
    ]
    scores = [Score(id=c.id, value=v) for c, v in zip(candidates, (4, 3, 2, 1), strict=True)]
    pairs = build_pairs(PreferenceConfig(rule="rank"), candidates, scores)
    assert [(p.chosen_id, p.rejected_id) for p in pairs] == [("a", "d")]
    assert pairs[0].prompt == "P"
    assert (pairs[0].chosen, pairs[0].rejected) == ("raw a", "raw d")
    assert pairs[0].margin == 3.0


def test_identical_completions_are_never_paired_and_best_worst_takes_the_next():
    candidates = [candidate("a", raw="same"), candidate("b", raw="same"), candidate("c")]
    scores = [Score(id="a", value=3.0), Score(id="b", value=0.0), Score(id="c", value=1.0)]
    pairs = build_pairs(PreferenceConfig(rule="best_worst"), candidates, scores)
    assert [(p.chosen_id, p.rejected_id) for p in pairs] == [("a", "c")]
    assert build_pairs(PreferenceConfig(rule="rank"), candidates[:2], scores[:2]) == []


def test_scores_are_joined_by_id_not_by_position():
    candidates = [candidate("a"), candidate("b")]
    scores = [Score(id="b", value=-1.0), Score(id="a", value=1.0)]
    assert build_pairs(PreferenceConfig(), candidates, scores)[0].chosen_id == "a"


@pytest.mark.parametrize(
    ("names", "scored", "message"),
    [
        ("ab", "a", "id 'b' has no score"),
        ("a", "ab", "id 'b' is not among the candidates"),
        ("aa", "a", "got 'a' twice"),
        ("a", "aa", "got 'a' twice"),
    ],
)
def test_different_id_sets_are_the_users_mistake(names, scored, message):
    with pytest.raises(UserError, match=message):
        build_pairs(
            PreferenceConfig(),
            [candidate(n) for n in names],
            [Score(id=n, value=1.0) for n in scored],
        )


def three_families():
    """Families of 3, 2 and 2 siblings; the first has by far the largest margins."""
    values = {"a1": 900, "a2": 500, "a3": 100, "b1": 2, "b2": 1, "c1": 0.2, "c2": 0.1}
    candidates = [candidate(n, group=n[0], prompt=n[0]) for n in values]
    return candidates, [Score(id=n, value=v) for n, v in values.items()]


def test_equal_count_takes_every_family_before_any_second_pair():
    cfg = PreferenceConfig(rule="rank", equal_count=3)
    pairs = build_pairs(cfg, *three_families())
    assert [(p.chosen_id, p.rejected_id) for p in pairs] == [
        ("a1", "a3"), ("b1", "b2"), ("c1", "c2"),
    ]  # fmt: skip


def test_equal_count_keeps_the_same_families_whatever_the_unit_of_the_scores():
    candidates, scores = three_families()
    squeezed = [Score(id=s.id, value=math.atan(s.value) + s.value * 1e-9) for s in scores]
    for count in (1, 2, 4):
        cfg = PreferenceConfig(rule="rank", equal_count=count)
        kept = [{p.group for p in build_pairs(cfg, candidates, s)} for s in (scores, squeezed)]
        assert kept[0] == kept[1]
        assert len(build_pairs(cfg, candidates, scores)) == count


def test_too_few_pairs_for_equal_count_is_an_error():
    with pytest.raises(UserError, match="equal_count=6 but rule 'rank' gives only 5"):
        build_pairs(PreferenceConfig(rule="rank", equal_count=6), *three_families())


def test_the_order_of_the_candidates_cannot_change_which_pairs_are_kept():
    candidates = [candidate(n) for n in "abcd"]
    scores = [Score(id=n, value=v) for n, v in zip("abcd", (5, 5, 1, 1), strict=True)]
    cfg = PreferenceConfig(rule="best_worst")
    once = build_pairs(cfg, candidates, scores)
    assert len(once) == 1
    assert build_pairs(cfg, candidates[::-1], scores[::-1]) == once


def test_rules_that_a_scale_allows():
    assert "sign" not in allowed_rules("rank")
    assert "sign" in allowed_rules("nats")
    check("sign", "signed", False)
    check("margin", "nats", True)
    with pytest.raises(UserError, match="scale 'rank'"):
        check("sign", "rank", True)
    with pytest.raises(UserError, match="standard errors"):
        check("margin", "nats", False)


def test_differences_within_the_measured_noise_are_ties_unless_a_setting_says_otherwise():
    candidates = [candidate("a"), candidate("b")]
    scores = [Score(id="a", value=1.0), Score(id="b", value=-1.0)]
    rule, strict = PreferenceConfig(), PreferenceConfig(noise_floor=0.0)
    assert len(build_pairs(rule, candidates, scores)) == 1
    assert len(build_pairs(rule, candidates, scores, 1.9)) == 1
    assert build_pairs(rule, candidates, scores, 2.0) == []
    assert len(build_pairs(strict, candidates, scores, 2.0)) == 1

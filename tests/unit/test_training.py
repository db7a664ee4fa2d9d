import dataclasses
from collections import Counter
from itertools import chain

import pytest
from pydantic import ValidationError

from influbench.data.records import Example, Pair
from influbench.errors import UserError
from influbench.models.tiny import build_tokenizer
from influbench.training import SFTConfig, WarmupConfig, trainer, warming
from influbench.training.dpo import split
from influbench.training.pair_tokens import tokenise
from influbench.training.settings import DPOStageConfig


def pair(
    number: int,
    group: str,
    prompt: str = "Write a task: ",
    chosen: str = "sort a list",
    rejected: str = "hi",
) -> Pair:
    return Pair(
        id=f"p{number}",
        group=group,
        prompt=prompt,
        chosen=chosen,
        rejected=rejected,
        chosen_id="a",
        rejected_id="b",
        margin=1.0,
    )


PAIRS = [pair(i, f"g{i % 10}") for i in range(30)]


@pytest.mark.parametrize(("share", "groups"), [(0.0, 0), (0.01, 1), (0.3, 3), (0.99, 9)])
def test_held_out_pairs_share_no_group_with_those_learned(share: float, groups: int) -> None:
    learn, held = split(PAIRS, share, seed=0)
    assert len({p.group for p in held}) == groups
    assert {p.group for p in held}.isdisjoint(p.group for p in learn)
    assert Counter(p.id for p in [*learn, *held]) == Counter(p.id for p in PAIRS)


def test_the_split_follows_the_seed_and_not_the_order() -> None:
    _, held = split(PAIRS, 0.3, seed=0)
    _, again = split(PAIRS[::-1], 0.3, seed=0)
    _, other = split(PAIRS, 0.3, seed=1)
    assert {p.group for p in held} == {p.group for p in again} != {p.group for p in other}


def test_a_single_group_is_learned_from() -> None:
    learn, held = split([pair(0, "g"), pair(1, "g")], 0.5, seed=0)
    assert len(learn) == 2
    assert held == []


def test_a_pair_of_texts_is_tokenised_in_its_place_and_gets_no_end_of_turn() -> None:
    tokenizer = build_tokenizer()
    got = tokenise(tokenizer, pair(0, "g", prompt="<|im_start|>user\nhi", chosen="yes"), 100)
    special = [tokenizer.bos_token_id, tokenizer.eos_token_id]
    assert [i for i in got.prompt if i in special] == special[:1]  # the template's, not one more
    assert tokenizer.decode(got.prompt) == "<|im_start|>user\nhi"
    assert tokenizer.decode(got.chosen) == "yes"
    assert got.rejected[-1] != special[1]
    assert not got.cut


def test_dpo_takes_the_ids_that_were_sampled_and_not_those_of_the_text() -> None:
    sampled = {"prompt_ids": (1, 5, 6), "chosen_ids": (7, 8, 2), "rejected_ids": (9,)}
    got = tokenise(build_tokenizer(), dataclasses.replace(pair(0, "g"), **sampled), 100)
    assert (got.prompt, got.chosen, got.rejected) == ([1, 5, 6], [7, 8, 2], [9])


def test_a_completion_is_cut_at_the_length_and_said_to_be() -> None:
    tokenizer = build_tokenizer()
    got = tokenise(tokenizer, pair(0, "g", prompt="12345678", chosen="abcd", rejected="x"), 10)
    assert tokenizer.decode(got.chosen) == "ab"
    assert tokenizer.decode(got.rejected) == "x"
    assert got.cut


def test_a_prompt_without_room_for_an_answer_is_refused() -> None:
    with pytest.raises(UserError, match=r"pair 'p0' has 8 tokens, expected fewer than 8"):
        tokenise(build_tokenizer(), pair(0, "g", prompt="12345678"), 8)


def test_batches_of_the_warm_up_cover_each_epoch_once_in_an_order_of_its_own() -> None:
    examples = [Example(id=f"e{i}", instruction="a", response="b") for i in range(7)]
    cfg = WarmupConfig(batch_size=3, epochs=2)
    batches = [[e.id for e in batch] for batch in warming._batches(cfg, examples)]
    assert [len(b) for b in batches] == [3, 3, 1, 3, 3, 1]
    first, second = (list(chain(*half)) for half in (batches[:3], batches[3:]))
    assert sorted(first) == sorted(second) == [e.id for e in examples]
    assert first != second
    assert batches == [[e.id for e in b] for b in warming._batches(cfg, examples[::-1])]


@pytest.mark.parametrize(("batch", "most", "got"), [(32, 4, 4), (6, 4, 3), (7, 4, 1), (2, 8, 2)])
def test_rows_in_one_pass_divide_the_batch(batch: int, most: int, got: int) -> None:
    assert trainer.divisor(batch, most) == got


def test_optimizer_steps_count_the_last_smaller_batch() -> None:
    assert trainer.optimizer_steps(SFTConfig(batch_size=32, epochs=2), 65) == 6


def test_defaults_are_the_papers() -> None:
    sft, dpo, warmup = SFTConfig(), DPOStageConfig(), WarmupConfig()
    assert (sft.learning_rate, sft.batch_size, sft.epochs, sft.max_length) == (5e-6, 32, 1, 1024)
    assert (dpo.learning_rate, dpo.batch_size, dpo.beta, dpo.held_out) == (1e-6, 2, 0.1, 0.01)
    assert (warmup.learning_rate, warmup.clip_norm) == (5e-6, 1.0)
    assert sft.schedule.min_ratio * sft.learning_rate == pytest.approx(5e-9)


def test_what_cannot_change_the_answer_is_outside_the_identity() -> None:
    slow = SFTConfig(device="cpu", checkpoint_seconds=1, micro_batch=1)
    assert slow.identity() == SFTConfig().identity()
    assert SFTConfig(seed=1).identity() != SFTConfig().identity()


def test_a_typo_is_refused() -> None:
    with pytest.raises(ValidationError, match="lerning_rate"):
        SFTConfig.model_validate({"lerning_rate": 1e-5})

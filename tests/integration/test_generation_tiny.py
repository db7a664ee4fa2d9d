from dataclasses import replace
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from influbench import generation, models
from influbench.data.records import Answer, Candidate, ModelRef, Question, SeedPrompt
from influbench.errors import UserError
from influbench.evaluation import answers
from influbench.evaluation.answers import AnswerConfig
from influbench.evaluation.settings import AnswerSampling
from influbench.generation import recorded, sampling
from influbench.generation.attempts import GenerationConfig
from influbench.generation.decoding import Reader
from influbench.generation.recorded import FixedStep, Steps, size_of
from influbench.generation.sampling import Sampling, complete
from influbench.models import LoadedModel
from influbench.store import Meter, Store, Work, passes
from influbench.student import load_student
from influbench.terminal.progress import SilentProgress

SEEDS = [SeedPrompt(id=f"s{i}", instruction=f"Tell me about {w}.") for i, w in enumerate("abcde")]
CFG = GenerationConfig(
    num_candidates=10,
    num_shots=3,
    num_own_shots=1,
    prompts_per_chunk=2,
    instructions_per_seed=3,
    prefill=True,
    one_line=True,
    instruction=Sampling(temperature=2.0, max_new_tokens=120),
    response=Sampling(temperature=1.0, max_new_tokens=8),
)


@pytest.fixture(scope="module")
def teacher() -> ModelRef:
    return models.resolve("tiny")


@pytest.fixture(scope="module")
def tiny(teacher: ModelRef) -> LoadedModel:
    return models.load(teacher, device="cpu")


def texts(tiny: LoadedModel, prompts: list[str], ids: list[str], batch_size: int) -> list[str]:
    cfg = Sampling(temperature=1.0, top_p=0.95, presence_penalty=0.5, max_new_tokens=12)
    written = complete(
        *tiny, prompts, ids=ids, seed=1, sampling=cfg, batch_size=batch_size, stop=("zz",)
    )
    return [completion.text for completion in written]


def test_a_row_does_not_depend_on_its_companions(tiny: LoadedModel):
    prompts = ["short", "a rather longer prompt", "short", "middling one", "short"]
    ids = list("abcde")
    together = texts(tiny, prompts, ids, 8)
    assert together == texts(tiny, prompts, ids, 2)
    assert together == [texts(tiny, [p], [i], 1)[0] for p, i in zip(prompts, ids, strict=True)]
    assert together[0] != together[2]  # same prompt, another id
    backwards = texts(tiny, prompts[::-1], ids[::-1], 8)
    assert backwards[::-1] == together


def test_greedy_is_the_models_own_greedy(tiny: LoadedModel):
    model, tokenizer = tiny
    prompt = "hello there"
    ids = tokenizer(prompt, add_special_tokens=False, return_tensors="pt").input_ids
    for _ in range(10):
        with torch.no_grad():
            ids = torch.cat([ids, model(ids).logits[:, -1:].argmax(-1)], 1)
    expected = str(tokenizer.decode(ids[0, len(prompt) :]))
    cfg = Sampling(temperature=0, max_new_tokens=10)
    prompts = [prompt, "other, longer than it", prompt]
    found = complete(*tiny, prompts, ids=["a", "b", "c"], seed=0, sampling=cfg, batch_size=4)
    assert expected.startswith(found[0].text)
    assert found[0].finished or found[0].tokens == 10
    assert found[0] == found[2]


def test_a_stop_string_ends_a_row_and_stays(tiny: LoadedModel):
    cfg = Sampling(temperature=0, max_new_tokens=20)
    ids = {"ids": ["a"], "seed": 0, "sampling": cfg, "batch_size": 1}
    whole = complete(*tiny, ["abc"], **ids)[0]
    stop = whole.text[3:5]
    assert len(stop) == 2
    cut = complete(*tiny, ["abc"], stop=(stop,), **ids)[0]
    assert cut.text == whole.text[: whole.text.index(stop) + 2]
    assert cut.finished
    assert not complete(*tiny, ["abc"], **{**ids, "sampling": replace_tokens(cfg, 2)})[0].finished


def replace_tokens(cfg: Sampling, count: int) -> Sampling:
    return cfg.model_copy(update={"max_new_tokens": count})


def test_the_models_generation_settings_do_not_leak(tiny: LoadedModel):
    cfg = Sampling(temperature=0, max_new_tokens=16)
    ids = {"ids": ["a"], "seed": 0, "sampling": cfg, "batch_size": 1}
    before = complete(*tiny, ["abc"], **ids)
    own = tiny.model.generation_config
    own.repetition_penalty = 5.0
    try:
        assert complete(*tiny, ["abc"], **ids) == before
        assert tiny.model.generation_config is own
    finally:
        own.repetition_penalty = None


def several(
    tiny: LoadedModel,
    stop: tuple[str, ...] = tuple("e<at1rs o"),
    limit: int = 30,
    steps: Steps | None = None,
    temperature: float = 1.5,
) -> list:
    cfg = Sampling(temperature=temperature, presence_penalty=0.5, max_new_tokens=limit)
    prompts = [f"prompt {n % 5}" + "." * (n % 3) for n in range(24)]
    ids = [str(n) for n in range(24)]
    told = {"ids": ids, "seed": 3, "sampling": cfg, "batch_size": 12, "stop": stop}
    return complete(*tiny, prompts, **told, steps=steps)


@pytest.mark.parametrize("every", [2, 8, 64])
def test_looking_at_some_steps_only_writes_what_looking_at_all_does(
    tiny: LoadedModel, every: int, monkeypatch: pytest.MonkeyPatch
):
    usual = several(tiny)
    assert len({c.tokens for c in usual}) > 7  # rows end at many places
    assert {c.finished for c in usual} == {True, False}
    monkeypatch.setattr(sampling, "Reader", lambda model, pad: Reader(model, pad, every))
    assert several(tiny) == usual


def test_a_step_in_tensors_that_stay_where_they_are_writes_what_the_usual_one_does(
    tiny: LoadedModel,
):
    usual = several(tiny)
    kept = Steps(record=lambda step, _: step.run)
    assert several(tiny, steps=kept) == usual
    assert kept.recorded == 1  # two batches, one size
    assert several(tiny, steps=kept) == usual
    assert kept.recorded == 1  # a later call finds what the model left in the room, unseen


def test_a_recorded_step_does_not_depend_on_what_was_decoded_before(tiny: LoadedModel):
    def first(steps: Steps) -> list:
        return several(tiny, steps=steps, temperature=0.0)

    kept = Steps(record=lambda step, _: step.run)
    alone = first(kept)
    with torch.inference_mode():
        for layer in next(iter(kept._ready.values()))[0].cache.layers:
            assert isinstance(layer, recorded._Fixed)
            assert layer.keys is not None
            assert layer.values is not None
            layer.keys.fill_(float("nan"))
            layer.values.fill_(float("inf"))
    assert first(kept) == alone
    assert kept.recorded == 1


def test_a_step_that_sees_what_it_must_not_is_not_used(tiny: LoadedModel):
    usual = several(tiny)

    def blind(step: FixedStep, _: object):
        step.seen.fill_(True)
        return step.run

    steps = Steps(record=blind)
    with pytest.warns(UserWarning, match="without a CUDA graph: its logits were others"):
        assert several(tiny, steps=steps) == usual  # goes on without
    assert steps.recorded == 0


@pytest.mark.parametrize("rows", [1, 16, 17, 64, 300, 2000])
def test_the_room_of_a_batch_follows_from_its_size_alone(rows: int):
    room, places = size_of(rows, 290)
    assert room >= rows
    assert (room == rows) == (rows in (16, 64, 2000))
    assert places == 320


def test_rooms_that_were_used_longest_ago_go(tiny: LoadedModel, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(recorded, "MOST", 1)
    steps = Steps(record=lambda step, _: step.run)
    for limit in (30, 150, 30):
        assert several(tiny, limit=limit, steps=steps) == several(tiny, limit=limit)
        assert len(steps._ready) == 1
    assert steps.recorded == 3


def test_where_a_step_cannot_be_recorded_the_usual_one_goes_on_and_says_why_once(
    tiny: LoadedModel,
):
    usual = several(tiny)

    def refused(*_: object):
        raise RuntimeError("no graphs here\nnor there")

    with pytest.warns(UserWarning, match="without a CUDA graph: no graphs here$") as said:
        assert several(tiny, steps=Steps(record=refused)) == usual
    assert len(said) == 1  # of two batches


def test_a_batch_without_room_for_a_recorded_step_goes_on_and_the_next_tries_again(
    tiny: LoadedModel,
):
    usual, tries = several(tiny), 0

    def full(step: FixedStep, _: object):
        nonlocal tries
        tries += 1
        if tries == 1:
            raise torch.OutOfMemoryError("no memory")
        return step.run

    steps = Steps(record=full)
    with pytest.warns(UserWarning, match="without a CUDA graph: no memory"):
        assert several(tiny, steps=steps) == usual
    assert (tries, steps.recorded) == (2, 1)


def test_passes_of_recorded_steps_count_as_those_of_usual_ones_do(
    tiny: LoadedModel, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(sampling, "_end_tokens", lambda *_: [])  # no row leaves

    def positions(steps: Steps | None) -> int:
        meter = Meter()
        with meter.phase("write", models=[tiny.model]):
            several(tiny, steps=steps, stop=(), limit=16)
        (row,) = [row for row in meter.rows() if row.phase == "write"]
        return row.tokens

    def quiet(step: FixedStep, _: object):
        def replay() -> torch.Tensor:
            with passes.uncounted():  # a graph is replayed without the model's code
                return step.run()

        return replay

    steps = Steps(record=quiet)
    expected = positions(None)
    assert positions(steps) == expected
    assert positions(steps) == expected


def test_stop_strings_are_found_as_if_every_step_were_decoded(
    tiny: LoadedModel, monkeypatch: pytest.MonkeyPatch
):
    stops = ("</", "é", "a ", "\n")
    usual = several(tiny, stops)
    monkeypatch.setattr(sampling._End, "_may_be_last", lambda *_: True)
    assert several(tiny, stops) == usual


def test_a_batch_that_does_not_fit_is_written_in_halves(
    tiny: LoadedModel, monkeypatch: pytest.MonkeyPatch
):
    usual = several(tiny)
    decode, rows = Reader.decode, []

    def small(self, prompts, *more):
        rows.append(len(prompts))
        if len(prompts) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return decode(self, prompts, *more)

    monkeypatch.setattr(Reader, "decode", small)
    assert several(tiny) == usual
    assert rows == [12, 6, 3, 3, 3, 3, 3, 3, 3, 3]


def test_a_prompt_beyond_the_context_is_named(tiny: LoadedModel):
    room = models.context_length(tiny.model) - 24
    cfg = Sampling(max_new_tokens=24)
    prompts = ["x", "y" * (room + 1)]
    with pytest.raises(
        UserError, match=rf"'long': expected at most {room} tokens .*got {room + 1}"
    ):
        complete(*tiny, prompts, ids=["ok", "long"], seed=0, sampling=cfg, batch_size=2)


def run(root: Path, cfg: GenerationConfig, teacher: ModelRef) -> tuple[list[Candidate], dict]:
    entry = Store(root).run(generation.STAGE, cfg, SEEDS, teacher, "t")
    return entry.records("candidates", Candidate), entry.meta


def test_candidates_keep_their_promises(tmp_path: Path, teacher: ModelRef, tiny: LoadedModel):
    found, meta = run(tmp_path, CFG, teacher)
    assert len(found) == len({c.id for c in found}) == len({c.instruction for c in found}) == 10
    assert meta["attempts"] == meta["accepted"] + sum(meta["dropped"].values())
    assert meta["accepted"] == 10
    for candidate in found:
        number = int(candidate.id.split("-")[1])
        assert candidate.group == f"s{number % 5}#{number // 5}"
        assert SEEDS[number % 5].instruction in candidate.teacher_prompt
        assert candidate.teacher_prompt.endswith("assistant\n<instruction>")
        assert candidate.raw_completion.split("</instruction>")[0].strip() == candidate.instruction
        assert candidate.response
    later = [c for c in found if int(c.id.split("-")[1]) >= 2 * CFG.prompts_per_chunk]
    own = [c.instruction for c in found]
    assert all(any(text in c.teacher_prompt for text in own) for c in later)


def test_siblings_share_the_prompt_and_nothing_else(tmp_path: Path, teacher: ModelRef):
    found, _ = run(tmp_path, CFG, teacher)
    for group in {c.group for c in found}:
        siblings = [c for c in found if c.group == group]
        assert len({c.teacher_prompt for c in siblings}) == 1
        assert len({c.raw_completion for c in siblings}) == len(siblings)


def test_unfinished_responses_are_marked_and_learnt_without_an_end_of_turn(
    tmp_path: Path, teacher: ModelRef
):
    found, meta = run(tmp_path, CFG, teacher)
    unfinished = [c for c in found if not c.finished]
    assert unfinished
    assert meta["unfinished_responses"] == len(unfinished)
    student = load_student(teacher)
    end = student.tokenizer.eos_token_id
    assert isinstance(end, int)
    for candidate in found:
        row = student.encode(candidate.example())
        learnt = [row.ids[place] for place in row.learned]
        assert (learnt.count(end), learnt[-1] == end) == (
            (1, True) if candidate.finished else (0, False)
        )


def test_unfinished_responses_are_dropped_and_counted_where_a_run_says_so(
    tmp_path: Path, teacher: ModelRef
):
    cfg = CFG.model_copy(
        update={"unfinished": "drop", "num_candidates": 3, "attempts_per_candidate": 60}
    )
    found, meta = run(tmp_path, cfg, teacher)
    assert len(found) == 3
    assert all(c.finished for c in found)
    assert meta["dropped"]["unfinished_response"] == meta["unfinished_responses"] > 0


def test_what_the_teacher_is_asked_may_say_more_than_the_student_sees(
    tmp_path: Path, teacher: ModelRef, monkeypatch: pytest.MonkeyPatch
):
    asked: list[str] = []

    def listening(*args: object, **kwargs: object) -> list[sampling.Completion]:
        asked.extend(args[2])  # pyright: ignore[reportArgumentType]
        return complete(*args, **kwargs)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr("influbench.generation.sampling.complete", listening)
    cfg = CFG.model_copy(update={"response_request": "Briefly: {instruction}!"})
    found, _ = run(tmp_path, cfg, teacher)
    for candidate in found:
        assert any(f"Briefly: {candidate.instruction}!" in prompt for prompt in asked)
        assert "Briefly" not in candidate.instruction
    with pytest.raises(ValidationError, match="instruction"):
        GenerationConfig(response_request="Briefly!")


class Killed(BaseException):
    pass


def test_a_killed_stage_resumes_to_the_same_bytes(
    tmp_path: Path, teacher: ModelRef, monkeypatch: pytest.MonkeyPatch
):
    whole = Store(tmp_path / "a").run(generation.STAGE, CFG, SEEDS, teacher, "t")
    calls: list[int] = []

    def mortal(*args: object, **kwargs: object) -> list[sampling.Completion]:
        calls.append(1)
        if len(calls) == 4:
            raise Killed
        return complete(*args, **kwargs)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr("influbench.generation.sampling.complete", mortal)
    store = Store(tmp_path / "b")
    with pytest.raises(Killed):
        store.run(generation.STAGE, CFG, SEEDS, teacher, "t")
    resumed = store.run(generation.STAGE, CFG, SEEDS, teacher, "t")
    files = [entry.path / "candidates.jsonl" for entry in (whole, resumed)]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert whole.meta == resumed.meta


def test_other_seeds_and_salts_write_other_things(tmp_path: Path, teacher: ModelRef):
    base = {c.instruction for c in run(tmp_path, CFG, teacher)[0]}
    assert base.isdisjoint(
        c.instruction for c in run(tmp_path, CFG.model_copy(update={"seed": 1}), teacher)[0]
    )
    entry = Store(tmp_path).run(generation.STAGE, CFG, SEEDS, teacher, "u")
    assert base.isdisjoint(c.instruction for c in entry.records("candidates", Candidate))


def test_a_teacher_that_never_closes_the_tag_is_reported(tmp_path: Path, teacher: ModelRef):
    cfg = GenerationConfig(
        num_candidates=2,
        num_shots=3,
        attempts_per_candidate=4,
        instruction=Sampling(max_new_tokens=4),
    )
    with pytest.raises(UserError, match=r"got 0 in 8 attempts \(dropped: {'unparseable': 8}\)"):
        run(tmp_path, cfg, teacher)


def test_too_few_seed_prompts(tmp_path: Path, teacher: ModelRef):
    cfg = GenerationConfig(num_shots=6)
    with pytest.raises(UserError, match=r"at least num_shots = 6 seed prompts .* got 5 of 5"):
        run(tmp_path, cfg, teacher)


def test_generation_is_metered(tmp_path: Path, teacher: ModelRef):
    entry = Store(tmp_path).run(generation.STAGE, CFG, SEEDS, teacher, "t")
    rows = {row.phase: row for row in entry.ledger()}
    assert rows["instructions"].items == entry.meta["attempts"]
    # Siblings read their prompt once: fewer sequences forward than twice the attempts.
    assert 0 < rows["instructions"].forward_passes < 2 * entry.meta["attempts"]
    assert rows["responses"].items >= entry.meta["accepted"]


QUESTIONS = [
    Question(id="q1", category="math", turns=("one?",)),
    Question(id="q2", category="writing", turns=("two?", "and then?")),
    Question(id="q3", category="math", turns=("three?", "more?")),
]


def answer(root: Path, cfg: AnswerConfig, student: ModelRef) -> list[Answer]:
    entry = Store(root).run(answers.STAGE, cfg, QUESTIONS, student)
    return entry.records("answers", Answer)


def test_answers_enter_the_conversation(tmp_path: Path, teacher: ModelRef, tiny: LoadedModel):
    cfg = AnswerConfig(sampling=AnswerSampling(temperature=0, max_new_tokens=6))
    found = answer(tmp_path, cfg, teacher)
    assert [(a.id, a.category, len(a.responses)) for a in found] == [
        ("q1", "math", 1),
        ("q2", "writing", 2),
        ("q3", "math", 2),
    ]
    second = found[1]
    messages = [("user", "two?"), ("assistant", second.responses[0]), ("user", "and then?")]
    expected = complete(
        *tiny,
        [models.chat_prompt(tiny.tokenizer, messages)],
        ids=["x"],
        seed=0,
        sampling=cfg.sampling,
        batch_size=1,
    )
    assert second.responses[1] == expected[0].text.strip()


def test_temperatures_by_category(tmp_path: Path, teacher: ModelRef):
    greedy = AnswerConfig(sampling=AnswerSampling(temperature=0, max_new_tokens=6))
    mixed = greedy.model_copy(update={"temperatures": {"writing": 1.5}})
    first, second = (answer(tmp_path, cfg, teacher) for cfg in (greedy, mixed))
    assert (first[0], first[2]) == (second[0], second[2])
    assert first[1] != second[1]
    assert answer(tmp_path / "x", replace_seed(mixed, 1), teacher)[1] != second[1]


def replace_seed(cfg: AnswerConfig, seed: int) -> AnswerConfig:
    return cfg.model_copy(update={"seed": seed})


def test_answers_do_not_depend_on_resuming(tmp_path: Path, teacher: ModelRef):
    cfg = AnswerConfig(
        sampling=AnswerSampling(temperature=1.0, max_new_tokens=6), questions_per_chunk=1
    )
    work = Work(tmp_path, Meter(), SilentProgress(), "answer")
    answers.answer_questions(cfg, QUESTIONS[:2], teacher, work=work)  # the third was never reached
    answers.answer_questions(cfg, QUESTIONS, teacher, work=work)
    resumed = (tmp_path / "answers.jsonl").read_bytes()
    fresh = replace(work, path=tmp_path / "fresh", meta={})
    answers.answer_questions(cfg, QUESTIONS, teacher, work=fresh)
    assert resumed == (tmp_path / "fresh" / "answers.jsonl").read_bytes()


def test_an_instruction_may_have_several_responses_each_with_its_own_tokens(teacher, tmp_path):
    store = Store(tmp_path)
    found = {
        n: store.run(
            generation.STAGE,
            CFG.model_copy(update={"responses_per_instruction": n, "num_candidates": 7}),
            SEEDS,
            teacher,
            "t",
        )
        for n in (1, 3)
    }
    one, three = (entry.records("candidates", Candidate) for entry in found.values())
    assert len(three) == 7
    by_instruction: dict[str, list[Candidate]] = {}
    for candidate in three:
        by_instruction.setdefault(candidate.instruction, []).append(candidate)
    assert [len(siblings) for siblings in by_instruction.values()] == [3, 3, 1]
    tokenizer = models.load_tokenizer(teacher)
    for siblings in by_instruction.values():
        assert len({(c.response_prompt, c.response_prompt_ids, c.group) for c in siblings}) == 1
        assert len({c.raw_response for c in siblings}) == len(siblings)
        for candidate in siblings:
            assert candidate.instruction in candidate.response_prompt
            assert candidate.response == candidate.raw_response.strip()
            assert (
                tokenizer.decode(list(candidate.response_prompt_ids)) == candidate.response_prompt
            )
            written = str(tokenizer.decode(list(candidate.response_ids), skip_special_tokens=True))
            assert written == candidate.raw_response
    # The first response to an instruction is the one that it has alone.
    alone = {c.instruction: c.response for c in one}
    firsts = [by_instruction[i][0] for i in alone if i in by_instruction]  # later shots differ
    assert firsts
    assert [alone[c.instruction] for c in firsts] == [c.response for c in firsts]
    assert not any(c.response_prompt for c in one)
    assert found[3].meta["attempts"] <= found[1].meta["attempts"]

"""The real vLLM, on SmolLM2: minutes and gigabytes, so only where INFLUBENCH_VLLM=1 asks for it.

python -m influbench.foreign install vllm
INFLUBENCH_VLLM=1 python -m pytest tests/integration/test_engine_vllm.py
"""

import os
from pathlib import Path

import psutil
import pytest

from influbench import generation, judging, models
from influbench.data.records import Answer, Candidate, Question, SeedPrompt
from influbench.errors import UserError
from influbench.evaluation import answers
from influbench.evaluation.answers import AnswerConfig
from influbench.evaluation.settings import AnswerSampling
from influbench.foreign import environments
from influbench.generation.attempts import GenerationConfig
from influbench.generation.engines import InProcess, opened
from influbench.generation.settings import EngineSettings, Sampling
from influbench.judging import JudgeConfig, Request
from influbench.store import Meter, Store, Work

USERS = environments.cache_dir() / "foreign"  # read before the tests get a cache of their own
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not os.environ.get("INFLUBENCH_VLLM"), reason="INFLUBENCH_VLLM is not set"),
]
ARGUMENTS = ("--max-model-len=512", "--max-num-seqs=8", "--enforce-eager")
CFG = {"engine": "vllm", "vllm_arguments": ARGUMENTS, "dtype": "float32"}


@pytest.fixture(scope="module", autouse=True)
def users_environment(cache):
    """Making one takes minutes: the user's own serves the tests."""
    (Path(cache) / "foreign").symlink_to(USERS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
        yield
    mine = psutil.Process().children(recursive=True)
    assert not [p for p in mine if "vllm" in " ".join(p.cmdline())]


def test_greedy_text_is_that_of_this_process(tmp_path, smollm2_ref):
    work = Work(tmp_path, Meter())
    tokenizer = models.load_tokenizer(smollm2_ref)
    asked = ("Name the capital of France.", "What colour is the sky?", "Name three fruits.")
    told = {
        "ids": ("a", "b", "c"),
        "seed": 0,
        "sampling": Sampling(temperature=0, max_new_tokens=12),
        "batch_size": 1,
        "stop": (),
    }
    prompts = [models.chat_prompt(tokenizer, [("user", text)]) for text in asked]
    with work.meter.phase("write") as phase:
        here = InProcess(models.load(smollm2_ref)).complete(prompts, phase=phase, **told)
        cfg = EngineSettings(engine="vllm", vllm_arguments=ARGUMENTS)
        with opened(cfg, smollm2_ref, dtype="float32", device="cpu", work=work) as engine:
            there = engine.complete(prompts, phase=phase, **told)
    assert [c.prompt_ids for c in there] == [c.prompt_ids for c in here]
    same = sum(one.ids == other.ids for one, other in zip(here, there, strict=True))
    assert same >= 2, (here, there)  # a tie may go the other way
    for one, other in zip(here, there, strict=True):
        if one.ids == other.ids:
            assert one == other


def test_a_teacher_and_a_student_write_on_it(tmp_path, smollm2_ref):
    sampling = {"temperature": 1.0, "top_p": 0.9, "max_new_tokens": 10}
    cfg = GenerationConfig(
        num_candidates=3,
        num_shots=2,
        num_own_shots=0,
        instructions_per_seed=2,
        prefill=True,
        one_line=True,
        accept_unclosed=True,
        instruction=Sampling(**sampling),
        response=Sampling(**sampling),
        **CFG,
    )
    seeds = [SeedPrompt(id=f"s{i}", instruction=f"Tell me about {i}.") for i in ("rain", "owls")]
    store = Store(tmp_path)
    entry = store.run(generation.STAGE, cfg, seeds, smollm2_ref, "t")
    tokenizer = models.load_tokenizer(smollm2_ref)
    for found in entry.records("candidates", Candidate):
        said = str(tokenizer.decode(list(found.completion_ids), skip_special_tokens=True))
        assert said.startswith(found.raw_completion.rstrip("\n"))
    questions = [Question(id="q", category="c", turns=("Name a sea.", "Why that one?"))]
    sampled = AnswerSampling(max_new_tokens=8)
    asking = AnswerConfig(sampling=sampled, **CFG)
    (answer,) = store.run(answers.STAGE, asking, questions, smollm2_ref).records("answers", Answer)
    assert all(answer.responses)


def test_a_judge_on_it_weighs_its_choices(tmp_path, smollm2_ref):
    cfg = JudgeConfig(
        kind="vllm", model=smollm2_ref.path, vllm_arguments=ARGUMENTS, device="cpu", max_tokens=8
    )
    said = (("user", "Is the sky blue? Answer with Yes or No alone."),)
    (reply,) = judging.build(cfg, tmp_path / "judgements.jsonl").ask(
        [Request(id="a", messages=said, choices=("Yes", "No"))]
    )
    assert reply.text
    if reply.probabilities is not None:
        assert sum(reply.probabilities) == pytest.approx(1)


def test_what_it_cannot_serve_is_said_in_one_line(tmp_path, smollm2_ref):
    cfg = EngineSettings(engine="vllm", vllm_arguments=("--max-model-len=99999999",))
    with (
        pytest.raises(UserError, match=r"vLLM stopped by itself .*vllm\.log") as caught,
        opened(cfg, smollm2_ref, dtype="float32", device="cpu", work=Work(tmp_path, Meter())),
    ):
        pass
    assert "\n" not in str(caught.value)

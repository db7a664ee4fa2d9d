"""The paper's presets hold the paper's values, each with its source beside it.

The table here is made from the paper's tables (arXiv 2410.14208: 4, p. 16; 5, p. 21) and its
released code, not from the presets.
"""

import re

import pytest

from influbench.loop import reading

WSD = {"warmup": 0.1, "stable": 0.5, "decay": 0.4, "min_ratio": 1e-3}
PAPER = {
    "rounds": (2, "table 1"),
    "sft.learning_rate": (5e-6, "table 4"),
    "sft.weight_decay": (0.0, "table 4"),
    "sft.schedule": (WSD, "table 4"),
    "sft.epochs": (1, "table 4"),
    "sft.batch_size": (32, "table 4"),
    "sft.max_length": (1024, "table 4"),
    "sft.compute": ("bfloat16", "table 4"),
    "warmup.learning_rate": (5e-6, "code warm_up.yml:27"),
    "warmup.epochs": (1, "code warm_up.yml:12"),
    "scoring.compute": ("bfloat16", "code collect_local_data_influence.py:163"),
    "scoring.max_length": (1024, "code utils.py:146"),
    "dpo.learning_rate": (1e-6, "table 4"),
    "dpo.weight_decay": (0.0, "table 4"),
    "dpo.beta": (0.1, "table 4"),
    "dpo.schedule": (WSD, "table 4"),
    "dpo.epochs": (1, "table 4"),
    "dpo.batch_size": (2, "table 4"),
    "dpo.max_length": (1024, "table 4"),
    "dpo.compute": ("bfloat16", "table 4"),
    "generation.instruction.temperature": (1.0, "table 5"),
    "generation.instruction.top_p": (0.9, "table 5"),
    "generation.instruction.presence_penalty": (1.0, "table 5"),
    "generation.instruction.frequency_penalty": (0.0, "table 5"),
    "generation.instruction.repetition_penalty": (1.5, "table 5"),
    "generation.instruction.max_new_tokens": (1024, "table 5"),
    "generation.response.temperature": (0.6, "table 5"),
    "generation.response.top_p": (0.9, "table 5"),
    "generation.response.presence_penalty": (1.0, "table 5"),
    "generation.response.repetition_penalty": (1.0, "table 5"),
    "generation.response.max_new_tokens": (1024, "table 5"),
    "generation.num_shots": (8, "text"),
    "generation.num_own_shots": (2, "likewise"),
    "generation.instructions_per_seed": (4, "code gen_warmup_and_probing_dataset.yml"),
    "generation.rouge_l": (0.7, "code gen_instructions.py:26"),
    "sizes.candidates": (10000, "text"),
    "sizes.training": (10000, "text"),
    "data.num_reference": (256, "code collect_local_data_influence.yml:13"),
    "dpo.held_out": (0.01, "code dpo_teacher.yml:12"),
    "preferences.rule": ("sign", "text"),
    "scoring.estimator": ("exact", "text"),
}
DISAGREE = {
    "rounds", "data.reference", "sizes.candidates", "sizes.training", "dpo.no_chat_template",
    "generation.instruction.repetition_penalty", "sft.schedule", "student.dtype",
    "generation.filters.capitalize",
}  # fmt: skip
"""Where the released code does something else, which stands beside the value."""
SOURCED = re.compile(r"\b(table \d|text|code|ours|abstract|likewise)\b")


def lines(name: str) -> dict[str, str]:
    """The comment beside every value of a preset's own file, by dotted name."""
    path: list[tuple[int, str]] = []
    found: dict[str, str] = {}
    for line in (reading.PRESETS / f"{name}.yaml").read_text(encoding="utf-8").splitlines():
        named = re.match(r"( *)(\w+):(.*)", line)
        if named is None:
            continue
        depth = len(named[1])
        path = [*(part for part in path if part[0] < depth), (depth, named[2])]
        value, _, comment = named[3].partition(" #")
        if value.strip():
            found[".".join(part for _, part in path)] = comment
    return found


def value_of(name: str, setting: str):
    value = reading.load_run(name).model_dump(mode="json")
    for part in setting.split("."):
        value = value[part]
    return value


@pytest.mark.parametrize("name", ["paper_8b", "paper_1b"])
@pytest.mark.parametrize("setting", PAPER)
def test_a_paper_preset_has_the_paper_s_value(name, setting):
    assert value_of(name, setting) == PAPER[setting][0]


@pytest.mark.parametrize("setting", PAPER)
def test_the_source_stands_beside_the_value(setting):
    assert PAPER[setting][1] in lines("paper_8b")[setting]


@pytest.mark.parametrize("name", ["paper_8b", "paper_1b"])
def test_no_value_of_a_paper_preset_is_without_a_source(name):
    told = {key: said for key, said in lines(name).items() if key not in ("name", "base")}
    assert len(told) >= 2
    assert [key for key, said in told.items() if not SOURCED.search(said)] == []


@pytest.mark.parametrize("setting", sorted(DISAGREE))
def test_where_the_code_disagrees_it_is_named_at_the_value(setting):
    assert re.search(r"\bcode: .*\(\w[\w.]*:\d+\)|\bcode: AlpacaEval", lines("paper_8b")[setting])


def test_the_students_are_the_paper_s():
    assert value_of("paper_8b", "student.name") == "meta-llama/Meta-Llama-3-8B"
    assert value_of("paper_1b", "student.name") == "TinyLlama/TinyLlama_v1.1"
    assert value_of("paper_1b", "teacher.name") == "meta-llama/Meta-Llama-3-8B-Instruct"


def test_what_is_spelt_out_changed_no_setting_of_the_papers_presets():
    """They only name what was their value before: stored work keeps its keys."""
    short = reading.load_run("paper_8b", ["name=x"])
    assert short.generation == type(short.generation)()

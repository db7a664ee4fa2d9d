"""Models whose tokenizer or template is not all there: used where that is right, else one line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch
from cases.reference import Plain
from command import influbench

from influbench import models, testing
from influbench.data.records import Example
from influbench.errors import UserError
from influbench.evaluation.suites import harness
from influbench.models.templates import add_to
from influbench.store import Store
from influbench.student import load_student
from influbench.testing import families

CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Name a river."},
    {"role": "assistant", "content": "Rivers change."},
    {"role": "user", "content": "Another?"},
    {"role": "assistant", "content": "The moon."},
]


def rows(path: Path, *chats: list[dict[str, str]]) -> str:
    path.write_text("".join(json.dumps({"messages": chat}) + "\n" for chat in chats))
    return str(path)


def scored(tmp_path: Path, student: Path, *more: str) -> tuple[list[float], str]:
    """Losses by ``influbench score``, and what it printed."""
    out = tmp_path / f"out-{len(list(tmp_path.iterdir()))}.jsonl"
    done = influbench(
        *("score", "--student", str(student), "--estimator", "loss", "--out", str(out)),
        *("--candidates", rows(tmp_path / "c.jsonl", CHAT, CHAT[:3], CHAT[1:3])),
        *("--reference", rows(tmp_path / "r.jsonl", CHAT[1:3], CHAT[3:])),
        *("--store", str(tmp_path / "store"), *more),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    return pd.read_json(out, lines=True)["score"].tolist(), done.stdout


def by_hand(plain: Plain, text: str, learnt: list[str]) -> float:
    """Loss of the pieces of a rendering that learn, found by their place in the text."""
    whole = plain.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    learned, at = [], 0
    for piece in learnt:
        begin = text.index(piece, at)
        at = begin + len(piece)
        learned += [i for i, (a, b) in enumerate(whole.offset_mapping) if a >= begin and b <= at]
    with torch.no_grad():
        return float(plain.loss(whole.input_ids, learned))


def test_score_of_a_conversation_is_the_loss_of_all_its_answers_in_the_templates_text(
    tmp_path: Path,
) -> None:
    folder = families.build("gpt_neox", tmp_path / "m")
    got, said = scored(tmp_path, folder)
    plain = Plain(folder)
    ends = [m["content"] + "<|im_end|>" for m in CHAT if m["role"] == "assistant"]
    texts = [
        plain.written([(m["role"], m["content"]) for m in chat])
        for chat in (CHAT, CHAT[:3], CHAT[1:3])
    ]
    expected = [by_hand(plain, text, ends[: text.count("assistant\n")]) for text in texts]
    assert [abs(x) for x in got] == pytest.approx(expected, rel=1e-5)
    assert "note:" not in said
    last, _ = scored(tmp_path, folder, "--set", "scoring.learn=last")
    assert abs(last[0]) == pytest.approx(by_hand(plain, texts[0], ends[1:]), rel=1e-5)
    assert last[1:] == pytest.approx(got[1:])


def test_a_template_without_a_system_turn_is_said(tmp_path: Path) -> None:
    folder = families.build("gemma", tmp_path / "m")
    got, said = scored(tmp_path, folder)
    assert "has no system turn: in 2 examples its text stands before the user's" in " ".join(
        said.split()
    )
    plain = Plain(folder)
    text = plain.written([("user", "Be brief.\n\nName a river."), ("assistant", "Rivers change.")])
    assert abs(got[1]) == pytest.approx(
        by_hand(plain, text, ["Rivers change.<end_of_turn>"]), rel=1e-5
    )


def test_a_base_model_is_refused_with_advice_that_works(tmp_path: Path) -> None:
    folder = families.build("qwen2_base", tmp_path / "m")
    (folder / "chat_template.jinja").unlink()
    advice = "--set student.chat_template=chatml"
    data = rows(tmp_path / "r.jsonl", CHAT[1:3], CHAT[3:])
    refused = influbench(
        *("score", "--student", str(folder), "--candidates", data, "--reference", data),
        *("--estimator", "loss", "--store", str(tmp_path / "store")),
        cwd=tmp_path,
    )
    assert refused.returncode == 2
    assert advice in refused.stderr
    got, _ = scored(tmp_path, folder, *advice.split())
    plain = Plain(folder)
    plain.tokenizer.chat_template = families.CHATML.replace("'<|im_end|>\n'", "eos_token + '\n'")
    text = plain.written([("user", "Name a river."), ("assistant", "Rivers change.")])
    expected = by_hand(plain, text, ["Rivers change.<|endoftext|>"])
    assert abs(got[2]) == pytest.approx(expected, rel=1e-5)


def test_a_template_that_is_given_leaves_everything_else_of_a_checkpoint(tmp_path: Path) -> None:
    folder = families.build("qwen2_base", tmp_path / "m")
    (folder / "chat_template.jinja").unlink()
    (folder / "optimizer.pt").write_bytes(b"moments")
    cfg = models.ModelConfig(name=str(folder), chat_template="chatml")
    given = add_to(models.resolve(str(folder)), cfg, Store(tmp_path / "store").run)
    before, after = (
        {path.name: path.read_bytes() for path in Path(at).iterdir() if "token" not in path.name}
        for at in (folder, given.path)
    )
    assert after.pop("chat_template.jinja")
    assert after == before


def test_named_templates_without_a_default_are_one_line(tmp_path: Path) -> None:
    folder = families.build("gpt_neox", tmp_path)
    tokenizer = models.load_tokenizer(models.resolve(str(folder)))
    example = testing.tiny_examples("c", 1)[0]
    for names, says in ((("default", "tool_use"), None), (("chat", "rag"), r"\['chat', 'rag'\]")):
        tokenizer.chat_template = dict.fromkeys(names, families.CHATML)
        tokenizer.save_pretrained(folder)
        shutil.rmtree(folder / "additional_chat_templates", ignore_errors=True)
        student = load_student(models.resolve(str(folder)))
        student.tokenizer.chat_template = dict.fromkeys(names, families.CHATML)
        if says is None:
            assert student.encode(example).spans
        else:
            with pytest.raises(UserError, match=says):
                student.encode(example)


def test_a_tokenizer_without_an_end_of_text_token_is_used(tmp_path: Path) -> None:
    folder = families.build("gpt_neox", tmp_path)
    tokenizer = models.load_tokenizer(models.resolve(str(folder)))
    tokenizer.eos_token = None
    tokenizer.chat_template = families.PLAIN
    tokenizer.save_pretrained(folder)
    student, plain = load_student(models.resolve(str(folder))), Plain(folder)
    example = Example(id="a", instruction="Hi", response="Bread.")
    ids, start = plain.exchange(example.turns, "### end")
    row = student.encode(example)
    assert (list(row.ids), row.response_start) == (ids, start)


def test_a_token_without_a_row_in_the_embedding_is_one_line(tmp_path: Path) -> None:
    folder = families.build("gpt_neox", tmp_path)
    tokenizer = models.load_tokenizer(models.resolve(str(folder)))
    tokenizer.add_special_tokens({"additional_special_tokens": ["<extra>"]})
    tokenizer.save_pretrained(folder)
    student = load_student(models.resolve(str(folder)))
    assert student.encode(Example(id="a", instruction="Hi", response="Bread.")).spans
    with pytest.raises(UserError, match=r"example 'b' has the token '<extra>'"):
        student.encode(Example(id="b", instruction="Hi", response="Bread <extra>"))


def test_a_padding_token_without_a_row_in_the_embedding_is_not_taken(tmp_path: Path) -> None:
    folder = families.build("gpt_neox", tmp_path)
    tokenizer = models.load_tokenizer(models.resolve(str(folder)))
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    tokenizer.save_pretrained(folder)
    assert models.load_tokenizer(models.resolve(str(folder))).pad_token == "<pad>"


def test_the_harness_refuses_chats_with_a_base_model(tmp_path: Path) -> None:
    pytest.importorskip("lm_eval")
    folder = families.build("qwen2_base", tmp_path / "m")
    (folder / "chat_template.jinja").unlink()
    loaded = models.load(models.resolve(str(folder)), device="cpu")
    with pytest.raises(UserError, match="has no chat template: set the model's chat_template"):
        harness.evaluate(loaded, harness.TaskConfig(task="gsm8k", chat=True))

import json
import shutil
from pathlib import Path

import pytest
from pydantic import ValidationError

from influbench import models
from influbench.data.records import ModelRef
from influbench.errors import UserError
from influbench.models.chat import set_pad, template_text


def copy_of(ref: ModelRef, folder: Path) -> Path:
    shutil.copytree(ref.path, folder)
    return folder


def test_a_chat_prompt_is_the_template_then_the_prefill(tiny_ref: ModelRef) -> None:
    tokenizer = models.load_tokenizer(tiny_ref)
    messages = [("system", "S"), ("user", "U"), ("assistant", "A"), ("user", "V")]
    assert models.chat_prompt(tokenizer, messages, "Yes") == (
        "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nU<|im_end|>\n"
        "<|im_start|>assistant\nA<|im_end|>\n<|im_start|>user\nV<|im_end|>\n"
        "<|im_start|>assistant\nYes"
    )


def test_a_model_without_a_template_says_what_to_do(tiny_ref: ModelRef, tmp_path: Path) -> None:
    folder = copy_of(tiny_ref, tmp_path / "m")
    (folder / "chat_template.jinja").unlink()
    ref = models.resolve(str(folder))
    with pytest.raises(UserError, match=r"has no chat template: set .* 'chatml'"):
        models.chat_prompt(models.load_tokenizer(ref), [("user", "U")])
    given = models.load(ref, chat_template="chatml").tokenizer
    own = models.load_tokenizer(tiny_ref)
    messages = [("user", "U")]
    assert models.chat_prompt(given, messages) == models.chat_prompt(own, messages)
    (tmp_path / "t.jinja").write_text("{{ messages[0]['content'] }}!")
    from_file = models.load_tokenizer(ref, chat_template=str(tmp_path / "t.jinja"))
    assert models.chat_prompt(from_file, messages) == "U!"


def test_a_template_that_refuses_the_roles_is_a_user_error(tiny_ref: ModelRef) -> None:
    strict = "{{ raise_exception('System role not supported') }}"
    tokenizer = models.load_tokenizer(tiny_ref, chat_template=strict)
    with pytest.raises(UserError, match=r"\['user'\]: System role not supported"):
        models.chat_prompt(tokenizer, [("system", "S"), ("user", "U")])


def test_a_template_file_becomes_its_text_in_the_configuration(tmp_path: Path) -> None:
    path = tmp_path / "t.jinja"
    path.write_text("{{ one }}")
    first = models.ModelConfig(name="tiny", chat_template=str(path))
    assert first.chat_template == "{{ one }}"
    path.write_text("{{ two }}")
    assert models.ModelConfig(name="tiny", chat_template=str(path)).digest() != first.digest()
    assert models.ModelConfig(name="tiny", chat_template="chatml").chat_template == "chatml"
    assert models.ModelConfig.model_validate(json.loads(first.model_dump_json())) == first
    with pytest.raises(ValidationError, match="expected chat_template 'chatml' or a jinja file"):
        models.ModelConfig(name="tiny", chat_template="chatlm")
    with pytest.raises(UserError, match="expected chat_template"):
        template_text("chatlm")


def test_padding_is_never_the_end_of_turn(tiny_ref: ModelRef) -> None:
    tokenizer = models.load_tokenizer(tiny_ref)
    tokenizer.pad_token = tokenizer.eos_token
    set_pad(tokenizer, 1000)
    assert tokenizer.pad_token == "<|endoftext|>"
    tokenizer.eos_token = tokenizer.pad_token = "<|endoftext|>"
    with pytest.raises(UserError, match="knows no other padding token"):
        set_pad(tokenizer, 1000)

"""Study files that somebody bent: read as they are, or refused in one line."""

import random

import pytest
import yaml
from bending import bent, places

from influbench.config import override, read_yaml
from influbench.errors import UserError
from influbench.studies.study_file import load_study

STUDY = """name: s
question: which?
base: tiny
set: {scoring.compare: [random], judge: {kind: local}}
grid:
  - {scoring.estimator: [length, random], seed: [0, 1]}
  - scoring.estimator: [exact]
    seed: [0]
exclude:
  - {scoring.estimator: random, seed: [1]}
"""
ODD = (None, True, -1, 2**70, "0.5", "", [], [None], [[0]], {}, {"a": None}, float("nan"))
ODD += ("missing", "one more")
GARBLED = {
    "empty": "",
    "a list": "- name: s\n",
    "tabs": STUDY.replace("  - ", "\t- "),
    "deep": STUDY + "set: " + "[" * 500,
    "a zero": STUDY + "\0",
    "half a character": STUDY + 'kind: "\\ud800"\n',
    "a key twice": STUDY + "set: {seed: 1}\n",
    "a key of a part twice": STUDY.replace("seed: [0]", "seed: [0]\n    seed: [1]"),
    "inside itself": STUDY.replace("{kind: local}", "&a {extra: *a}"),
    "anchors of anchors": "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
    + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 12)),
    "an unknown tag": STUDY + "kind: !!python/name:os.system x\n",
    "too many digits": STUDY + "kind: 0x" + "f" * 9999 + "\n",
    "too many runs": STUDY.replace(
        "seed: [0, 1]", f"seed: {[*range(300)]}, rounds: {[*range(99)]}"
    ),
}


@pytest.mark.parametrize("odd", GARBLED)
def test_a_study_that_is_garbled_is_one_line(tmp_path, odd):
    path = tmp_path / "s.yaml"
    path.write_text(GARBLED[odd])
    with pytest.raises(UserError) as caught:
        load_study(path)
    assert str(caught.value).startswith(f"{path}: expected")
    assert len(str(caught.value)) < len(str(path)) + 500


def test_other_bytes_are_one_line(tmp_path):
    path = tmp_path / "s.yaml"
    path.write_bytes(STUDY.encode("utf-16"))
    with pytest.raises(UserError, match="expected UTF-8 text, got byte 0xff at offset 0"):
        load_study(path)


def test_the_key_that_stands_twice_is_named_with_its_line(tmp_path):
    path = tmp_path / "s.yaml"
    path.write_text(GARBLED["a key twice"])
    with pytest.raises(UserError, match=r"found the key 'set' twice.* line 11"):
        read_yaml(path)


def test_anchors_and_merges_that_end_are_followed(tmp_path):
    path = tmp_path / "s.yaml"
    path.write_text("a: &a {x: 1, y: 2}\nb: &b {<<: *a, y: 3}\nc: {<<: [*b, *a], x: 4}\n")
    found = read_yaml(path)
    assert found["b"] == {"x": 1, "y": 3}
    assert found["c"] == {"x": 4, "y": 3}


def test_a_setting_of_an_option_that_stands_twice_is_no_table():
    tree = {}
    override(tree, "judge.extra={a: 1, a: 2}")
    assert tree["judge"]["extra"] == "{a: 1, a: 2}"


@pytest.mark.parametrize("part", ["name", "question"])
@pytest.mark.parametrize("odd", [None, 5, ["a"]])
def test_a_study_is_called_by_a_text(tmp_path, part, odd):
    path = tmp_path / "s.yaml"
    path.write_text(yaml.safe_dump({"kind": "planted", "name": "s"} | {part: odd}))
    with pytest.raises(UserError, match=f"expected '{part}' to be a text"):
        load_study(path)


def test_a_study_with_anything_anywhere_is_read_or_refused_in_one_line(tmp_path):
    path = tmp_path / "s.yaml"
    path.write_text(STUDY)
    whole = load_study(path)
    tree = yaml.safe_load(STUDY)
    cases = [(place, odd) for place in places(tree) for odd in ODD]
    refused = 0
    for place, odd in random.Random(0).sample(cases, 60):
        path.write_text(yaml.safe_dump(bent(tree, place, odd), sort_keys=False))
        try:
            load_study(path)
        except UserError as error:
            refused += 1
            line = str(error)
            assert "\n" not in line, (place, odd)
            assert len(line) < len(str(path)) + 900, (place, odd)
    assert refused > 30
    path.write_text(STUDY)
    assert load_study(path) == whole
    assert len(whole.runs) == 4

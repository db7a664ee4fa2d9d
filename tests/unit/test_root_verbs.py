"""What an instruction asks for, by a word list: good for a distribution."""

import pytest

from influbench.data.root_verbs import root_verb

pytest.importorskip("textblob", reason="needs the extra 'words'")


@pytest.mark.parametrize(
    ("instruction", "expected"),
    [
        ("Write a short poem about the sea.", "write poem"),
        ("Could you please explain the theory of relativity to a child?", "explain theory"),
        ("Please give three tips for staying healthy.", "give tip"),
        ("Design a logo for a new coffee shop", "design logo"),
        ("list five animals", "list animal"),
        ("What is the capital of France?", ""),
        ("Rewrite it.", "rewrite"),
        ("12345 !!", ""),
        ("", ""),
    ],
)
def test_the_root_verb_and_its_noun(instruction, expected):
    assert root_verb(instruction) == expected

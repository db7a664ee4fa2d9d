"""The ghost product where its bookkeeping is hardest: logits in chunks, frozen embeddings."""

import numpy as np
import pytest
import torch

from influbench import testing
from influbench.data.records import Example
from influbench.derivatives import directional, gradients
from influbench.student import LanguageStudent
from influbench.student.losses import CHUNK


@pytest.mark.parametrize("frozen", [False, True], ids=["all", "frozen_embedding"])
def test_ghost_is_the_dot_product_beyond_one_chunk_of_logits(tmp_path, frozen):
    ctx = testing.tiny_context(tmp_path)
    student = ctx.student
    assert isinstance(student, LanguageStudent)
    student.model.get_input_embeddings().weight.requires_grad_(not frozen)
    weights: list[torch.Tensor] = [p for p in student.model.parameters() if p.requires_grad]
    direction = gradients.mean_gradient(student, weights, ctx.reference)
    long = Example(id="long", instruction="Write.", response="The seasons change them. " * 60)
    assert len(long.response) > CHUNK  # a byte is a token
    examples = [long, *testing.tiny_examples("candidate", 2)]
    ghost = directional.Ghost(student, weights, direction)
    expected = [gradients.dot(direction, gradients.gradient(student, weights, e)) for e in examples]
    np.testing.assert_allclose(ghost(examples), expected, rtol=2e-6)
    assert ghost.share() == 1.0

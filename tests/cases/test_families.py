"""Families that transformers gives no sdpa attention are read with the one that they have."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from cases.reference import Plain
from cases.test_tokens import ENDS

from influbench import models, testing
from influbench.student import load_student
from influbench.testing import families


@pytest.mark.parametrize("name", ["gemma2", "gptj", "gpt_neo", "bloom", "gpt_oss"])
def test_a_family_without_sdpa_is_read_eagerly_and_exactly(name: str, tmp_path: Path) -> None:
    folder = families.build(name, tmp_path)
    student, plain = load_student(models.resolve(str(folder))), Plain(folder)
    assert student.model.config._attn_implementation == "eager"
    examples = testing.tiny_examples("c", 3)
    rows = [plain.exchange(e.turns, ENDS[families.FAMILIES[name].style]) for e in examples]
    with torch.no_grad():
        expected = [float(plain.loss(ids, range(start, len(ids)))) for ids, start in rows]
        got = np.empty(len(rows))
        for batch in student.batches(examples):
            got[list(batch.positions)] = student.loss(batch).numpy()
    np.testing.assert_allclose(got, expected, rtol=2e-6)

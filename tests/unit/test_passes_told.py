"""What a method's facts say that it costs is what the ledger counts."""

import re

import pytest

from influbench import testing
from influbench.estimator import granting, registry
from influbench.store import Meter

CANDIDATES = testing.tiny_examples("candidate", 3)

METHODS = [
    ("excess_loss", {"baseline": "before"}),
    ("excess_loss", {"k": 2}),
    ("exact", {}),
    ("first_order", {}),
    ("for_value", {}),
    ("grad_norm", {}),
    ("gradient_dot", {}),
    ("ica", {"draws": 2}),
    ("icp", {}),
    ("influence_distillation", {"budget": 6}),
    ("less", {}),
    ("loss_covariance", {"draws": 4}),
    ("mates", {"budget": 6}),
    ("mates", {"budget": 6, "features": "tangent"}),
    ("repsim", {}),
]


def said(passes, **sizes):
    """The number that ``3M + 12`` stands for."""
    text = re.sub(r"(?<=\d)(?=[A-Z(])", "*", passes)
    return eval(text, {"__builtins__": {}}, sizes)


@pytest.mark.parametrize(("name", "options"), METHODS, ids=lambda part: str(part))
def test_the_ledger_counts_what_the_facts_say(name, options, tmp_path):
    method = registry.build(name, options)
    ctx = testing.tiny_context(tmp_path)
    meter = Meter()
    with meter.phase("prepare", models=[ctx.student.model]):
        scorer = granting.prepare(method, ctx, name)
    with meter.phase("score", models=[ctx.student.model]):
        scorer(CANDIDATES)
    prepared, scored = (row.forward_passes + 2 * row.backward_passes for row in meter.rows())
    sizes = {"M": len(ctx.reference), "W": len(ctx.warmup)}
    assert prepared == said(method.facts.passes[0], **sizes)
    assert scored == said(method.facts.passes[1], **sizes) * len(CANDIDATES)

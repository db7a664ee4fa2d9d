"""Which weights take part: a pattern of names, reported as a share."""

import numpy as np
import pytest

from influbench import testing
from influbench.derivatives import gradients
from influbench.errors import UserError
from influbench.estimator import as_scores, registry

CANDIDATES = testing.tiny_examples("candidate", 4)
LINEAR = r"self_attn|mlp"
WAYS = [
    ("gradient_dot", {}),
    ("adam_jvp", {"preconditioner": "none"}),
    ("adam_jvp", {"preconditioner": "none", "method": "ghost"}),
    ("adam_jvp", {"preconditioner": "none", "method": "central_difference"}),
]


@pytest.fixture
def tiny(tmp_path):
    return testing.tiny_context(tmp_path)


@pytest.mark.parametrize(("name", "options"), WAYS, ids=lambda part: str(part))
def test_only_matching_weights_take_part_and_their_share_is_told(name, options, tiny):
    named = dict(tiny.student.model.named_parameters())
    weights = [p for n, p in named.items() if "self_attn" in n or "mlp" in n]
    mean = gradients.mean_gradient(tiny.student, weights, tiny.reference)
    expected = [
        gradients.dot(mean, gradients.gradient(tiny.student, weights, c)) for c in CANDIDATES
    ]
    method = registry.build(name, {"layers": LINEAR, **options})
    got = as_scores(method.prepare(tiny)(CANDIDATES), len(CANDIDATES))
    np.testing.assert_allclose(got.value, expected, rtol=2e-3)
    share = sum(w.numel() for w in weights) / sum(p.numel() for p in named.values())
    assert got.diagnostics["parameter_share"] == pytest.approx(share)


@pytest.mark.parametrize("name", ["gradient_dot", "less", "adam_jvp"])
def test_methods_with_chosen_layers_keep_the_contract(name):
    testing.check_estimator(registry.build(name, {"layers": LINEAR}))


@pytest.mark.parametrize(
    ("pattern", "message"),
    [("no_such", r"'no_such' matches none of the \d+ weights"), ("(", "a regular expression")],
)
def test_a_pattern_of_nothing_is_refused_in_one_line(pattern, message, tiny):
    with pytest.raises(UserError, match=message):
        registry.build("gradient_dot", {"layers": pattern}).prepare(tiny)


def test_too_small_a_share_is_refused_where_one_is_asked_for(tiny):
    method = registry.build("adam_jvp", {"layers": LINEAR, "min_share": 0.9})
    with pytest.raises(UserError, match="attributes 70"):
        method.prepare(tiny)

"""A method named with its options: a method of its own, wherever one is named."""

import pytest

from influbench.errors import UserError
from influbench.estimator import registry
from influbench.estimators.adam_jvp import AdamJvp
from influbench.estimators.ensemble import Ensemble


@pytest.mark.parametrize(
    ("name", "built"),
    [
        ("adam_jvp", AdamJvp()),
        ("adam_jvp(preconditioner=adam_after)", AdamJvp(preconditioner="adam_after")),
        (
            "adam_jvp(layers=mlp|self_attn, cosine = true,method=materialised)",
            AdamJvp(layers="mlp|self_attn", cosine=True, method="materialised"),
        ),
        ("adam_jvp(step=null)", AdamJvp()),
        ("adam_jvp(step=1e-4)", AdamJvp(step=1e-4)),
        ("ensemble(members=[trak, loss])", Ensemble(members=("trak", "loss"))),
        (
            "influbench.estimators.adam_jvp:AdamJvp(cosine=true, method=materialised)",
            AdamJvp(cosine=True, method="materialised"),
        ),
    ],
)
def test_options_in_a_name_are_the_methods_options(name, built):
    assert registry.build(name) == built


def test_options_beside_the_name_stand_above_those_in_it():
    found = registry.build("adam_jvp(method=ghost, layers=mlp)", {"method": "materialised"})
    assert found == AdamJvp(method="materialised", layers="mlp")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("adam_jvp(cosine)", "expected option=value, got 'cosine' alone"),
        ("adam_jvp(cosine, step=null)", "expected option=value, got 'cosine' alone"),
        ("adam_jvp(}{)", r"expected adam_jvp\(option=value, other=value\)"),
        ("adam_jvp(method=ghost, method=jvp)", r"expected adam_jvp\(option=value"),
        ("adam_jvp(a=" + "[" * 9999 + ")", r"expected adam_jvp\(option=value"),
        ("adam_jvp({a}=1)", r"expected adam_jvp\(option=value"),
        ("adam_jvp(probes=3)", "has no option 'probes'"),
        ("adam_jvp(cosine=maybe)", "'cosine'.*got 'maybe'"),
        ("adam_jpv(cosine=true)", r"did you mean one of \['adam_jvp'"),
        ("adam_jvp()", "no estimator named"),
    ],
)
def test_what_is_no_option_is_said_in_one_line(name, said):
    with pytest.raises(UserError, match=said) as found:
        registry.build(name)
    assert "\n" not in str(found.value)
    assert len(str(found.value)) < 400

"""What a method's facts say that it costs is what the ledger counts."""

import pytest

from influbench import testing
from influbench.estimator import granting, registry
from influbench.estimator.passes import options_of, spent
from influbench.store import Meter

CANDIDATES = testing.tiny_examples("candidate", 3)

ADAPTIVE = "influbench.estimators.adaptive.adaptive"
METHODS = [
    ("adam_jvp", {}),
    ("adam_jvp", {"method": "central_difference"}),
    ("adam_jvp", {"method": "central_difference", "step": 1e-3}),
    ("adam_jvp", {"method": "ghost"}),
    ("adam_jvp", {"method": "materialised"}),
    ("datainf", {}),
    ("ensemble", {}),
    ("ensemble", {"members": ("loss", "exact")}),
    ("excess_loss", {"baseline": "before"}),
    ("excess_loss", {"k": 2}),
    ("exact", {}),
    ("first_order", {}),
    ("first_order", {"curvature": "calibrated"}),
    ("first_order", {"curvature": "calibrated", "probes": 16}),
    ("for_value", {}),
    ("grad_norm", {}),
    ("gradient_dot", {}),
    ("ica", {"draws": 2}),
    ("icp", {}),
    ("ifd", {}),
    ("ifd", {"alone": "no_template"}),
    ("influence_distillation", {"budget": 6}),
    ("influence_distillation", {"budget": 16, "directions": 2}),
    ("influence_distillation", {"budget": 6, "features": "student"}),
    ("less", {}),
    ("logra", {}),
    ("loss_covariance", {"draws": 4}),
    ("mates", {"budget": 6}),
    ("mates", {"budget": 16}),
    ("mates", {"budget": 6, "features": "tangent"}),
    ("perplexity", {"prefer": "middle"}),
    ("repsim", {}),
    (f"{ADAPTIVE}:Clustered", {}),
]


@pytest.mark.parametrize(("name", "options"), METHODS, ids=lambda part: str(part))
def test_the_ledger_counts_what_the_facts_say(name, options, tmp_path):
    method = registry.build(name, options)
    prepared, scored, sizes = counted(method, name, tmp_path)
    once, each = (spent(told, sizes, options_of(method, 8)) for told in method.facts.passes)
    assert once is not None
    assert each is not None
    assert prepared == once.passes
    assert scored == each.passes * len(CANDIDATES)


def test_what_the_racing_oracle_prepares_is_as_told(tmp_path):
    """What it scores it finds out by itself."""
    method = registry.build(f"{ADAPTIVE}:Adaptive", {"probes": 3})
    prepared, _, sizes = counted(method, "adaptive", tmp_path)
    once = spent(method.facts.passes[0], sizes, options_of(method, 8))
    assert once is not None
    assert prepared == once.passes


def counted(method, name, folder):
    """Passes that the ledger counts, a backward counting two, to prepare and to score."""
    ctx = testing.tiny_context(folder)
    meter = Meter()
    with meter.phase("prepare", models=[ctx.student.model]):
        scorer = granting.prepare(method, ctx, name)
    with meter.phase("score", models=[ctx.student.model]):
        scorer(CANDIDATES)
    prepared, scored = (row.forward_passes + 2 * row.backward_passes for row in meter.rows())
    return prepared, scored, {"M": len(ctx.reference), "W": len(ctx.warmup)}

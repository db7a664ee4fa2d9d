"""What methods say of themselves, whoever they are built from and whatever their options are."""

import dataclasses

import numpy as np
import pytest

from influbench import testing
from influbench.estimator import Facts, granting, registry
from influbench.estimator.passes import spent
from influbench.estimators.gradient_dot import GradientDot
from influbench.files import digest
from influbench.scoring.given import StudentConfig
from influbench.scoring.rank import RankConfig, rank
from influbench.store import Store
from influbench.store.session import Session

CANDIDATES = testing.tiny_examples("candidate", 4)


class Renamed(GradientDot):
    """A plug-in that only adds a name to a built-in."""


@dataclasses.dataclass(frozen=True)
class Wider(GradientDot):
    """One that adds an option."""

    width: int = 3


@pytest.mark.parametrize("method", [Renamed, Wider])
def test_a_subclass_of_a_built_in_keeps_its_facts_and_all_its_checks(method):
    assert method().facts == GradientDot().facts
    report = testing.check_estimator(method())
    assert any("each trained alone" in check for check in report.checks)


def test_what_a_method_needs_follows_its_options():
    def needs(name, **options):
        return registry.build(name, options).facts.needs

    assert needs("exact") == {"student", "gradients", "moments"}
    assert "language_model" in needs("exact", pad_to=64)
    assert "moments" not in needs("adam_jvp", preconditioner="none")
    assert "warmup" in needs("first_order", curvature="calibrated")
    assert "warmup" not in needs("ekfac", strategy="identity")
    assert "warmup" in needs("perplexity", prefer="middle")
    assert needs("ensemble", members=("length", "judge")) == {"warmup", "judge"}
    assert needs("ensemble", members=("loss", "bm25")) == {"warmup", "student"}
    assert needs("loss") == needs("llm2llm") == {"student"}
    assert registry.build("judge_pairwise", {"opponents": 3}).facts.passes[1] == "6 requests"


def test_an_ensemble_states_its_members_options_as_numbers():
    """They are none of its own, which the rest of the program would look for."""
    method = registry.build("ensemble", {"members": ("loss", "mates")})
    assert method.facts.passes == ("0 + (128+2)*M + 4*128 + W(1 + 1)", "1 + 1")
    found = spent(method.facts.passes[0], {"M": 2, "W": 3}, vars(method))
    assert found is not None
    assert found.passes == 130 * 2 + 4 * 128 + 3 * 2


def test_an_ensemble_with_a_judge_among_its_members_gets_the_judge(tmp_path):
    method = registry.build("ensemble", {"members": ("judge", "length")})
    scorer = granting.prepare(method, testing.tiny_context(tmp_path), "ensemble")
    assert np.isfinite(np.asarray(scorer(CANDIDATES))).all()
    testing.check_estimator(method)


def test_the_loss_is_that_of_the_student_that_exact_sees(tmp_path):
    """A warm-up set warms the student of every method that looks at it."""
    session = Session(Store(tmp_path / "store"))

    def ranked(name):
        return rank(
            RankConfig(student=StudentConfig(name="tiny"), estimator=name),
            CANDIDATES,
            testing.tiny_examples("reference", 2),
            session,
            warmup=testing.tiny_examples("warmup", 16),
        )

    found = {name: ranked(name) for name in ("exact", "loss", "llm2llm", "length")}
    seen = {name: one.about["student"]["digest"] for name, one in found.items()}
    assert seen["loss"] == seen["llm2llm"] == seen["exact"] != seen["length"]
    loss = [s.value for s in found["loss"].scores]
    cold = testing.loss_of_each(testing.tiny_student(), CANDIDATES).tolist()
    assert np.abs(np.array(loss) + cold).min() > 1e-4
    assert loss == [-s.value for s in found["llm2llm"].scores]


def test_a_method_of_texts_alone_loads_no_student(tmp_path, monkeypatch):
    def refused(*_, **__):
        raise AssertionError("loaded")

    monkeypatch.setattr("influbench.student.loading.load_student", refused)
    found = rank(
        RankConfig(student=StudentConfig(name="tiny"), estimator="length"),
        CANDIDATES,
        testing.tiny_examples("reference", 2),
        Session(Store(tmp_path / "store")),
    )
    assert [s.value for s in found.scores] == [float(len(c.response)) for c in CANDIDATES]


def test_random_scores_are_a_function_of_seed_and_candidate(tmp_path):
    scorer = registry.build("random").prepare(testing.tiny_context(tmp_path, seed=3))
    seed = int(digest(f"random:3:{CANDIDATES[1].id}"), 16)
    expected = np.random.default_rng(seed).standard_normal()
    assert list(scorer(CANDIDATES))[1] == expected  # pyright: ignore[reportArgumentType]


def test_facts_compare_by_what_they_say():
    assert Facts("rank", "x", {"moments"}) == Facts("rank", "x", {"moments", "student"})

"""How many candidates a method is given at one time."""

from dataclasses import dataclass

import pytest

from influbench import models, scoring, testing
from influbench.estimator import Facts, registry
from influbench.store import Store
from influbench.store.session import Session

CALLS: list[int] = []


@dataclass(frozen=True)
class ManyAtOnce:
    """Says that it wants twelve, and remembers what it got."""

    facts = Facts("rank", "a test", at_once=12)

    def prepare(self, ctx):

        def score(examples):
            CALLS.append(len(examples))
            return [float(len(e.response)) for e in examples]

        return score


@pytest.mark.parametrize(
    ("settings", "calls"), [({}, [12, 8]), ({"chunk_size": 5}, [5, 5, 5, 5])], ids=str
)
def test_a_method_is_given_as_many_candidates_as_it_wants_unless_told(tmp_path, settings, calls):
    CALLS.clear()
    method = scoring.MethodConfig(estimator=f"{__name__}:ManyAtOnce", device="cpu", **settings)
    rows = testing.tiny_examples("candidate", 20), testing.tiny_examples("reference", 2), []
    scoring.score_candidates(Session(Store(tmp_path)), method, *rows, models.resolve("tiny"))
    assert calls == CALLS


@pytest.mark.parametrize(
    ("name", "options", "count"),
    [
        ("adam_jvp", {"method": "central_difference"}, 64),
        ("adam_jvp", {}, 8),
        ("excess_loss", {}, 64),
        ("loss_covariance", {}, 64),
        ("exact", {}, 8),
    ],
)
def test_methods_that_move_the_weights_once_a_call_want_many(name, options, count):
    assert registry.build(name, options).facts.at_once == count

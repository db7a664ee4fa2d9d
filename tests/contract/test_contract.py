"""Every registered estimator, ours and foreign, keeps the promises of the contract."""

import dataclasses
from typing import ClassVar

import numpy as np
import pytest
import torch

from influbench import registry, testing
from influbench.estimator import Scale


@pytest.mark.parametrize("name", registry.available())
def test_registered_estimator_keeps_its_promises(name):
    testing.check_estimator(registry.build(name))


@dataclasses.dataclass(frozen=True)
class Fault:
    """A gradient method with one promise broken."""

    kind: str
    scale: ClassVar[Scale] = "signed"
    needs: ClassVar[tuple[str, ...]] = ("gradients",)
    cost: ClassVar[str] = "3M; 3"
    source: ClassVar[str] = "a test"

    def prepare(self, ctx):  # noqa: C901
        from influbench.estimators.gradient_dot import GradientDot

        scorer = GradientDot().prepare(ctx)
        calls = iter(range(10**6))

        def score(examples):  # noqa: C901
            values = np.asarray(scorer(examples)).copy()
            if self.kind == "weights":
                with torch.no_grad():
                    next(iter(ctx.student.model.parameters())).add_(1e-6)
            if self.kind == "moments":
                next(iter(ctx.student.optimizer.state.values()))["exp_avg"].mul_(0.999)
            if self.kind == "gradients":
                ctx.student.loss(examples).sum().backward()
            if self.kind == "mode":
                ctx.student.model.train()
            if self.kind == "order":
                values = values + np.arange(len(values)) * np.ptp(values)
            if self.kind == "batch":
                values = values - values.mean()
            if self.kind == "seed":
                values = values + np.ptp(values) * next(calls)
            if self.kind == "global seed":
                torch.manual_seed(1)
            if self.kind == "sign":
                values = -values
            if self.kind == "nan":
                values[0] = np.nan
            if self.kind == "short":
                values = values[:-1]
            return values

        return score


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("weights", "weights changed"),
        ("moments", "moments changed"),
        ("gradients", "gradients changed"),
        ("mode", "mode changed"),
        ("order", "one at a time"),
        ("batch", "one at a time"),
        ("seed", "scored twice"),
        ("global seed", "random state changed"),
        ("sign", "expected > 0"),
        ("nan", "expected finite"),
        ("short", "one score for each"),
    ],
)
def test_each_broken_promise_is_caught(kind, message):
    with pytest.raises(testing.ContractError, match=message):
        testing.check_estimator(Fault(kind))

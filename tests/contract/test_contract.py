"""Every registered estimator, ours and foreign, keeps the promises of the contract."""

import dataclasses
from typing import ClassVar

import numpy as np
import pytest
import torch

from influbench import registry, testing
from influbench.derivatives import gradients, requirements
from influbench.errors import UserError
from influbench.estimator import Scale, Scores

OWN_ENVIRONMENT = ("ekfac", "bergson_dot")
"""Their toolkits cannot share our environment; where theirs is installed, tests/integration/
test_foreign_toolkits.py checks the same promises."""


@pytest.mark.parametrize("name", [n for n in registry.available() if n not in OWN_ENVIRONMENT])
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
                testing.loss_of_each(ctx.student, examples).sum().backward()
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
            if self.kind == "numpy seed":
                np.random.seed(1)  # noqa: NPY002
            if self.kind == "hooks":
                ctx.student.model.register_forward_hook(lambda *_: None)
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
        ("numpy seed", "random state changed"),
        ("hooks", "hooks changed"),
        ("sign", "expected > 0"),
        ("nan", "expected finite"),
        ("short", "one score for each"),
    ],
)
def test_each_broken_promise_is_caught(kind, message):
    with pytest.raises(testing.ContractError, match=message):
        testing.check_estimator(Fault(kind))


@dataclasses.dataclass(frozen=True)
class Partial:
    """A gradient dot product over some of the parameters only."""

    skip: tuple[str, ...]
    share: float | None = None
    min_share: float = 0.0
    refuses: bool = True

    scale: ClassVar[Scale] = "signed"
    needs: ClassVar[tuple[str, ...]] = ("gradients",)
    cost: ClassVar[str] = "3M; 3"
    source: ClassVar[str] = "a test"

    def prepare(self, ctx):
        model = ctx.student.model
        kept = [
            p
            for n, p in model.named_parameters()
            if p.requires_grad and not any(part in n for part in self.skip)
        ]
        if not kept:
            raise UserError("nothing to attribute")
        if self.share is not None and self.refuses:
            requirements.parameter_share(self.share, self.min_share, "partial")
        target = gradients.mean_gradient(ctx.student, kept, ctx.reference)

        def score(examples):
            own = [gradients.gradient(ctx.student, kept, e) for e in examples]
            facts = {} if self.share is None else {"parameter_share": self.share}
            return Scores(np.array([gradients.dot(target, g) for g in own]), diagnostics=facts)

        return score


@pytest.mark.parametrize("skip", [("embed_tokens",), ("norm",), ("mlp", "norm")])
def test_a_method_that_silently_skips_layers_is_caught(skip):
    with pytest.raises(testing.ContractError, match="do not notice the student's"):
        testing.check_estimator(Partial(skip))
    with pytest.raises(testing.ContractError, match=r"got 1\.000"):
        testing.check_estimator(Partial(skip, share=1.0))


def test_a_method_that_says_what_it_skips_is_accepted_and_must_refuse_below_its_threshold():
    model = testing.tiny_student().model
    sizes = {n: p.numel() for n, p in model.named_parameters()}
    share = sum(size for n, size in sizes.items() if "embed" not in n) / sum(sizes.values())
    testing.check_estimator(Partial(("embed_tokens",), share=share))
    testing.check_estimator(Partial((), share=0.5))  # saying too little is no lie
    with pytest.raises(testing.ContractError, match="is not refused"):
        testing.check_estimator(Partial(("embed_tokens",), share=share, refuses=False))
    with pytest.raises(testing.ContractError, match="expected a share"):
        testing.check_estimator(Partial((), share=1.5))


def test_standard_errors_that_are_promised_must_come():
    @dataclasses.dataclass(frozen=True)
    class Sure(Partial):
        stderr: ClassVar[bool] = True

    with pytest.raises(testing.ContractError, match="carry no standard errors"):
        testing.check_estimator(Sure(()))


def test_unknown_needs_are_caught():
    @dataclasses.dataclass(frozen=True)
    class Greedy(Partial):
        needs: ClassVar[tuple[str, ...]] = ("everything",)

    with pytest.raises(testing.ContractError, match="expected a tuple of some of"):
        testing.check_estimator(Greedy(()))

"""Every registered estimator, ours and foreign, keeps the promises of the contract."""

import dataclasses

import numpy as np
import pytest
import torch

from influbench import testing
from influbench.derivatives import gradients
from influbench.errors import UserError
from influbench.estimator import Facts, Scores, as_scores, granting, registry

OWN_ENVIRONMENT = ("ekfac", "bergson_dot", "bergson_trackstar", "bergson_ekfac_cg")
"""Their toolkits cannot share our environment; where theirs is installed, tests/integration/
test_foreign_toolkits.py checks the same promises."""


@pytest.mark.parametrize("name", [n for n in registry.available() if n not in OWN_ENVIRONMENT])
def test_registered_estimator_keeps_its_promises(name):
    testing.check_estimator(registry.build(name))


@dataclasses.dataclass(frozen=True)
class Fault:
    """A gradient method with one promise broken."""

    kind: str
    facts = Facts("signed", "a test", {"gradients", "moments"})

    def prepare(self, ctx):  # noqa: C901
        from influbench.estimators.gradient_dot import GradientDot

        scorer = GradientDot().prepare(ctx)
        calls = iter(range(10**6))

        def score(examples):  # noqa: C901
            values = as_scores(scorer(examples), len(examples)).value.copy()
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

    facts = Facts("signed", "a test", {"gradients"})

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
            ctx.share(self.share, self.min_share)
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
        facts = Facts("signed", "a test", {"gradients"}, stderr=True)

    with pytest.raises(testing.ContractError, match="carry no standard errors"):
        testing.check_estimator(Sure(()))


def test_facts_that_mean_nothing_are_refused():
    with pytest.raises(ValueError, match="expected a set of some of"):
        Facts("signed", "a test", {"everything"})  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="expected a set of some of"):
        Facts("signed", "a test", "judge")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="expected one of"):
        Facts("percent", "a test")  # pyright: ignore[reportArgumentType]
    assert Facts("rank", "a test", {"moments"}).needs == {"student", "moments"}


@dataclasses.dataclass(frozen=True)
class Grabbing:
    """Touches one thing of the context when it scores."""

    what: str
    needs: frozenset = frozenset()

    @property
    def facts(self):
        return Facts("rank", "a test", self.needs)

    def prepare(self, ctx):
        def score(examples):
            if self.what == "student":
                return [float(x) for x in gradients.losses(ctx.student, examples)]
            if self.what == "optimizer":
                next(iter(ctx.student.optimizer.param_groups))
            if self.what == "moments":
                assert any(ctx.student.optimizer.state.values()), "there are none"
            if self.what == "warm-up set":
                assert list(ctx.warmup)
            return [float(len(e.response)) for e in examples]

        return score


@pytest.mark.parametrize(
    ("what", "enough", "missing"),
    [
        ("student", {"student"}, "student"),
        ("optimizer", {"moments"}, "student"),
        ("optimizer", {"gradients"}, "moments"),
        ("warm-up set", {"warmup"}, "warmup"),
    ],
)
def test_a_method_that_touches_what_it_did_not_name_is_caught(what, enough, missing):
    named = {"student"} if missing == "moments" else set()
    line = rf"touches the [\w-]+( set)? and does not name '{missing}' among its needs"
    with pytest.raises(testing.ContractError, match=line):
        testing.check_estimator(Grabbing(what, frozenset(named)))
    if "gradients" not in enough and "moments" not in enough:
        testing.check_estimator(Grabbing(what, frozenset(enough)))


def test_moments_that_were_not_named_are_not_there(tmp_path):
    ctx = testing.tiny_context(tmp_path)
    candidates = testing.tiny_examples("candidate", 2)
    with pytest.raises(AssertionError, match="there are none"):
        granting.prepare(Grabbing("moments", frozenset({"gradients"})), ctx, "x")(candidates)
    granting.prepare(Grabbing("moments", frozenset({"moments"})), ctx, "x")(candidates)


def test_a_missing_judge_or_language_model_is_said_before_anything_is_computed(tmp_path):
    ctx = dataclasses.replace(testing.tiny_context(tmp_path), judge=None)
    with pytest.raises(UserError, match="'x' asks a judge and the run has none"):
        granting.prepare(Grabbing("", frozenset({"judge"})), ctx, "x")


def test_the_report_lists_what_was_checked():
    text = str(testing.check_estimator(registry.build("gradient_dot")))
    assert text.startswith("GradientDot keeps its promises:")
    for promise in (
        "scored one at a time",
        "in reverse order",
        "a copy of the only reference scores above 0",
        "each trained alone: embeddings, self_attn, mlp, norms and biases",
    ):
        assert promise in text


@dataclasses.dataclass(frozen=True)
class Natural:
    """Divides by a Fisher matrix of the last norm, which is singular where that is not trained."""

    everything: bool = False
    """Gradients by all parameters of the model, trained or not."""

    facts = Facts("signed", "a test", {"gradients", "warmup"})

    def prepare(self, ctx):
        model = ctx.student.model
        weights = [p for p in model.parameters() if p.requires_grad or self.everything]
        norm = model.get_decoder().norm.weight
        fitted = [gradients.gradient(ctx.student, weights, e) for e in ctx.warmup]
        own = [[g[:2] for w, g in zip(weights, row, strict=True) if w is norm] for row in fitted]
        rows = torch.stack([row[0] if row else torch.zeros(2) for row in own])
        scale = torch.linalg.inv(rows.T @ rows).trace()
        mean = gradients.mean_gradient(ctx.student, weights, ctx.reference)

        def score(examples):
            each = [gradients.gradient(ctx.student, weights, e) for e in examples]
            return [gradients.dot(mean, row) / float(scale.abs()) for row in each]

        return score


def test_a_natural_gradient_that_is_singular_for_a_part_alone_is_not_failed_for_it():
    text = str(testing.check_estimator(Natural()))
    assert "not told whether they notice the embeddings: trained alone, _LinAlgError" in text


def test_gradients_by_weights_that_are_not_trained_are_named_as_such():
    with pytest.raises(testing.ContractError, match="takes gradients by weights that are not trai"):
        testing.check_estimator(Natural(everything=True))

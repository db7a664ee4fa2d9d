"""Wherever weights and moments lie, and however passes are carried out, scores are the same."""

import contextlib
import dataclasses
import gc
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch

from influbench import models, scoring, testing, training
from influbench.derivatives import directional, gradients, graphed, step
from influbench.errors import UserError
from influbench.estimator import Context, as_scores, granting
from influbench.estimators.adam_jvp import AdamJvp
from influbench.estimators.exact import Exact
from influbench.estimators.excess_loss import ExcessLoss
from influbench.estimators.first_order import FirstOrder
from influbench.estimators.gradient_dot import GradientDot
from influbench.estimators.less import Less
from influbench.estimators.loss_covariance import LossCovariance
from influbench.executors import team
from influbench.models import halving
from influbench.scoring import holding
from influbench.store import Store
from influbench.store.session import Session
from influbench.student import budgets, fused, packing
from influbench.student.casting import linear_layers
from influbench.student.language_student import Compute, LanguageStudent
from influbench.student.placement import Placement, check_whole, place
from influbench.testing import student_state

CPU = torch.device("cpu")
CANDIDATES = testing.tiny_examples("candidate", 4)


def context(folder: Path, compute: Compute = "float32", kind: Placement = "device") -> Context:
    ctx = testing.tiny_context(folder)
    student = dataclasses.replace(language_student(ctx), compute=compute)
    return dataclasses.replace(ctx, student=place(student, CPU, kind))


def language_student(ctx: Context) -> LanguageStudent:
    assert isinstance(ctx.student, LanguageStudent)
    return ctx.student


def scores(method, ctx):
    return as_scores(method.prepare(ctx)(CANDIDATES), len(CANDIDATES)).value


@pytest.mark.parametrize("method", [Exact(), FirstOrder(), Less(proj_dim=64)])
@pytest.mark.parametrize("compute", ["float32", "bfloat16"])
def test_an_offloaded_student_gives_the_scores_of_one_on_the_device(method, compute, tmp_path):
    whole, away = (
        scores(method, context(tmp_path, compute, kind)) for kind in ("device", "offloaded")
    )
    # In bf16 the gradient is kept as it was computed, where autocast's sum of two tied ones is not.
    assert np.abs(away - whole).max() <= (1e-6 if compute == "float32" else 1e-3) * np.ptp(whole)


@pytest.mark.parametrize("method", [ExcessLoss(), LossCovariance(draws=8, scale=0.02)])
@pytest.mark.parametrize("compute", ["float32", "bfloat16"])
def test_methods_that_move_the_weights_themselves_do_so_from_the_masters(method, compute, tmp_path):
    whole, away = (context(tmp_path, compute, kind) for kind in ("device", "offloaded"))
    before = student_state.snapshot(away.student)
    found = [scores(method, ctx) for ctx in (whole, away)]
    assert student_state.same(before, student_state.snapshot(away.student))
    # In bf16 embeddings and norms are rounded too, where autocast rounds what linear layers read.
    limit = 1e-5 if compute == "float32" else 0.05
    assert np.abs(found[0] - found[1]).max() <= limit * np.ptp(found[0])


def test_several_steps_of_excess_loss_refuse_masters_elsewhere(tmp_path):
    with pytest.raises(UserError, match="several steps in a row need"):
        scores(ExcessLoss(k=2), context(tmp_path, "bfloat16", "offloaded"))


@pytest.mark.parametrize("kept", [True, False])
def test_an_offloaded_student_is_left_as_it_was(kept, tmp_path, monkeypatch):
    monkeypatch.setattr(step, "_room", lambda _: kept)
    ctx = context(tmp_path, "bfloat16", "offloaded")
    before = student_state.snapshot(ctx.student)
    first = scores(Exact(), ctx)
    assert student_state.same(before, student_state.snapshot(ctx.student))
    assert np.array_equal(scores(Exact(), ctx), first)


@pytest.mark.parametrize("way", ["jvp", "ghost", "central_difference"])
def test_offloaded_placement_gives_the_derivatives_of_one_on_the_device(way, tmp_path):
    method = AdamJvp(method=way, step=3e-3 if way == "central_difference" else None)
    whole, away = (
        scores(method, context(tmp_path, "bfloat16", kind)) for kind in ("device", "offloaded")
    )
    assert np.corrcoef(whole, away)[0, 1] > 0.99


def test_a_central_difference_of_an_offloaded_placement_steps_from_the_masters(tmp_path):
    """A step that is lost in bf16's last place must not be lost in the sum."""
    ctx = context(tmp_path, "bfloat16", "offloaded")
    weights = step.next_update(ctx.student).weights
    narrow = next(n for n, w in enumerate(weights) if w.dtype == torch.bfloat16)
    masters = gradients.masters(ctx.student, weights)
    seen = []
    # A master just below the middle between two numbers of bf16: a tiny step goes over it.
    with torch.no_grad():
        masters[narrow].fill_(1 + 2**-8 - 1e-6)
        weights[narrow].copy_(masters[narrow])
    direction = [torch.zeros_like(m) for m in masters]
    direction[narrow].fill_(1e-4)
    derivative = directional.by_central_difference(ctx.student, weights, direction, 1e-3)
    kind = type(ctx.student)
    own = kind.loss

    def watched(student, batch):
        seen.append(float(weights[narrow].detach().float().mean()))
        return own(student, batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kind, "loss", watched)
        derivative(CANDIDATES[:1])
    assert max(seen) > 1
    assert min(seen) <= 1
    assert float(weights[narrow].detach().float().max()) == 1


def test_a_method_without_moments_sees_the_masters_of_an_offloaded_placement(tmp_path):
    ctx = context(tmp_path, "bfloat16", "offloaded")
    seen = []

    @dataclasses.dataclass(frozen=True)
    class Looks(GradientDot):
        def prepare(self, ctx):
            seen.extend(
                gradients.mean_gradient(ctx.student, list(ctx.student.model.parameters()), [])
            )
            assert not any("exp_avg" in state for state in ctx.student.optimizer.state.values())
            return super().prepare(ctx)

    granting.prepare(Looks(), ctx, "looks")
    assert {g.dtype for g in seen} == {torch.float32}


def test_a_toolkit_refuses_a_placement_with_rounded_weights(tmp_path):
    with pytest.raises(UserError, match="placement = device"):
        check_whole(language_student(context(tmp_path, "bfloat16", "offloaded")), "trak")
    check_whole(language_student(context(tmp_path, "float32", "offloaded")), "trak")
    check_whole(language_student(context(tmp_path, "bfloat16", "device")), "trak")


@pytest.mark.parametrize("method", [Exact(), FirstOrder(), AdamJvp(method="jvp")])
def test_what_a_method_keeps_beside_a_placement_goes_with_its_scorer(method, tmp_path):
    ctx = context(tmp_path)
    before = alive()
    scorer = method.prepare(ctx)
    scorer(CANDIDATES[:1])
    kept = alive() - before
    assert kept
    tensors = [weakref.ref(o) for o in gc.get_objects() if isinstance(o, torch.Tensor)]
    mine = [t for t in tensors if (o := t()) is not None and id(o) in kept]
    gc.disable()
    try:
        del scorer, o
        assert not [t for t in mine if t() is not None]
    finally:
        gc.enable()


def alive():
    gc.collect()
    return {id(o) for o in gc.get_objects() if isinstance(o, torch.Tensor)}


def test_what_is_offloaded_keeps_its_weights_in_fp32_and_multiplies_in_bf16(tmp_path):
    ctx = context(tmp_path, "bfloat16", "offloaded")
    narrow = {id(w) for w in ctx.student.model.parameters() if w.dtype == torch.bfloat16}
    update = step.next_update(ctx.student)
    assert {
        id(slot.weight) for slot in update.slots if slot.weight.dtype != torch.float32
    } == narrow
    assert len(narrow) == 14  # the linear layers; the head is tied to the embedding
    for slot in update.slots:
        assert slot.master.dtype == torch.float32
        assert slot.master.data_ptr() != slot.weight.data_ptr()
        assert torch.equal(slot.weight, slot.master.to(slot.weight.dtype))


def test_a_weight_rounded_once_a_step_is_autocasts_bit_for_bit(tmp_path, monkeypatch):
    once = scores(Exact(), context(tmp_path, "bfloat16"))
    taken = []

    def plain(update, student=None):
        taken.append(student)
        return whole(update)

    whole = step.excursion
    monkeypatch.setattr(step, "excursion", plain)
    every_time = scores(Exact(), context(tmp_path, "bfloat16"))
    assert taken
    assert np.array_equal(once, every_time)


def test_a_tied_head_is_no_layer_to_round_ahead():
    model = testing.tiny_student().model
    head = model.get_output_embeddings()
    layers = linear_layers(model)
    assert head not in layers.values()
    assert len(layers) == 14


def test_a_row_at_a_fixed_size_has_the_students_loss_and_gradient(tmp_path):
    """What a GPU records and replays."""
    student = language_student(context(tmp_path))
    weights: gradients.Tensors = list(student.model.parameters())
    pad = student.tokenizer.pad_token_id
    assert isinstance(pad, int)
    for example in CANDIDATES:
        row = student.encode(example)
        size = graphed.size_of(row)
        laid = graphed.padded(row, size, CPU, pad)
        assert laid.ids.shape == (1, size[0])
        assert not size[0] % graphed.STEP
        ours = graphed.loss(student, laid)
        found = torch.autograd.grad(ours, weights)
        right = gradients.gradient(student, weights, example)
        assert float(ours.detach()) == pytest.approx(
            gradients.losses(student, [example])[0], rel=1e-6
        )
        assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(found, right, strict=True))


def test_a_gradient_left_in_bf16_has_the_numbers_of_autocasts_in_fp32(tmp_path):
    student = language_student(context(tmp_path, "bfloat16"))
    weights: gradients.Tensors = list(student.model.parameters())
    row = student.encode(CANDIDATES[0])
    laid = graphed.padded(row, graphed.size_of(row), CPU, 0)
    layers = graphed.narrow_layers(student, weights)
    assert len(layers) == 14
    own = {number: layer.weight for number, layer in layers.items()}
    loss, wide = graphed.derivative(student, weights, laid, {})
    narrow_loss, narrow = graphed.derivative(student, weights, laid, layers)
    assert float(narrow_loss) == float(loss)
    for number, (ours, right) in enumerate(zip(narrow, wide, strict=True)):
        assert right.dtype == torch.float32
        assert ours.dtype == (torch.bfloat16 if number in layers else torch.float32)
        assert torch.equal(ours.float(), right)
    assert all(layer.weight is own[number] for number, layer in layers.items())
    assert all(w is weights[number] for number, w in own.items())


def test_products_in_fp32_leave_no_gradient_narrow(tmp_path):
    student = language_student(context(tmp_path))
    assert not graphed.narrow_layers(student, list(student.model.parameters()))


def test_a_narrow_gradient_is_measured_and_divided_as_a_wide_one():
    narrow = [torch.randn(1000).bfloat16(), torch.randn(50)]
    wide = [g.float() for g in narrow]
    assert gradients.norm(narrow) == pytest.approx(gradients.norm(wide), rel=1e-6)
    right = [g / 3 for g in wide]
    for ours, theirs in zip(Exact(divide_by_workers=3)._divided(narrow), right, strict=True):
        assert torch.equal(ours, theirs)


def test_a_row_takes_the_place_of_another(tmp_path):
    student = language_student(context(tmp_path))
    one, two = (graphed.padded(student.encode(e), (256, 128), CPU, 0) for e in CANDIDATES[:2])
    expected = float(graphed.loss(student, two).detach())
    one.take(two)
    assert float(graphed.loss(student, one).detach()) == expected


def test_compiled_layers_give_the_same_losses_and_are_put_back(tmp_path):
    student = language_student(context(tmp_path))
    (batch,) = student.batches(CANDIDATES)
    decoder = student.model.get_decoder()
    own = decoder.layers
    assert isinstance(own, torch.nn.ModuleList)
    with torch.no_grad():
        plain = packing.hidden(student.model, batch.packing)
        with fused.layers(decoder, backend="aot_eager"):
            assert all(layer._compiled_call_impl is not None for layer in own)
            compiled = packing.hidden(student.model, batch.packing)
    assert torch.allclose(plain, compiled, atol=1e-5)
    assert all(layer._compiled_call_impl is None for layer in own)


@pytest.fixture(scope="module")
def warm_student(tmp_path_factory):
    cfg = training.WarmupConfig(device="cpu", batch_size=2)
    store, pairs = Store(tmp_path_factory.mktemp("warm")), testing.tiny_examples("warm", 4)
    return store.run(training.WARM_UP, cfg, pairs, models.resolve("tiny")).model("student")


def scored(folder, student, estimator="exact", **settings):
    session = Session(Store(folder))
    method = scoring.MethodConfig(estimator=estimator, device="cpu", **settings)
    inputs = CANDIDATES[:2], testing.tiny_examples("reference", 3), []
    return scoring.score_candidates(session, method, *inputs, student).scores


def test_layers_are_compiled_on_a_gpu_where_passes_pay_and_packing_allows(
    tmp_path, monkeypatch, warm_student
):
    used = []

    @contextlib.contextmanager
    def layers(decoder):
        used.append(decoder)
        with compiled(decoder, backend="aot_eager"):
            yield

    compiled = fused.layers
    monkeypatch.setattr(fused, "layers", layers)
    plain = [s.value for s in scored(tmp_path / "plain", warm_student)]
    assert not used
    monkeypatch.setattr(fused, "possible", lambda _: True)  # as if the CPU were a GPU
    scored(tmp_path / "few", warm_student)
    assert not used
    monkeypatch.setattr(holding, "PAYS", 2)
    scored(tmp_path / "off", warm_student, compile="off")
    scored(tmp_path / "no_references", warm_student, "loss")
    assert not used
    found = [s.value for s in scored(tmp_path / "auto", warm_student)]
    assert used
    assert np.abs(np.subtract(found, plain)).max() < 1e-4 * abs(plain[0] - plain[1])


def test_what_cannot_be_compiled_for_packing_or_the_device_is_refused_when_asked_for(
    tmp_path, monkeypatch, warm_student
):
    with pytest.raises(UserError, match="expected a CUDA device and Triton, got device 'cpu'"):
        scored(tmp_path, warm_student, compile="on")
    monkeypatch.setattr(fused, "possible", lambda _: True)
    monkeypatch.setattr(packing, "works", lambda _: False)
    with pytest.raises(UserError, match="'llama' are not compiled"):
        scored(tmp_path, warm_student, compile="on")


def test_processes_and_a_sharded_placement_need_each_other(tmp_path, monkeypatch, warm_student):
    with pytest.raises(UserError, match="start with torchrun"):
        scored(tmp_path, warm_student, placement="sharded")
    monkeypatch.setattr(team, "size", lambda: 2)
    with pytest.raises(UserError, match=r"torchrun started 2 processes and .* auto uses one"):
        scored(tmp_path, warm_student)
    with pytest.raises(UserError, match="leave it out"):
        scored(tmp_path, warm_student, placement="sharded", workers=2)
    with pytest.raises(UserError, match="'first_order' does not work on a student in shards"):
        scored(tmp_path, warm_student, "first_order", placement="sharded")


def test_compiling_is_part_of_what_scores_are_kept_under_where_it_was_asked_for():
    auto, on = (scoring.MethodConfig(estimator="exact", compile=c) for c in ("auto", "on"))
    assert "compile" not in auto.identity()
    assert on.identity()["compile"] == "on"


class Full:
    """A device without room for more than so many rows."""

    def __init__(self, rows, loss):
        self.rows = rows
        self.loss = loss
        self.calls = []

    def __call__(self, student, batch, **how):
        self.calls.append(len(batch.rows))
        if len(batch.rows) > self.rows:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate a lot")
        return self.loss(student, batch, **how)


@contextlib.contextmanager
def full(monkeypatch, rows):
    with monkeypatch.context() as patch:
        kind = type(testing.tiny_student())
        device = Full(rows, kind.loss)
        patch.setattr(kind, "loss", lambda student, batch, **how: device(student, batch, **how))
        yield device


def test_out_of_memory_halves_the_batch_and_is_noted_once(tmp_path, monkeypatch):
    ctx = context(tmp_path)
    whole = scores(Exact(), ctx)
    first = scores(FirstOrder(), ctx)
    with full(monkeypatch, 1) as device:
        assert np.abs(scores(Exact(), ctx) - whole).max() < 1e-4 * np.ptp(whole)
        assert np.abs(scores(FirstOrder(), ctx) - first).max() < 1e-4 * np.ptp(first)
        assert max(device.calls) > 1
        tried = sum(rows > 1 for rows in device.calls)
        scores(Exact(), ctx)
        assert sum(rows > 1 for rows in device.calls) == tried  # what failed is not tried again
    without, learning = language_student(ctx).room.notes
    assert "halves" in without
    assert "with gradients" in learning


def test_what_was_halved_is_noted_by_the_stage(tmp_path, monkeypatch):
    session = Session(Store(tmp_path))
    method = scoring.MethodConfig(estimator="loss", device="cpu")
    inputs = CANDIDATES, testing.tiny_examples("reference", 3), [], models.resolve("tiny")
    with full(monkeypatch, 1):
        scoring.score_candidates(session, method, *inputs)
    (note,) = session.notes
    assert note.startswith("loss: out of memory with")
    assert "halves" in note


def test_one_example_without_room_is_one_clear_line(tmp_path, monkeypatch):
    ctx = context(tmp_path)
    with full(monkeypatch, 0), pytest.raises(UserError, match="no memory is left on cpu") as error:
        scores(Exact(), ctx)
    assert "placement = offloaded" in str(error.value)
    assert "\n" not in str(error.value)


def test_one_example_waits_for_other_processes_on_the_gpu(tmp_path, monkeypatch):
    ctx = context(tmp_path)
    whole = scores(FirstOrder(), ctx)
    waits = []
    monkeypatch.setattr(halving, "crowded", lambda: True)
    with full(monkeypatch, 0) as device:

        def sleep(seconds):
            waits.append(seconds)
            device.rows = 1

        monkeypatch.setattr(halving.time, "sleep", sleep)
        assert np.abs(scores(FirstOrder(), ctx) - whole).max() < 1e-4 * np.ptp(whole)
    assert waits == [2.0]


def test_a_budget_is_what_two_passes_say_a_token_costs():
    # 100 bytes a token and 5,000 whatever the batch.
    found = budgets.budget(
        1_000_000, [5_000 + 100 * 1024, 5_000 + 100 * 3072], (1024, 3072), 1 << 20
    )
    assert found == int((0.85 * 1_000_000 - 5_000) / 100)
    assert budgets.budget(10**12, [1, 2], (1024, 3072), 777) == 777
    assert budgets.budget(0, [10**6, 10**7], (1024, 3072), 777) == budgets.LEAST


def test_passes_that_learn_may_have_a_budget_of_their_own(tmp_path):
    student = dataclasses.replace(
        language_student(context(tmp_path)), token_budget=4096, learning_budget=256
    )
    assert len(student.batches(CANDIDATES)) == 1
    assert len(student.batches(CANDIDATES, learning=True)) > 1
    whole = context(tmp_path).student
    pairs = zip(*(mean_of(held) for held in (student, whole)), strict=True)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in pairs)


def mean_of(student):
    return gradients.mean_gradient(student, list(student.model.parameters()), CANDIDATES)

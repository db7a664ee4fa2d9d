"""All tensors in one launch: every element is stepped once, by whatever kernel reads the tables."""

import ast
import ctypes
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from influbench.derivatives import step_kernels, step_together, update

SIZES = 100, 16, 1, 37, 0, 48
WIDTH = 16


def at(place, dtype, count):
    size = torch.empty((), dtype=dtype).element_size()
    return torch.frombuffer((ctypes.c_char * (size * count)).from_address(place), dtype=dtype)


class Kernels(SimpleNamespace):
    """Reads the tables as the kernel does, on a CPU."""

    WIDTH = WIDTH

    def __init__(self):
        super().__init__(calls=[])

    def all_tensors(self, programs, partial, tables, factor, **kind):
        self.calls.append(kind)
        places, constants, counts, owners, starts = tables
        for program in range(programs):
            owner, start = int(owners[program]), int(starts[program])
            stop = start + kind["width"] if kind["whole"] else int(counts[owner])
            assert start < stop <= min(start + kind["width"], int(counts[owner]))
            kept, beta1, beta2, fresh1, fresh2, eps, value = constants[owner].tolist()
            f32 = torch.float32
            dtypes = kind["other"], f32, f32, f32, kind["gradient"]
            assert not kind["aligned"] or not any(p % 16 for p in places[owner].tolist())
            other, weight, first, second, g = (
                at(place, dtype, stop)[start:stop] if dtype else torch.zeros(stop - start)
                for place, dtype in zip(places[owner].tolist(), dtypes, strict=True)
            )
            g = g.float() * float(factor)
            m, v = first * beta1 + g * fresh1, second * beta2 + g * g * fresh2
            change = m / (v.sqrt() + eps) * value
            if kind["keeping"]:
                change += weight * kept
            if partial is None:
                other.copy_(change)
            else:
                partial[program] = torch.dot(other.float(), change)


@pytest.fixture
def kernels():
    return Kernels()


@pytest.fixture
def slots():
    torch.manual_seed(0)

    def slot(number, count):
        odd = number % 2
        return step_kernels.Slot(
            weight=torch.randn(count + odd)[odd:],  # every second one is at an odd address
            moments=(torch.randn(count) * 0.01, torch.rand(count) * 1e-4),
            step=7 + odd,
            lr=1e-3 * (1 + odd),
            weight_decay=0.1 * (number > 2),
            betas=(0.9, 0.999 - 0.01 * odd),
            eps=1e-8,
            adam=True,
        )

    return tuple(slot(*pair) for pair in enumerate(SIZES))


def drawn(slots, dtype=torch.float32):
    return [torch.randn(s.weight.shape).to(dtype) for s in slots]


def pair(slots, kernels, monkeypatch, clip_norm=1.0):
    """The step in one launch, and as a CPU takes it."""
    monkeypatch.setattr(update, "together", lambda held: step_together.Together(held, kernels))
    ours = update.Update(slots, clip_norm)
    assert ours.at_once is not None  # found once, kept
    monkeypatch.undo()
    return ours, update.Update(slots, clip_norm)


def close(ours, theirs):
    pairs = zip(ours, theirs, strict=True)
    return all(torch.allclose(a, b, rtol=1e-5, atol=1e-8) for a, b in pairs)


@pytest.mark.parametrize("gradient", [None, torch.float32, torch.bfloat16])
def test_all_tensors_take_the_step_that_each_takes_alone(slots, kernels, monkeypatch, gradient):
    ours, theirs = pair(slots, kernels, monkeypatch)
    g = None if gradient is None else drawn(slots, gradient)
    assert close(ours.delta(g), theirs.delta(g))
    outs = [[torch.full_like(s.weight, float("nan")) for s in slots] for _ in range(2)]
    for one, out in zip((ours, theirs), outs, strict=True):
        one.apply(g, out)
    assert close(*outs)
    for direction in drawn(slots), drawn(slots, torch.bfloat16):
        products = zip(direction, theirs.delta(g), strict=True)
        size = sum(float((a.float() * b).abs().sum()) for a, b in products)
        assert ours.dot(direction, g) == pytest.approx(theirs.dot(direction, g), abs=1e-6 * size)


def test_a_result_in_bf16_is_rounded_once(slots, kernels, monkeypatch):
    ours, theirs = pair(slots, kernels, monkeypatch)
    g = drawn(slots)
    wide, narrow = drawn(slots), drawn(slots, torch.bfloat16)
    theirs.apply(g, wide)
    ours.apply(g, narrow)
    for a, b in zip(narrow, wide, strict=True):
        assert torch.allclose(a.float(), b, rtol=2**-8)


def test_tensors_of_one_kind_share_a_launch(kernels):
    kinds = {"step": 1.0, "lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "adam": True}

    def slot(count, decay):
        moments = torch.zeros(count), torch.ones(count)
        return step_kernels.Slot(torch.ones(count), moments, weight_decay=decay, **kinds)

    slots = [slot(WIDTH * n, n / 100) for n in range(1, 20)]
    step = step_together.Together(slots, kernels)
    step.step(drawn(slots), [torch.empty_like(s.weight) for s in slots], 1.0, add=True)
    (call,) = kernels.calls
    assert call["whole"]
    assert call["aligned"]
    mixed = [*drawn(slots)[:-1], torch.zeros(WIDTH * 19).bfloat16()]
    step.step(mixed, drawn(slots), 1.0, add=True)
    assert len(kernels.calls) == 3


def test_tensors_that_move_are_read_where_they_are(slots, kernels, monkeypatch):
    ours, theirs = pair(slots, kernels, monkeypatch)
    several = [drawn(slots) for _ in range(3)]  # all alive: no memory is used twice
    for g in several:
        assert close(ours.delta(g), theirs.delta(g))
    for slot in slots:
        slot.weight.data = torch.randn(slot.weight.shape)
        slot.moments[0].data = torch.randn(slot.weight.shape)
    assert close(ours.delta(several[0]), theirs.delta(several[0]))


def test_a_tensor_with_gaps_is_copied_where_it_is_read_and_refused_where_it_is_written(
    slots, kernels, monkeypatch
):
    ours, theirs = pair(slots, kernels, monkeypatch)
    g = [torch.randn(*s.weight.shape, 2)[:, 0] for s in slots]
    assert close(ours.delta(g), theirs.delta(g))
    assert ours.dot(g, g) == pytest.approx(theirs.dot(g, g), rel=1e-5)
    gaps = [torch.empty(2, n, 2).transpose(0, 1)[..., 0] for n in SIZES]
    with pytest.raises(RuntimeError, match="view"):
        ours.apply(None, gaps)


def test_a_tensor_of_another_size_is_refused_before_an_address_hides_it(slots, kernels):
    step = step_together.Together(slots, kernels)
    wrong = [torch.empty(n + 1) for n in SIZES]
    with pytest.raises(ValueError, match="expected 100 elements on cpu, got 101"):
        step.step(None, wrong, 1.0, add=True)


def test_the_clipping_of_a_step_in_one_launch_stays_on_the_device(slots, kernels, monkeypatch):
    ours, theirs = pair(slots, kernels, monkeypatch, clip_norm=0.5)
    g = drawn(slots)
    factor = ours._factor(g)
    assert isinstance(factor, torch.Tensor)
    assert float(factor) == theirs.scale(g) == theirs._factor(g)
    assert close(ours.delta(g), theirs.delta(g))


def test_a_cpu_goes_without_launches(slots):
    assert step_together.together(slots) is None


HERE = Path(step_kernels.__file__).parent

INTERPRETED = """
import os
os.environ["TRITON_INTERPRET"] = "1"
import torch
from influbench.derivatives import step_kernels, step_together, step_triton
torch.manual_seed(0)

def slot(count, decay, lr, step, betas, odd):
    moments = torch.randn(count) * 0.01, torch.rand(count) * 1e-4
    weight = torch.randn(count + odd)[odd:]
    return step_kernels.Slot(weight, moments, step, lr, decay, betas, 1e-8, adam=True)

slots = [
    slot(5000, 0.1, 1e-3, 7, (0.9, 0.999), 0), slot(2048, 0.0, 1e-3, 7, (0.9, 0.999), 0),
    slot(1, 0.1, 1e-2, 3, (0.8, 0.95), 0), slot(4112, 0.0, 2e-3, 9, (0.9, 0.999), 0),
    slot(3001, 0.1, 1e-3, 7, (0.9, 0.999), 1),
]
step = step_together.Together(slots, step_triton)
draw = lambda dtype: [torch.randn(s.weight.shape).to(dtype) for s in slots]
kinds = torch.float32, torch.bfloat16
mixed = [g.bfloat16() if n % 2 else g for n, g in enumerate(draw(torch.float32))]
for g in (None, mixed, *map(draw, kinds)):
    for add in (True, False):
        for dtype in kinds:
            outs = [[torch.full_like(s.weight, float("nan"), dtype=dtype) for s in slots]
                    for _ in range(3)]
            step.step(g, outs[0], 0.7, add=add)
            for out, alone in zip(outs[1:], (step_triton.step, step_kernels.by_passes)):
                for piece in step_kernels.pieces(slots, g, out, add=add, size=None):
                    alone(piece, 0.7)
            assert all(torch.equal(a, b) for a, b in zip(*outs[:2])), (add, dtype)
            if dtype == torch.float32:
                for a, b in zip(outs[0], outs[2]):
                    assert torch.allclose(a, b, rtol=1e-5, atol=1e-8), add
            if add or dtype != torch.float32:
                continue
            for direction in map(draw, kinds):
                products = [a.double() * b.double() for a, b in zip(direction, outs[2])]
                right = sum(float(p.sum()) for p in products)
                ours = float(step.dot(direction, g, torch.tensor(0.7, dtype=torch.float64)))
                assert abs(ours - right) <= 1e-6 * sum(float(p.abs().sum()) for p in products)
"""


def test_the_kernel_interpreted_gives_the_bits_of_one_launch_a_tensor():
    pytest.importorskip("triton")
    subprocess.run([sys.executable, "-c", INTERPRETED], check=True)


COMPILED = """
import re
import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from influbench.derivatives import step_triton

def loads(**kind):
    kind = {"KEEPING": True, "LEARNING": True, "WIDTH": step_triton.WIDTH, **kind}
    names = "partial places constants counts owners starts factor".split()
    kinds = ["*fp32" if kind["DOT"] else "*fp64", "*i64", "*fp64", "*i64", "*i32", "*i64", "*fp64"]
    told = dict(zip(names, kinds)) | {name: "constexpr" for name in kind}
    aligned = {(n,): [["tt.divisibility", 16]] for n in range(7)}
    source = ASTSource(step_triton._adamw_all, told, kind, aligned)
    text = triton.compile(source, target=GPUTarget("cuda", 90, 32)).asm["ptx"]
    assert "div.rn.f32" in text and "sqrt.rn.f32" in text
    found = lambda what: len(re.findall(what, text))
    wide = [found(rf"{way}\\.global\\S*\\.v4") for way in ("ld", "st")]
    return *wide, found(r"ld\\.global\\.b(16|32) ")

for other in (tl.float32, tl.bfloat16):
    for gradient in (tl.float32, tl.bfloat16):
        same = dict(OTHER=other, GRADIENT=gradient, WHOLE=True)
        wide = {tl.float32: 4, tl.bfloat16: 2}
        for dot in (False, True):
            v4, stored, narrow = loads(**same, ALIGNED=True, DOT=dot)
            assert v4 == 12 + wide[gradient] + dot * wide[other], v4
            assert stored == (0 if dot else wide[other]), stored
            assert narrow <= 1, narrow  # the owner
assert loads(OTHER=tl.float32, GRADIENT=tl.float32, WHOLE=True, ALIGNED=False, DOT=False)[0] == 0
"""


def test_the_kernel_compiled_for_an_h100_reads_16_bytes_at_a_time(tmp_path, monkeypatch):
    pytest.importorskip("triton")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    subprocess.run([sys.executable, "-c", COMPILED], check=True)


def test_arguments_of_triton_kernels_are_annotated_as_triton_reads_them():
    """Triton evaluates them as globals of the kernel: anything but its own fails on a GPU."""
    functions = [
        node
        for node in ast.parse((HERE / "step_triton.py").read_text()).body
        if isinstance(node, ast.FunctionDef)
        and any(ast.unparse(d) == "triton.jit" for d in node.decorator_list)
    ]
    assert {"_adamw", "_adamw_all"} <= {f.name for f in functions}
    for function in functions:
        found = {ast.unparse(a.annotation) for a in function.args.args if a.annotation is not None}
        assert found == {"tl.constexpr"}

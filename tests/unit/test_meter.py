import copy
import gc
import json
import mmap
import time
import weakref
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.func import functional_call, grad, jacrev, jvp, vjp, vmap
from transformers import LlamaConfig, LlamaForCausalLM

from influbench.data.records import LedgerRow
from influbench.store import Meter, passes, peak_memory
from influbench.store import ledger as meter_module


def row(meter: Meter, phase: str) -> LedgerRow:
    (found,) = [r for r in meter.rows() if r.phase == phase]
    return found


def counts(meter: Meter, phase: str = "p") -> tuple[float, float, int]:
    found = row(meter, phase)
    return found.forward_passes, found.backward_passes, found.tokens


@pytest.fixture(scope="module")
def llama() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=50,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        use_cache=False,
    )
    model = LlamaForCausalLM(config).eval()
    model.set_attn_implementation("eager")
    return model


IDS = torch.arange(15).reshape(3, 5)


def backbone_loss(model: LlamaForCausalLM, ids: torch.Tensor) -> torch.Tensor:
    """As the student does it: the backbone, then the head on some positions."""
    hidden = model.model(input_ids=ids).last_hidden_state
    return model.lm_head(hidden[:, 2:]).logsumexp(-1).mean()


def root_loss(model: LlamaForCausalLM, ids: torch.Tensor) -> torch.Tensor:
    loss = model(input_ids=ids, labels=ids).loss
    assert loss is not None
    return loss


@pytest.mark.parametrize("loss", [backbone_loss, root_loss])
def test_a_forward_and_a_backward_count_each_sequence_once(llama, loss):
    meter = Meter()
    with meter.phase("p", models=[llama]):
        loss(llama, IDS).backward()
    assert counts(meter) == (3, 3, 15)


def test_naming_root_and_backbone_counts_once(llama):
    meter = Meter()
    with meter.phase("outer", models=[llama]), meter.phase("p", models=[llama, llama.model]):
        root_loss(llama, IDS)
    assert counts(meter) == (3, 0, 15)
    assert counts(meter, "outer") == (0, 0, 0)


def test_embeddings_count_positions_without_their_features(llama):
    meter = Meter()
    with meter.phase("p", models=[llama]), torch.no_grad():
        llama(inputs_embeds=torch.zeros(2, 7, 32))
    assert counts(meter) == (2, 0, 14)


def test_gradient_accumulation_adds_up(llama):
    meter = Meter()
    with meter.phase("p", models=[llama]):
        for ids in (IDS, IDS[:2], IDS[:1]):
            backbone_loss(llama, ids).backward()
        with torch.no_grad():
            backbone_loss(llama, IDS)
    assert counts(meter) == (9, 6, 45)


def test_per_example_gradients_count_every_example(llama):
    weights = {n: p.detach() for n, p in llama.named_parameters()}

    def loss(weights: dict[str, torch.Tensor], ids: torch.Tensor) -> torch.Tensor:
        return (
            functional_call(llama, weights, (), {"input_ids": ids[None]})
            .logits.logsumexp(-1)
            .mean()
        )

    meter = Meter()
    with meter.phase("p", models=[llama]):
        per_example = vmap(grad(loss), in_dims=(None, 0))(weights, IDS)
    assert counts(meter) == (3, 3, 15)
    bare = vmap(grad(loss), in_dims=(None, 0))(weights, IDS)
    assert all(torch.equal(per_example[n], bare[n]) for n in bare)


def test_a_tangent_is_one_more_forward(llama):
    weights = {n: p.detach() for n, p in llama.named_parameters()}

    def loss(weights: dict[str, torch.Tensor]) -> torch.Tensor:
        return functional_call(llama, weights, (), {"input_ids": IDS}).logits.logsumexp(-1).mean()

    meter = Meter()
    with meter.phase("p", models=[llama]):
        along = jvp(loss, (weights,), (weights,))
    assert counts(meter) == (6, 0, 30)
    bare = jvp(loss, (weights,), (weights,))
    assert torch.equal(along[0], bare[0])
    assert torch.equal(along[1], bare[1])


def toy() -> torch.nn.Module:
    torch.manual_seed(1)
    return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1))


def toy_loss(model: torch.nn.Module, weights: dict, x: torch.Tensor) -> torch.Tensor:
    return functional_call(model, weights, (x,)).pow(2).mean()


def each(model, weights, x):
    return vmap(lambda row: toy_loss(model, weights, row[None]))(x)


TRANSFORMS = {
    "plain": (lambda m, w, x: toy_loss(m, dict(m.named_parameters()), x).backward(), (5, 5)),
    "a cotangent that has no batch": (
        lambda m, w, x: vmap(
            lambda r: vjp(lambda w: functional_call(m, w, (r[None],)), w)[1](torch.ones(1, 1))
        )(x),
        (5, 5),
    ),
    "a tangent that has no batch": (
        lambda m, w, x: vmap(
            lambda r: jvp(
                lambda b: functional_call(m, {**w, "2.bias": b}, (r[None],)),
                (w["2.bias"],),
                (w["2.bias"],),
            )
        )(x),
        (10, 0),
    ),
    "Jacobian": (
        lambda m, w, x: jacrev(lambda w: functional_call(m, w, (x,)).squeeze(1))(w),
        (5, 25),
    ),
    "gradient of a vmap": (lambda m, w, x: grad(lambda w: each(m, w, x).mean())(w), (5, 5)),
    "backward of a vmap": (
        lambda m, w, x: each(m, dict(m.named_parameters()), x).mean().backward(),
        (5, 5),
    ),
    "tangent of a vmap": (lambda m, w, x: jvp(lambda w: each(m, w, x), (w,), (w,)), (10, 0)),
    "vmap of a tangent": (
        lambda m, w, x: vmap(
            lambda r: jvp(lambda w: toy_loss(m, w, r[None]), (w,), (w,)),
        )(x),
        (10, 0),
    ),
    "Hessian times vector": (
        lambda m, w, x: jvp(grad(lambda w: toy_loss(m, w, x)), (w,), (w,)),
        (10, 5),
    ),
    "many models at once": (
        lambda m, w, x: vmap(lambda w: toy_loss(m, w, x))(
            {n: torch.stack([v] * 7) for n, v in w.items()}
        ),
        (35, 0),
    ),
    "one row without a batch": (lambda m, w, x: m(x[0]), (1, 0)),
}


@pytest.mark.parametrize("name", TRANSFORMS)
def test_torch_func_transforms_are_counted(name):
    run, expected = TRANSFORMS[name]
    model, x = toy(), torch.randn(5, 3)
    weights = {n: p.detach() for n, p in model.named_parameters()}
    meter = Meter()
    with meter.phase("p", models=[model]):
        run(model, weights, x)
    assert counts(meter)[:2] == expected
    assert counts(meter)[2] == expected[0], "a row of features is one position"


@pytest.mark.parametrize("loss", [backbone_loss, root_loss])
def test_metering_changes_no_bit(llama, loss):
    def step() -> list[torch.Tensor]:
        llama.zero_grad()
        value = loss(llama, IDS)
        value.backward()
        return [value.detach(), *(p.grad.clone() for p in llama.parameters() if p.grad is not None)]

    bare = step()
    with Meter().phase("p", models=[llama]):
        metered = step()
    assert len(bare) == 1 + len(list(llama.parameters()))
    assert all(torch.equal(a, b) for a, b in zip(bare, metered, strict=True))


def test_generation_counts_each_sequence_once_and_every_position(llama):
    meter = Meter()
    with meter.phase("p", models=[llama]):
        llama.generate(
            IDS, max_new_tokens=4, min_new_tokens=4, do_sample=False, pad_token_id=0, use_cache=True
        )
    assert counts(meter) == (3, 0, 3 * (5 + 3)), "the last token is never sent forward"


def test_hooks_go_with_the_phase_and_hold_nothing(llama):
    meter = Meter()
    with meter.phase("p", models=[llama]):
        hidden = llama.model(input_ids=IDS).last_hidden_state
        gone = weakref.ref(hidden)
    assert not llama.model._forward_hooks
    del hidden
    gc.collect()
    assert gone() is None
    backbone_loss(llama, IDS).backward()
    assert counts(meter) == (3, 0, 15)


def test_a_copy_made_in_a_phase_is_counted():
    model, meter = toy(), Meter()
    with meter.phase("p", models=[model]):
        copy.deepcopy(model)(torch.zeros(2, 3))
    assert counts(meter) == (2, 0, 2)


def test_the_backbone_is_found_under_adapters(llama):
    peft = pytest.importorskip("peft")
    wrapped = peft.get_peft_model(
        copy.deepcopy(llama), peft.LoraConfig(target_modules=["q_proj"], r=2)
    )
    assert passes.backbone(wrapped) is wrapped.get_base_model().model
    meter = Meter()
    with meter.phase("p", models=[wrapped]):
        wrapped(input_ids=IDS).logits.sum().backward()
    assert counts(meter) == (3, 3, 15)


def test_nested_phases_share_the_time():
    meter = Meter()
    began = time.perf_counter()
    with meter.phase("run", items=2):
        time.sleep(0.05)
        with meter.phase("score", items=7):
            time.sleep(0.2)
        time.sleep(0.05)
    wall = time.perf_counter() - began
    run, score = row(meter, "run"), row(meter, "score")
    assert 0.2 <= score.seconds < wall - 0.1
    assert 0.1 <= run.seconds < wall - 0.2
    assert run.seconds + score.seconds <= wall
    assert (run.items, score.items) == (2, 7)
    assert [r.phase for r in meter.rows()] == ["run", "score"]


def test_equal_phases_add_up_and_the_larger_peak_stays():
    meter = Meter(stage="s", label="l")
    with meter.phase("judge", items=3) as phase:
        phase.add_api(2, 100, 10, 0.5)
    with meter.phase("judge", items=4) as phase:
        phase.add_api(1, 50, 5, 0.25)
        block = np.ones(20_000_000)
    peak = row(meter, "judge").peak_bytes
    del block
    with meter.phase("judge"):
        pass
    found = row(meter, "judge")
    assert (found.stage, found.label, found.items) == ("s", "l", 7)
    assert (found.api_calls, found.api_prompt_tokens, found.api_completion_tokens) == (3, 150, 15)
    assert found.money == 0.75
    assert found.peak_bytes == peak
    assert found.device_seconds == 0
    assert found.attempts == 1


@pytest.mark.parametrize("exact", [True, False])
def test_the_peak_is_that_of_the_phase(exact, monkeypatch, tmp_path):
    if not exact:
        monkeypatch.setattr(peak_memory, "RESET", tmp_path / "missing" / "clear_refs")
    elif not peak_memory.RESET.exists():
        pytest.skip("this kernel has no high-water mark to reset")
    meter, pages = Meter(), 40_000
    size = pages * mmap.PAGESIZE
    with meter.phase("before"):
        pass
    # Pages new to the process: an allocator may hand out resident ones that an earlier test freed.
    with meter.phase("large"), mmap.mmap(-1, size) as block:
        block[:: mmap.PAGESIZE] = bytes(pages)
        time.sleep(0.0 if exact else 0.15)
    with meter.phase("after"):
        pass
    before, large, after = (row(meter, n).peak_bytes for n in ("before", "large", "after"))
    assert large - before > 0.9 * size
    assert after - before < 0.3 * size, "what was freed before a phase is not the phase's"


def test_a_failed_phase_is_paid_but_handles_nothing():
    meter = Meter()

    def fail() -> None:
        time.sleep(0.02)
        raise RuntimeError

    with pytest.raises(RuntimeError), meter.phase("p", items=5):
        fail()
    assert row(meter, "p").items == 0
    assert row(meter, "p").seconds >= 0.02
    with meter.phase("q"):
        pass  # the failed phase is no longer open
    assert {r.phase for r in meter.rows()} == {"p", "q"}


def test_the_ledger_outlives_its_process(tmp_path, monkeypatch):
    path = tmp_path / "ledger.jsonl"
    first = Meter(path, stage="score", label="exact")
    monkeypatch.setattr(meter_module, "_attempt", lambda pid: "one")
    killed = first.phase("run", items=10)
    with killed as phase:
        phase.add_api(1, 1, 1)
        first.flush()
        phase.add_api(50, 1, 1)  # lost: after the last flush
        left = path.read_bytes()
    path.write_bytes(left + b'{"attempt": "one", "sta')  # as a power cut would leave it
    assert Meter(path).rows()[0].api_calls == 1
    monkeypatch.setattr(meter_module, "_attempt", lambda pid: "two")
    second = Meter(path, stage="score", label="exact")
    with second.phase("run", items=10) as phase:
        phase.add_api(2, 1, 1)
    (found,) = Meter(path).rows()
    assert (found.stage, found.label, found.phase) == ("score", "exact", "run")
    assert (found.attempts, found.items, found.api_calls) == (2, 10, 3)
    assert all(json.loads(line) for line in path.read_text().splitlines())


def test_the_devices_that_models_ran_on_are_told_and_only_those(tmp_path, monkeypatch):
    path = tmp_path / "ledger.jsonl"
    meter = Meter(path, stage="score")
    with meter.phase("text"):
        pass
    with meter.phase("run"):
        meter.forward(1, 5)
    with monkeypatch.context() as other:  # the next attempt, on another machine
        other.setattr(meter_module, "_in_words", lambda: "NVIDIA H100")
        with meter.phase("run"):
            meter.backward(1)
    older = json.loads(path.read_text().splitlines()[1]) | {"phase": "before"}
    del older["device"]
    path.write_text(path.read_text() + json.dumps(older) + "\n")
    devices = {found.phase: found.device for found in Meter(path).rows()}
    assert devices == {"text": "", "run": "cpu, NVIDIA H100", "before": ""}


def test_a_damaged_line_of_the_ledger_is_passed_over_and_told(tmp_path, capsys):
    path = tmp_path / "ledger.jsonl"
    meter = Meter(path, stage="score", label="exact")
    with meter.phase("run", items=10):
        pass
    whole = path.read_bytes()
    for odd in (b"{", b"null", b"[]", b"\xff", b"", b'{"attempt": 1}', whole.split(b"\n")[0][:-9]):
        path.write_bytes(odd + b"\n" + whole)
        (found,) = meter.rows()
        assert found.items == 10
        assert capsys.readouterr().err == f"{path}:1: damaged; what it cost is not counted\n"
    assert Meter(tmp_path / "none.jsonl").rows() == []
    (tmp_path / "empty.jsonl").touch()
    assert Meter(tmp_path / "empty.jsonl").rows() == []
    assert capsys.readouterr().err == ""


def test_gpus_in_use_are_waited_for_and_multiply_the_seconds(monkeypatch):
    calls: list[str] = []
    fake = SimpleNamespace(
        device_count=lambda: 3,
        max_memory_reserved=lambda d: 10 if d < 2 else 0,
        synchronize=lambda d: calls.append(f"wait {d}"),
        reset_peak_memory_stats=lambda d: calls.append(f"reset {d}"),
        max_memory_allocated=lambda d: 100 + d,
        get_device_name=lambda d: "NVIDIA H100",
    )
    monkeypatch.setattr(meter_module, "_cuda", lambda: fake)
    meter = Meter()
    with meter.phase("p"):
        meter.forward(1, 5)
    found = row(meter, "p")
    assert found.device == "NVIDIA H100"
    assert found.peak_bytes == 101
    assert found.device_seconds == pytest.approx(2 * found.seconds)
    assert calls == ["wait 0", "reset 0", "wait 1", "reset 1", "wait 0", "wait 1"]


def test_the_ledger_needs_no_torch(tmp_path: Path):
    import subprocess
    import sys

    code = (
        "import sys; from influbench.store import Meter; m = Meter()\n"
        "with m.phase('p'): pass\n"
        "import influbench.store; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)

"""Checkpoints as people have them: the next step of each is the one that its training would take.

Right values: one AdamW step of plain transformers from the optimizer as it was in memory.
"""

from __future__ import annotations

import json
import pickle
import shutil
import sys
import types
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cases.trained import RATE, Trained, trained
from transformers import Trainer

from influbench import models, score, testing
from influbench.errors import UserError
from influbench.estimator import Context, as_scores, registry
from influbench.student import StudentSettings, Told, load_student, training_args
from influbench.testing import families

CANDIDATES = testing.tiny_examples("candidate", 3)
REFERENCES = testing.tiny_examples("reference", 2)
LEARNT = testing.tiny_examples("learnt", 4)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Untied, with biases: three layers of Qwen2."""
    folder = tmp_path_factory.mktemp("base")
    return families.build("qwen2_base", folder, tie_word_embeddings=False, num_hidden_layers=3)


@pytest.fixture(scope="module")
def plain(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return trained(tmp_path_factory.mktemp("plain"), base, LEARNT)


def copied(checkpoint: Path, folder: Path, *without: str) -> Path:
    shutil.copytree(checkpoint, folder, ignore=lambda *_: set(without))
    return folder


def exact(
    folder: Path, *, estimator: str = "exact", told: Told | None = None, **options: Any
) -> np.ndarray:
    student = load_student(models.resolve(str(folder)), StudentSettings(told=told or Told()))
    context = Context(
        student=student, reference=REFERENCES, warmup=LEARNT, scratch=folder / "scratch", seed=0
    )
    method = registry.build(estimator, options)
    return as_scores(method.prepare(context)(CANDIDATES), len(CANDIDATES)).value


def asked(folder: Path, tmp_path: Path, **more: Any) -> Any:
    """Scores by the public function, which keeps what it made in ``tmp_path``."""
    return score(
        student=folder,
        candidates=CANDIDATES,
        reference=REFERENCES,
        store=tmp_path / "store",
        **more,
    )


def close(ours: np.ndarray, right: list[float]) -> None:
    assert ours == pytest.approx(right, abs=3e-6)
    assert np.ptp(right) > 1e-4


def test_the_step_of_a_plain_checkpoint(plain: Trained) -> None:
    close(exact(plain.folder), plain.influences(CANDIDATES, REFERENCES))


def one_group(job: Any, *_: Any) -> Any:
    job.optimizer = job.optimizer or torch.optim.AdamW(
        job.model.parameters(), lr=RATE, weight_decay=0.01
    )
    return job.optimizer


@pytest.mark.parametrize(
    ("arguments", "rate", "clip"),
    [
        ({"lr_scheduler_type": "cosine", "warmup_steps": 1}, RATE, 1.0),
        (  # a schedule with a floor is not over
            {"lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr": 3e-4}},
            3e-4,
            1.0,
        ),
        ({"max_grad_norm": 0.0}, RATE, None),
        ({"max_grad_norm": 0.3, "weight_decay": 0.0}, RATE, 0.3),
        ({"trainer": type("OneGroup", (Trainer,), {"create_optimizer": one_group})}, RATE, 1.0),
    ],
    ids=["cosine", "floor", "unclipped", "clipped", "one group"],
)
def test_the_step_of_other_trainings(
    arguments: dict[str, Any], rate: float, clip: float | None, base: Path, tmp_path: Path
) -> None:
    run = trained(tmp_path / "run", base, LEARNT, **arguments)
    close(exact(run.folder), run.influences(CANDIDATES, REFERENCES, rate=rate, clip=clip))


def test_torchs_layer_norms_and_tied_embeddings(tmp_path: Path) -> None:
    run = trained(tmp_path / "run", families.build("gpt_neox", tmp_path / "m"), LEARNT)
    close(exact(run.folder), run.influences(CANDIDATES, REFERENCES))


# A finished training.


def test_a_finished_training_steps_with_its_peak_and_says_so(base: Path, tmp_path: Path) -> None:
    run = trained(tmp_path / "run", base, LEARNT, lr_scheduler_type="linear")
    groups = torch.load(run.folder / "optimizer.pt", weights_only=True)["param_groups"]
    assert {group["lr"] for group in groups} == {0.0}
    right = run.influences(CANDIDATES, REFERENCES)
    close(exact(run.folder), right)
    history = load_student(models.resolve(str(run.folder))).history
    assert history.learning_rate == RATE
    assert history.rate_from == "its schedule's peak, by initial_lr; its last one is 0"
    # An own rate wins.
    told = Told(learning_rate=2e-4)
    close(exact(run.folder, told=told), run.influences(CANDIDATES, REFERENCES, rate=2e-4))


@pytest.mark.parametrize("holder", ["scheduler.pt", "trainer_state.json"])
def test_the_peak_is_found_where_the_optimizer_lost_it(
    holder: str, base: Path, tmp_path: Path
) -> None:
    run = trained(tmp_path / "run", base, LEARNT[:3], lr_scheduler_type="linear")
    for other in {"scheduler.pt", "trainer_state.json"} - {holder}:
        (run.folder / other).unlink()
    path = run.folder / "optimizer.pt"
    state = torch.load(path, weights_only=True)
    for group in state["param_groups"]:
        del group["initial_lr"]
    torch.save(state, path)
    history = load_student(models.resolve(str(run.folder))).history
    assert history.learning_rate == pytest.approx(RATE)
    assert f"by {holder}" in history.rate_from


def test_a_rate_of_zero_that_nothing_explains_is_refused(plain: Trained, tmp_path: Path) -> None:
    folder = copied(plain.folder, tmp_path / "c", "scheduler.pt", "trainer_state.json")
    state = torch.load(folder / "optimizer.pt", weights_only=True)
    for group in state["param_groups"]:
        group["lr"] = group["initial_lr"] = 0.0
    torch.save(state, folder / "optimizer.pt")
    for method in ("exact", "first_order"):
        with pytest.raises(UserError, match=r"learning rate of 0.*student\.learning_rate"):
            exact(folder, estimator=method)
    assert np.isfinite(exact(folder, estimator="loss")).all()
    right = plain.influences(CANDIDATES, REFERENCES)
    close(exact(folder, told=Told(learning_rate=RATE)), right)


# Which weight is which.


def freeze(keep: str) -> Any:
    def prepare(model: Any) -> Any:
        for name, weight in model.named_parameters():
            weight.requires_grad_(keep in name)
        return model

    return prepare


@pytest.mark.parametrize("keep", ["lm_head", "embed_tokens", "mlp", "layers.1.", "norm"])
def test_frozen_weights_have_no_part_in_the_step(keep: str, base: Path, tmp_path: Path) -> None:
    run = trained(tmp_path / "run", base, LEARNT, prepare=freeze(keep))
    right = run.influences(CANDIDATES, REFERENCES)
    if keep in ("layers.1.", "norm"):  # one layer of three, norms like biases: shapes cannot tell
        with pytest.raises(UserError, match=r"several choices.*--set\s+student\.trained="):
            exact(run.folder)
        told = Told(trained=keep.replace(".", r"\."))
    else:
        told = Told()
    close(exact(run.folder, told=told), right)
    student = load_student(models.resolve(str(run.folder)), StudentSettings(told=told))
    assert {n for n, p in student.model.named_parameters() if p.requires_grad} == set(run.state)


def test_a_pattern_that_names_no_weight_is_refused(plain: Trained) -> None:
    for pattern, line in (("attention.7", "no weight has a name"), ("(", "regular expression")):
        with pytest.raises(UserError, match=line):
            exact(plain.folder, told=Told(trained=pattern))


class OlderTrainer(Trainer):
    """Decays all but biases and torch's own layer norms, as transformers did for years."""

    def get_decay_parameter_names(self, model: Any) -> list[str]:
        return [name for name, _ in model.named_parameters() if "bias" not in name]


def test_older_trainers_gave_norms_weight_decay(base: Path, tmp_path: Path) -> None:
    run = trained(tmp_path / "run", base, LEARNT, trainer=OlderTrainer)
    close(exact(run.folder), run.influences(CANDIDATES, REFERENCES))
    decays = {name: own["weight_decay"] for name, own in run.state.items()}
    assert decays["model.norm.weight"] == 0.1


def test_a_weight_that_never_had_a_gradient_starts_as_adamw_starts_it(
    plain: Trained, tmp_path: Path
) -> None:
    folder = copied(plain.folder, tmp_path / "c")
    state = torch.load(folder / "optimizer.pt", weights_only=True)
    del state["state"][0]
    torch.save(state, folder / "optimizer.pt")
    first = next(iter(plain.state))
    fresh = {**plain.state, first: {"weight_decay": plain.state[first]["weight_decay"]}}
    right = Trained(folder, plain.model, plain.tokenizer, fresh)
    close(exact(folder), right.influences(CANDIDATES, REFERENCES))


def test_another_models_optimizer_is_named_as_that(plain: Trained, tmp_path: Path) -> None:
    other = families.build("tinyllama", tmp_path / "m")
    shutil.copy(plain.folder / "optimizer.pt", other)
    with pytest.raises(UserError, match="it belongs to another model"):
        exact(other)
    assert np.isfinite(exact(other, estimator="gradient_dot")).all()


def own_groups(job: Any, *_: Any) -> Any:
    names = [n for n, _ in job.model.named_parameters()]
    weights = [p for _, p in job.model.named_parameters()]
    named = list(zip(names, weights, strict=True))
    parts = [[p for n, p in named if ("mlp" in n) == own] for own in (True, False)]
    job.optimizer = job.optimizer or torch.optim.AdamW(
        [{"params": part} for part in parts], lr=RATE
    )
    return job.optimizer


def test_groups_of_a_trainings_own_are_one_line(base: Path, tmp_path: Path) -> None:
    kind = type("OwnGroups", (Trainer,), {"create_optimizer": own_groups})
    run = trained(tmp_path / "run", base, LEARNT, trainer=kind)
    with pytest.raises(UserError, match="parameter groups of its own"):
        exact(run.folder)


def test_a_run_whose_checkpoint_has_the_optimizer_is_told_so(
    plain: Trained, tmp_path: Path
) -> None:
    run = copied(plain.folder, tmp_path / "run", "optimizer.pt")
    shutil.copytree(plain.folder, run / "checkpoint-3")
    with pytest.raises(UserError, match=r"but one in .*checkpoint-3\)"):
        exact(run)


# Other optimizers.


def eight_bit(state: dict[str, Any]) -> None:
    """As bitsandbytes keeps it."""
    for own in state["state"].values():
        shape = own.pop("exp_avg").shape
        own.pop("exp_avg_sq")
        own |= {"state1": torch.zeros(shape, dtype=torch.uint8), "absmax1": torch.ones(1)}


def test_sgd_steps_as_sgd(base: Path, tmp_path: Path) -> None:
    run = trained(tmp_path / "run", base, LEARNT, optim="sgd", learning_rate=0.1)
    student = load_student(models.resolve(str(run.folder)))
    assert (student.history.optimizer, student.history.learning_rate) == ("SGD", 0.1)

    def loss_after(example: Any) -> float:
        model: Any = type(run.model).from_pretrained(run.folder, attn_implementation="eager")
        weights = dict(model.float().eval().named_parameters())
        optimizer = torch.optim.SGD(
            [
                {"params": [weights[n]], "weight_decay": own["weight_decay"]}
                for n, own in run.state.items()
            ],
            lr=0.1,
        )
        for weight in weights.values():
            weight.grad = torch.zeros_like(weight)
        if example is not None:
            run.loss(model, example).backward()
        torch.nn.utils.clip_grad_norm_(list(weights.values()), 1.0)
        optimizer.step()
        with torch.no_grad():
            return sum(float(run.loss(model, r)) for r in REFERENCES) / len(REFERENCES)

    null = loss_after(None)
    close(exact(run.folder), [null - loss_after(c) for c in CANDIDATES])


def lion(state: dict[str, Any]) -> None:
    for own in state["state"].values():
        del own["exp_avg_sq"], own["step"]
    for group in state["param_groups"]:
        del group["eps"]


@pytest.mark.parametrize("kind", ["eight_bit", "lion", "adafactor"])
def test_other_optimizers_are_one_line_and_a_warm_up_stands_in(
    kind: str, base: Path, plain: Trained, tmp_path: Path
) -> None:
    if kind == "adafactor":
        folder = trained(tmp_path / "run", base, LEARNT, optim="adafactor").folder
    else:
        folder = copied(plain.folder, tmp_path / "c")
        state = torch.load(folder / "optimizer.pt", weights_only=True)
        {"eight_bit": eight_bit, "lion": lion}[kind](state)
        torch.save(state, folder / "optimizer.pt")
    with pytest.raises(UserError, match=r"another optimizer than AdamW and SGD.*--warmup") as told:
        asked(folder, tmp_path, estimator="exact")
    assert "\n" not in str(told.value)
    for method in ("length", "loss", "gradient_dot"):
        assert np.isfinite(asked(folder, tmp_path, estimator=method)["score"]).all()
    found = asked(folder, tmp_path, estimator="exact", warmup=LEARNT)
    assert found["score"].std() > 0
    assert any(note.startswith("the moments are the warm-up's") for note in found.attrs["notes"])


def test_a_warm_up_beside_moments_that_work_is_refused(plain: Trained, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="a warm-up set is given too"):
        asked(plain.folder, tmp_path, estimator="exact", warmup=LEARNT)


@pytest.mark.parametrize("left", ["global_step3", "optimizer_0", "optimizer.bin"])
def test_an_optimizer_in_shards_is_named(left: str, plain: Trained, tmp_path: Path) -> None:
    folder = copied(plain.folder, tmp_path / "c", "optimizer.pt")
    (folder / left).mkdir()
    with pytest.raises(UserError, match="in shards of DeepSpeed or FSDP"):
        exact(folder)


def test_an_optimizer_file_that_is_broken_or_holds_code_is_one_line(
    plain: Trained, tmp_path: Path
) -> None:
    folder = copied(plain.folder, tmp_path / "c")
    for data in (b"", b"nonsense", pickle.dumps(Touch(str(tmp_path / "ran")))):
        (folder / "optimizer.pt").write_bytes(data)
        with pytest.raises(UserError, match="expected the state of an optimizer"):
            exact(folder)
    assert not (tmp_path / "ran").exists()


# training_args.bin: nothing in it is run.


class Touch:
    """Pickled, it is a call that makes a file."""

    def __init__(self, path: str):
        self.path = path

    def __reduce__(self) -> Any:
        return (open, (self.path, "w"))


def test_arguments_of_a_class_that_is_not_installed_are_read(
    plain: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copied(plain.folder, tmp_path / "c")
    module = types.ModuleType("nowhere_arguments")
    kind = type("Arguments", (), {"__module__": module.__name__})
    vars(module)["Arguments"] = kind
    held = kind()
    vars(held).update(max_grad_norm=0.25, run="x", other=Touch(str(tmp_path / "ran")))
    with monkeypatch.context() as there:
        there.setitem(sys.modules, module.__name__, module)
        torch.save(held, folder / "training_args.bin")
    assert training_args.clip_norm(folder) == 0.25
    close(exact(folder), plain.influences(CANDIDATES, REFERENCES, clip=0.25))
    assert not (tmp_path / "ran").exists()
    with pytest.raises(ModuleNotFoundError):  # what loading it would have done
        torch.load(folder / "training_args.bin", weights_only=False)


def test_arguments_that_say_nothing_are_one_line_and_the_clip_can_be_said(
    plain: Trained, tmp_path: Path
) -> None:
    folder = copied(plain.folder, tmp_path / "c")
    path = folder / "training_args.bin"
    good = path.read_bytes()
    torch.save({"no": "norm"}, tmp_path / "other")
    for data in (b"", good[:200], b"\x80\x02}q\x00.", (tmp_path / "other").read_bytes()):
        path.write_bytes(data)
        with pytest.raises(UserError, match=r"student\.clip_norm"):
            exact(folder)
        assert np.isfinite(exact(folder, estimator="loss")).all()
    close(exact(folder, told=Told(clip_norm=1.0)), plain.influences(CANDIDATES, REFERENCES))


def test_a_huge_file_of_arguments_is_not_unpacked(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "training_args.bin", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/data.pkl", bytes(1 << 24))
    with pytest.raises(UserError, match="it unpacks to more than"):
        training_args.clip_norm(tmp_path)


# Nothing assumed in silence.


def test_a_clip_that_is_not_known_is_said_to_be_assumed(plain: Trained, tmp_path: Path) -> None:
    folder = copied(plain.folder, tmp_path / "c", "training_args.bin")
    history = load_student(models.resolve(str(folder))).history
    assert history.clip_norm == 1.0
    assert "assumed, a Trainer's default" in history.lines()[0]
    without = plain.influences(CANDIDATES, REFERENCES, clip=None)
    assert without != pytest.approx(plain.influences(CANDIDATES, REFERENCES), abs=1e-5)
    close(exact(folder, told=Told(clip_norm=0)), without)
    close(exact(folder, clip=False), without)


ADAPTIVE = "influbench.estimators.adaptive.adaptive"


@pytest.mark.parametrize(
    "method", ["first_order", "excess_loss", f"{ADAPTIVE}:Adaptive", f"{ADAPTIVE}:Clustered"]
)
def test_clipping_is_an_option_of_every_method_that_takes_the_step(
    method: str, plain: Trained
) -> None:
    clipped = exact(plain.folder, estimator=method)
    free = exact(plain.folder, estimator=method, clip=False)
    told = exact(plain.folder, estimator=method, told=Told(clip_norm=0))
    assert free == pytest.approx(told, abs=1e-9)
    assert free != pytest.approx(clipped, abs=1e-5)


def test_what_a_score_hangs_on_is_shown_stored_and_part_of_the_key(
    plain: Trained, tmp_path: Path
) -> None:
    from command import influbench

    folder = copied(plain.folder, tmp_path / "c", "training_args.bin")
    rows = [{"id": e.id, "instruction": e.instruction, "response": e.response} for e in CANDIDATES]
    (tmp_path / "c.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def ran(out: str) -> tuple[str, dict[str, Any]]:
        done = influbench(
            *("score", "--student", str(folder), "--candidates", "c.jsonl"),
            *("--reference", "c.jsonl", "--estimator", "exact", "--out", out),
            cwd=tmp_path,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout, json.loads((tmp_path / f"{out}.meta.json").read_text())

    said, before = ran("a.jsonl")
    assert "learning rate 0.001 (optimizer.pt), clipped at norm 1 (assumed" in said
    assert "the weights: all 39 are trained" in said
    assert before["hangs_on"]["clip_norm"]["value"] == 1.0
    # Arguments that come later make another student of it.
    held = types.SimpleNamespace(max_grad_norm=0.1)
    torch.save(held, folder / "training_args.bin")
    said, after = ran("b.jsonl")
    assert after["hangs_on"]["clip_norm"] == {"value": 0.1, "from": "training_args.bin"}
    assert after["student"]["digest"] != before["student"]["digest"]
    scores = [(tmp_path / name).read_text() for name in ("a.jsonl", "b.jsonl")]
    assert scores[0] != scores[1]

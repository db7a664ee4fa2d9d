"""``auto`` is settled when a configuration is made: results say what was used."""

from pathlib import Path

import pytest

from influbench.loop.reading import load_run
from influbench.models import precision


@pytest.mark.parametrize(
    ("flags", "gpu", "expected"),
    [
        ("flags: avx512f amx_bf16", False, "bfloat16"),
        ("flags: avx2", False, "float32"),
        ("flags: avx2", True, "bfloat16"),
        (None, False, "float32"),
    ],
)
def test_auto_is_the_dtype_that_this_machine_multiplies_fast(
    flags: str | None, gpu: bool, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if flags is not None:
        (tmp_path / "cpuinfo").write_text(flags)
    if gpu:
        (tmp_path / "card").touch()
    monkeypatch.setattr(precision, "CPU_FACTS", tmp_path / "cpuinfo")
    monkeypatch.setattr(precision, "GPU", tmp_path / "card")
    cfg = load_run("quickstart")
    used = [
        *(cfg.teacher.dtype, cfg.judge.dtype, cfg.evaluation.dtype),
        *(cfg.warmup.compute, cfg.dpo.compute, cfg.sft.compute),
    ]
    assert used == [expected] * 6
    assert cfg.student.dtype == cfg.scoring.compute == "float32"  # scores are never rounded

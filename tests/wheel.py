"""Tries an installed wheel as a user does who only scores; run by ``make wheel``, not by pytest."""

import importlib.util
import json
import subprocess
import sys
import tempfile
from pathlib import Path

ABSENT = ("accelerate", "peft", "matplotlib", "sklearn", "rouge_score")


def influbench(*arguments: str, folder: str) -> str:
    """What a command prints; the package is the installed one, not the checkout's."""
    command = [sys.executable, "-P", "-m", "influbench", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def main() -> None:
    """Scores with a gradient method and the exact influence, and lists what there is."""
    there = [name for name in ABSENT if importlib.util.find_spec(name)]
    assert not there, f"who only scores needs no {there}"
    with tempfile.TemporaryDirectory() as folder:
        rows = [{"instruction": f"Say {i}.", "response": f"{i} it is."} for i in range(4)]
        data = Path(folder) / "rows.jsonl"
        data.write_text("".join(json.dumps(row) + "\n" for row in rows))
        files = ("--student", "tiny", "--candidates", data.name, "--reference", data.name)
        assert "0." in influbench("--version", folder=folder)
        assert "gradient_dot" in influbench("estimators", folder=folder)
        influbench("score", *files, "--estimator", "gradient_dot", folder=folder)
        chosen = ("--estimator", "exact", "--warmup", data.name, "--out", "scores.jsonl")
        influbench("score", *files, *chosen, folder=folder)
        assert len((Path(folder) / "scores.jsonl").read_text().splitlines()) == len(rows)
    sys.stdout.write("the wheel scores without the extras\n")


if __name__ == "__main__":
    main()

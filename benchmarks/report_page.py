"""The page of ``influbench report`` with many candidates: how long it takes to make, and to use.

    python -m benchmarks.report_page [--candidates 5000] [--methods 8]

Writes score files of random scores and 600 characters a response, makes the page (in this process,
without an oracle, whose bootstrap is that of ``influbench compare``), and does in Debian's
Chromium, headless, what a reader does. Prints CPU seconds, bytes, and milliseconds from each act to
the new layout, the median of five.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from playwright.sync_api import sync_playwright

from influbench.data.records import Example, Score
from influbench.files import write_jsonl
from influbench.report import page
from influbench.report.page.texts import Texts
from influbench.results.score_files import ScoreFile, write

ACTS = {
    "sort by another method": ("sort", "value", "method-1", "change"),
    "sort by where two methods disagree": ("other", "value", "method-0", "change"),
    "search in all texts": ("search", "value", "answer 49", "input"),
    "search emptied": ("search", "value", "", "input"),
    "scroll by half of the rows": ("list", "scrollTop", 140000, "scroll"),
}
TIMED = """([id, property, value, event]) => {
  const node = document.getElementById(id);
  const start = performance.now();
  node[property] = value;
  node.dispatchEvent(new Event(event));
  document.body.offsetHeight;
  return performance.now() - start;
}"""
REPEATS = 5


def main() -> int:
    """Makes the page, opens it five times, prints what was measured."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--candidates", type=int, default=5000)
    parser.add_argument("--methods", type=int, default=8)
    options = parser.parse_args()
    with TemporaryDirectory() as name:
        folder = Path(name)
        files, data = written(folder, options.candidates, options.methods)
        start = time.process_time()
        out = folder / "report.html"
        page.write(out, page.page_of(files, texts=Texts(candidates=data)))
        print(f"made in {time.process_time() - start:.1f} CPU s: {out.stat().st_size:,} bytes")
        opened, acts = used(out)
    print(f"opened in {statistics.median(opened):.2f} s")
    for act, spent in acts.items():
        print(f"{act}: {statistics.median(spent):.1f} ms")
    return 0


def written(folder: Path, count: int, methods: int) -> tuple[list[str], Path]:
    """The score files and the file that was scored."""
    rows = [
        Example(
            id=f"pair-{i:05d}", instruction=f"Question {i}",
            response=f"Answer {i} of {count}" + " and words" * 60, group=f"seed-{i // 4}",
        )
        for i in range(count)
    ]  # fmt: skip
    data = folder / "pairs.jsonl"
    write_jsonl(data, rows)
    files: list[str] = []
    for number in range(methods):
        values = np.random.default_rng(number).normal(size=count)
        scores = [
            Score(id=row.id, value=float(v), stderr=0.05)
            for row, v in zip(rows, values, strict=True)
        ]
        path = folder / f"method-{number}.jsonl"
        write(
            path,
            ScoreFile(
                name=f"method-{number}", scores=scores, groups={row.id: row.group for row in rows}
            ),
        )
        files.append(str(path))
    return files, data


def used(file: Path) -> tuple[list[float], dict[str, list[float]]]:
    """Seconds to open the page, and milliseconds of each act, of every repeat."""
    opened: list[float] = []
    acts: dict[str, list[float]] = {act: [] for act in ACTS}
    with sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        for _ in range(REPEATS):
            seen = browser.new_page()
            start = time.perf_counter()
            seen.goto(file.resolve().as_uri())
            seen.locator("#list .row").first.wait_for()
            opened.append(time.perf_counter() - start)
            for act, told in ACTS.items():
                acts[act].append(float(seen.evaluate(TIMED, list(told))))
            seen.close()
        browser.close()
    return opened, acts


if __name__ == "__main__":
    sys.exit(main())

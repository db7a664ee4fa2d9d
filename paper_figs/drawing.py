"""What all figures share: the style, the two files of each, and the command line."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from matplotlib.figure import Figure

from influbench.errors import UserError
from influbench.results import Study, load_study, outputs, result_file

MARK = "influbench"
"""Stands in each file, so that no figure of somebody else is ever overwritten."""
STYLE = Path(__file__).with_name("style.mplstyle")


def save(figure: Figure, out: Path, name: str) -> list[Path]:
    """Writes ``name.pdf`` and ``name.png`` into ``out``, which is made where it is missing.

    Raises:
        UserError: a file of that name is there that influbench did not write.
    """
    out.mkdir(parents=True, exist_ok=True)
    files = [outputs.claim(out / f"{name}.{kind}", _drawn) for kind in ("pdf", "png")]
    # No dates or versions inside: the same study gives the same bytes.
    figure.savefig(files[0], bbox_inches="tight", metadata={"CreationDate": None, "Creator": MARK})
    figure.savefig(files[1], bbox_inches="tight", metadata={"Software": MARK})
    return files


def _drawn(path: Path) -> bool:
    """A figure of ours: marked as such, or beside the results that it shows."""
    beside = any(result_file.is_result(other) for other in path.parent.glob("*.json"))
    return beside or MARK.encode() in path.read_bytes()


def command(draw: Callable[[Study, Path], list[Path]], description: str) -> int:
    """The command line of a figure: study folder or name, and where to write; the exit code."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("study", help="a folder of results, such as results/quickstart")
    parser.add_argument("--out", type=Path, default=Path("figures"), help="folder of the files")
    options = parser.parse_args()
    try:
        files = draw(load_study(options.study), options.out)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    print("\n".join(map(str, files)))
    return 0

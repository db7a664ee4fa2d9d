"""What all figures share: the style, the two files of each, and the command line."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from matplotlib.figure import Figure

from influbench.errors import UserError
from influbench.results import Study, load_study

STYLE = Path(__file__).with_name("style.mplstyle")


def save(figure: Figure, out: Path, name: str) -> list[Path]:
    """Writes ``name.pdf`` and ``name.png`` into ``out``, which is made where it is missing."""
    out.mkdir(parents=True, exist_ok=True)
    files = [out / f"{name}.pdf", out / f"{name}.png"]
    # No dates or versions inside: the same study gives the same bytes.
    figure.savefig(files[0], bbox_inches="tight", metadata={"CreationDate": None})
    figure.savefig(files[1], bbox_inches="tight", metadata={"Software": None})
    return files


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

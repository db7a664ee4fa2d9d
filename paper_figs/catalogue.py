"""All that ``influbench figures`` draws: the paper's figures and tables, then ours.

A study seldom holds the numbers of every one; what is missing is said in one line each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from influbench.results import Study
from paper_figs import (
    fig_agreement_matrix,
    fig_break_even,
    fig_calibration,
    fig_controls,
    fig_cost_quality,
    fig_differences,
    fig_head_to_head,
    fig_horizon,
    fig_influence_histogram,
    fig_influence_shift,
    fig_lengths,
    fig_mt_bench_radar,
    fig_noise_floor,
    fig_other_students,
    fig_paper_mode,
    fig_positive_share,
    fig_ranking,
    fig_removal,
    fig_root_verbs,
    fig_teacher_progress,
    tab_published,
)
from paper_figs.drawing import MissingError

Draw = Callable[[Study, Path], list[Path]]
DRAWINGS: dict[str, Draw] = {
    module.NAME: module.draw
    for module in (
        tab_published,
        fig_teacher_progress,
        fig_influence_shift,
        fig_positive_share,
        fig_head_to_head,
        fig_other_students,
        fig_root_verbs,
        fig_lengths,
        fig_cost_quality,
        fig_ranking,
        fig_agreement_matrix,
        fig_influence_histogram,
        fig_noise_floor,
        fig_differences,
        fig_removal,
        fig_break_even,
        fig_horizon,
        fig_paper_mode,
        fig_calibration,
        fig_controls,
        fig_mt_bench_radar,
    )
}


@dataclass(frozen=True)
class Drawn:
    """What came of several studies."""

    files: tuple[Path, ...]
    missing: tuple[str, ...]
    """One line a figure that no study holds the numbers of: what it needs, and from where."""


def draw_all(studies: Sequence[tuple[Study, Path]]) -> Drawn:
    """Draws all that the records allow.

    Args:
        studies: each with the folder that its files go to.

    Raises:
        UserError: a file that influbench did not write stands where one would go.
    """
    files: list[Path] = []
    missing: list[str] = []
    for name, draw in DRAWINGS.items():
        drawn: list[Path] = []
        needs = ""
        for study, out in studies:
            try:
                drawn += draw(study, out)
            except MissingError as nothing:
                needs = f"{name}: {nothing.needs}"
        files += drawn
        if not drawn:
            missing.append(needs)
    return Drawn(tuple(files), tuple(missing))

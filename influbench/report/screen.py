"""All that the terminal shows of a study."""

from __future__ import annotations

from influbench.report.agreement_tables import study_tables
from influbench.report.cells import Shown
from influbench.report.tables import cost_quality_tables, differences_table
from influbench.results import Study
from influbench.results.differences import differences

TAUGHT = {"win_rate", "grade", "heldout_loss"}


def screen(study: Study, width: int) -> list[Shown]:
    """Agreement, cost and students, then the differences between students where there are such.

    Args:
        study: any study.
        width: characters that a line may have.
    """
    taught = TAUGHT & set(study.rows["metric"])
    tables = cost_quality_tables(study, width) if taught else study_tables(study, width)
    gaps = differences(study)
    return tables if gaps.empty else [*tables, differences_table(gaps)]

"""What every published metric is called, and the range that its values can have.

Agreement with the oracle (``statistics.against_oracle``): ``spearman``, ``kendall``,
``spearman_within``, ``kendall_within``, ``sign_agreement``, ``sign_agreement_centred``,
``pair_precision``, ``pair_precision_margin``, ``top_overlap``. Quality: ``win_rate``,
``win_rate_lc`` (%), ``grade`` (1-10), ``reference_loss``, ``heldout_loss``, ``heldout_loss_change``
(nats/token; against the student ``none``, paired by item). Cost: ``prepare_seconds``,
``seconds_per_candidate`` (s), ``prepare_passes``, ``passes_per_candidate`` (forward passes; a
backward counts two), ``peak_bytes`` (bytes), ``parameter_share`` (of the trainable parameters,
those that a gradient method attributes), ``budget_used`` (spent, as a share of ``scoring.budget``).
Planted data: ``auc``, ``paired``, ``auc_<kind>``
(``studies.planted``). Training on thirds: ``gain_<part>``, ``gain_correlation``, ``lds``
(``studies.prediction``), on shares ``addition_P/heldout_loss`` and ``removal_P/heldout_loss``; when
that pays: ``break_even_share``, ``break_even_ratio``, ``break_even_candidates``
(``studies.break_even``). More steps than one: ``horizon_K/spearman`` (``studies.horizon``). What a
score hangs on: ``reinitialised/spearman`` and its like (``studies.kinds.sanity``). Quirks of the
released code: ``best_worst``, ``same_pairs``, ``spread``, ``noise_floor``
(``studies.paper_mode``). ``pairs``: how many taught the teacher.
"""

from __future__ import annotations

import math
import re

CORRELATIONS = re.compile(r"(spearman|kendall)(_within)?|gain_correlation|lds")
SHARES = re.compile(
    r"sign_agreement(_centred)?|pair_precision(_margin)?|top_overlap|(auc|paired)(_.*)?"
    r"|(stated_)?error_rate_.*|parameter_share|pairs_above_floor"
    r"|break_even_share|best_worst"
)
POSITIVE = re.compile(
    r"(heldout|reference)_loss|break_even_(ratio|candidates)|noise_floor|spread"
    r"|.*(pairs|passes|tokens).*"
)
UNSTEADY = re.compile(r".*(seconds|bytes).*")
"""Measured anew by every process: two values are no two settings."""

Range = tuple[float, float]
ANYWHERE: Range = (-math.inf, math.inf)
_OF_UNIT: dict[str, Range] = {
    "%": (0.0, 100.0),
    "percent": (0.0, 100.0),
    "fraction": (0.0, 1.0),
    "share": (0.0, 1.0),
    "1-10": (1.0, 10.0),
    "grade 1-10": (1.0, 10.0),
}


def range_of(metric: str, unit: str) -> Range:
    """The values that a metric can have.

    A suite's prefix (``mt_bench/``) and a part of the candidates (``:high``) do not matter.
    """
    name = metric.rpartition("/")[2].partition(":")[0]
    if CORRELATIONS.fullmatch(name):
        return (-1.0, 1.0)
    if SHARES.fullmatch(name):
        return (0.0, 1.0)
    if POSITIVE.fullmatch(name) or UNSTEADY.fullmatch(name):
        return (0.0, math.inf)
    return _OF_UNIT.get(unit, ANYWHERE)

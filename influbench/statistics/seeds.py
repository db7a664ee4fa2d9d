"""One number over a few seeds, with an interval that stays where the number can be.

A mean over two or three seeds has too few degrees of freedom for a normal or a plain bootstrap
interval (a bootstrap over three clusters covers 75 to 80 % where it promises 95; Cameron, Gelbach
and Miller 2008, "Bootstrap-based improvements for inference with clustered errors"). So:

* Student's t with seeds - 1 degrees of freedom, on a scale where the number has no bounds: Fisher's
  z (atanh) for what lies in [-1, 1] (Fisher 1921), the logit for what lies between two bounds
  (Agresti 2013, *Categorical Data Analysis*, 3.1.6), the logarithm for what is positive. The first
  is the second: atanh(r) is half the logit of (1 + r) / 2. Taken back, the interval cannot leave
  the bounds. With two seeds t is 12.7 and the interval is nearly all of the range, which is what
  two seeds say.
* Seeds that are scored on the same items share those items' luck, which no spread over seeds shows.
  The mean half-width of the seeds' own intervals is therefore added in quadrature. Where items are
  not shared this counts the items' part twice: the interval is then too wide, never too narrow.
* The difference of two arms on the same items, seed by seed: a bootstrap over seeds and items
  together (Owen 2007, "The pigeonhole bootstrap"), corrected for few seeds: see
  :func:`paired_difference`.

``tests/unit/test_seeds.py`` measures the coverage with three and five seeds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
from scipy.special import stdtrit  # the quantile of t; scipy.stats takes half a second to import

from influbench.errors import UserError
from influbench.statistics.bootstrap import RESAMPLES
from influbench.statistics.estimate import Estimate
from influbench.statistics.outcomes import share

Function = Callable[[float], float]
ENOUGH = 3
"""Seeds below which a difference of two arms is no answer."""
ON_IT = 1e-9
"""As a share of the range: what is nearer to a bound lies on it but for rounding."""


def over_seeds(
    found: Sequence[Estimate], within: tuple[float, float] = (-math.inf, math.inf)
) -> Estimate:
    """Mean over seeds with a 95 % interval that holds the doubt of seeds and of items.

    One seed keeps its own interval, cut at the bounds; ``n`` is the largest of the seeds'. Where a
    seed lies on a bound the interval reaches it, since that bound was seen to be possible. Seeds
    that are all equal and have no interval of their own, such as counts, give none.

    Args:
        found: one estimate a seed, of one quantity.
        within: the values that the quantity can have; without effect if one lies outside.
    """
    if any(not within[0] <= one.value <= within[1] for one in found):
        within = (-math.inf, math.inf)
    if len(found) == 1:
        low, high = (
            None if b is None else min(max(b, within[0]), within[1])
            for b in (found[0].low, found[0].high)
        )
        return replace(found[0], low=low, high=high)
    found = [_settled(one, within) for one in found]
    size, count, unit = max(one.n for one in found), len(found), found[0].unit
    told = [b for one in found for b in (one.value, one.low, one.high) if b is not None]
    there, back = _scale(within, size, told)
    x = np.array([one.value for one in found], dtype=np.float64)
    z, value = np.array([there(v) for v in x]), float(x.mean())
    spread = float(stdtrit(count - 1, 0.975) * z.std(ddof=1) / math.sqrt(count))
    lows = [there(one.low) for one in found if one.low is not None]
    highs = [there(one.high) for one in found if one.high is not None]
    known = len(lows) == len(highs) == count
    below = float(z.mean() - np.mean(lows)) if known else 0.0
    above = float(np.mean(highs) - z.mean()) if known else 0.0
    if not spread + below + above + float(np.ptp(x)):
        return Estimate(value=value, n=size, unit=unit)
    own = float(np.mean([one.stderr or 0.0 for one in found]))
    low = min(value, back(there(value) - math.hypot(spread, below)))
    high = max(value, back(there(value) + math.hypot(spread, above)))
    return Estimate(
        value=value,
        low=low if x.min() > within[0] else within[0],
        high=high if x.max() < within[1] else within[1],
        stderr=math.hypot(float(x.std(ddof=1)) / math.sqrt(count), own),
        n=size,
        unit=unit,
    )


def from_stderr(found: Estimate, within: tuple[float, float]) -> Estimate:
    """The same with an interval of 1.96 standard errors, on a scale where it keeps the bounds.

    The standard error is carried to the other scale by its slope (the delta method). It is 0 for a
    share of which all items are alike, and then says nothing of the next item: such a share has the
    exact interval of ``n`` items (``statistics.outcomes.share``). Unchanged where there is no
    standard error, or an interval already.
    """
    if found.stderr is None or found.low is not None or found.high is not None:
        return found
    if not within[0] <= found.value <= within[1]:
        within = (-math.inf, math.inf)
    one_share = within[0] == 0 and math.isfinite(within[1])
    if one_share and not found.stderr and found.value in within and found.n:
        exact = share(found.n if found.value else 0, found.n).scaled(within[1], found.unit)
        return replace(found, low=exact.low, high=exact.high)
    there, back = _scale(within, found.n, [found.value])
    step = 1e-6 * (1 + abs(found.value))
    ends = [min(max(found.value + s, within[0]), within[1]) for s in (-step, step)]
    slope = (there(ends[1]) - there(ends[0])) / (ends[1] - ends[0])
    half, centre = 1.96 * found.stderr * slope, there(found.value)
    low, high = back(centre - half), back(centre + half)
    return replace(found, low=min(found.value, low), high=max(found.value, high))


def paired_difference(
    a: npt.ArrayLike,
    b: npt.ArrayLike,
    rng: np.random.Generator,
    resamples: int = RESAMPLES,
) -> Estimate:
    """Mean of ``a - b`` with its 95 % interval, over seeds and the items that all seeds share.

    One seed: the percentile bootstrap over items, which says nothing about other seeds. Two or
    more: seeds and items are drawn with replacement, each on its own (items are crossed with seeds:
    the same prompts in every seed). The standard error is the standard deviation of the draws,
    times sqrt(k / (k - 1)) for k seeds, since resampling k clusters shows only (k - 1) / k of their
    variance. The interval is value ± t times it, with Satterthwaite's degrees of freedom: k - 1
    where seeds differ more than items do, up to items - 1 where they do not.

    Args:
        a: shape [seed, item].
        b: shape [seed, item]; the same items in the same order, the same seeds.
        rng: the only source of randomness.
        resamples: how many times all is drawn anew.

    Raises:
        UserError: the shapes differ.
    """
    left, right = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if left.shape != right.shape or left.ndim != 2 or not left.size:
        raise UserError(
            "expected two tables [seed, prompt] about the same seeds and prompts, got shapes "
            f"{left.shape} and {right.shape}"
        )
    gaps = left - right
    seeds, items = gaps.shape
    value = float(gaps.mean())
    by_seed = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=resamples) / seeds
    by_item = rng.multinomial(items, np.full(items, 1 / items), size=resamples) / items
    draws = np.einsum("rs,si,ri->r", by_seed, gaps, by_item, optimize=True)
    if seeds == 1:
        low, high = map(float, np.quantile(draws, [0.025, 0.975]))
        return Estimate(value=value, low=low, high=high, stderr=float(draws.std(ddof=1)), n=items)
    stderr = float(draws.std(ddof=1)) * math.sqrt(seeds / (seeds - 1))
    of_seeds = float(gaps.mean(axis=1).var(ddof=1)) / seeds
    of_items = float(gaps.mean(axis=0).var(ddof=1)) / items if items > 1 else 0.0
    both = of_seeds**2 / (seeds - 1) + (of_items**2 / (items - 1) if items > 1 else 0.0)
    freedom = (of_seeds + of_items) ** 2 / both if both else float(seeds - 1)
    half = float(stdtrit(freedom, 0.975)) * stderr
    return Estimate(
        value=value, low=value - half, high=value + half, stderr=stderr, n=seeds * items
    )


def _settled(one: Estimate, within: tuple[float, float]) -> Estimate:
    """The same, what is on a bound but for rounding put there."""
    low, high = within

    def there(x: float | None) -> float | None:
        if x is None or math.isinf(high - low):
            return x
        near = [bound for bound in within if abs(x - bound) <= ON_IT * (high - low)]
        return near[0] if near else x

    value = there(one.value)
    assert value is not None
    return replace(one, value=value, low=there(one.low), high=there(one.high))


def _scale(
    within: tuple[float, float], size: int, told: Sequence[float]
) -> tuple[Function, Function]:
    """To a scale without bounds, and back.

    A value on a bound, which lies at infinity there, is taken half an item inside (Haldane 1956),
    or half as far from it as the nearest of the numbers ``told`` where that is less: a correlation
    of 0.99 over 32 candidates is nearer to 1 than half an item, and yet not on it. Where there is
    no upper bound it is half as far as the nearest: a count of 0 beside 1 and 5 is taken for 0.5.
    """
    low, high = within
    if math.isinf(low):
        return float, float
    if math.isinf(high):
        nearest = min((x - low for x in told if x > low), default=1.0)

        def log(x: float) -> float:
            return math.log(max(x - low, nearest / 2))

        return log, lambda z: low + math.exp(z)

    def share_of(x: float) -> float:
        return min(max((x - low) / (high - low), 0.0), 1.0)

    gaps = (min(share, 1 - share) for share in map(share_of, told))
    edge = min([0.5 / (size + 1), *(gap / 2 for gap in gaps if gap > ON_IT)])

    def logit(x: float) -> float:
        share = min(max(share_of(x), edge), 1 - edge)
        return math.log(share / (1 - share))

    def back(z: float) -> float:
        return low + (high - low) / (1 + math.exp(-z)) if z > -700 else low

    return logit, back

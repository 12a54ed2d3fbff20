"""The length of a series' season, in points."""

from __future__ import annotations

import numpy as np
from scipy import signal

from pynomaly_tasks.domain.detection.calibration import FloatArray

#: Calendar seasons that are preferred to any other lag: minute, hour, day, week, 365.25 days.
CALENDAR_S = (60.0, 3_600.0, 86_400.0, 604_800.0, 31_557_600.0)
#: A season must repeat so often in the series to be believed.
MIN_SEASONS = 3
#: The autocorrelation must rise so far above the lowest at a shorter lag, and be at least so high.
MIN_RISE = 0.2
MIN_CORRELATION = 0.2
#: A longer season must correlate so much better than a shorter one: a day also repeats each week.
LONGER_MUST_GAIN = 0.05


def find_period(values: FloatArray, step_s: float | None) -> int | None:
    """Points in one season, or None when nothing repeats.

    Judged by the autocorrelation around a straight line, with values beyond five robust sigmas cut. When ``step_s``, the seconds
    between points, is known, calendar seasons are tried first; then the lag with the highest peak.

    values: (n,), evenly spaced, no NaN.
    """
    longest = len(values) // MIN_SEASONS
    if longest < 2:
        return None
    correlation = _autocorrelation(signal.detrend(_cut(values)), longest)
    rise = correlation - np.minimum.accumulate(correlation)
    credible = (rise >= MIN_RISE) & (correlation >= MIN_CORRELATION)
    calendar = [round(s / step_s) for s in CALENDAR_S] if step_s else []
    best: int | None = None
    for period in calendar:
        if 2 <= period <= longest and credible[period]:
            gain = LONGER_MUST_GAIN if best is not None else 0.0
            if best is None or correlation[period] >= correlation[best] + gain:
                best = period
    if best is not None:
        return best
    return _highest_peak(correlation, credible)


def _highest_peak(correlation: FloatArray, credible: np.ndarray) -> int | None:
    middle = correlation[1:-1]
    is_peak = (middle >= correlation[:-2]) & (middle > correlation[2:]) & credible[1:-1]
    peaks = np.flatnonzero(is_peak) + 1
    peaks = peaks[peaks >= 2]
    if not len(peaks):
        return None
    # Every multiple of a season is a peak too, about as high: the shortest of the near-highest is the season.
    near_highest = peaks[correlation[peaks] >= correlation[peaks].max() - LONGER_MUST_GAIN]
    return _refined(int(near_highest[0]), correlation)


def _refined(period: int, correlation: FloatArray) -> int:
    """The nearby lag whose first ten multiples correlate best: a long season's peak is flat, theirs are not."""
    near = range(max(2, period - period // 25), min(period + period // 25, len(correlation) - 1) + 1)
    return max(near, key=lambda lag: float(np.mean(correlation[lag : 10 * lag + 1 : lag])))


def _cut(values: FloatArray) -> FloatArray:
    centre = np.median(values)
    sigma = 1.4826 * np.median(np.abs(values - centre))
    return np.clip(values, centre - 5 * sigma, centre + 5 * sigma) if sigma > 0 else values


def _autocorrelation(values: FloatArray, n_lags: int) -> FloatArray:
    """(n_lags + 1,): each lag's own mean product over the variance, so that long lags are not shrunk."""
    n = len(values)
    centred = values - values.mean()
    power = np.abs(np.fft.rfft(centred, 1 << (2 * n - 1).bit_length())) ** 2
    products = np.fft.irfft(power)[: n_lags + 1] / np.arange(n, n - n_lags - 1, -1)
    # A constant series has rounding left as its only product.
    if products[0] <= 1e-20 * max(float(np.abs(values).max()) ** 2, 1e-280):
        return np.zeros(n_lags + 1)
    return np.asarray(products / products[0])

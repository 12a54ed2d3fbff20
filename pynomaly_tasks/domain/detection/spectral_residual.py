"""Saliency after removing the usual spectrum, after Ren et al. (2019), calibrated over the whole series."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from pynomaly_tasks.domain.detection.calibration import (
    FloatArray,
    batch_surprise,
    lagged,
    one_sided,
    rolling_quantile,
    sigmas,
)
from pynomaly_tasks.domain.detection.series_params import SpectralResidualParams

#: Points added after the end, so that the last point is not an edge: the median of the last values, where Ren et
#: al. follow the mean gradient, which would continue a spike in the last point beyond its height.
ADDED_POINTS = 5


def score_spectral_residual(
    values: FloatArray, params: SpectralResidualParams
) -> tuple[FloatArray, FloatArray]:
    """Scores, and the median of the preceding ``saliency_points`` as what was expected.

    The transform says that a point stands out, not what would have been usual: the expected value is for the
    reader and for ``direction``; it does not enter the score.

    values: (n,), evenly spaced, no NaN. Both results: (n,), finite.
    """
    n_usual = params.saliency_points
    saliency = _saliency(values, params)
    usual = ndimage.uniform_filter1d(saliency, n_usual, mode="nearest", origin=(n_usual - 1) // 2)
    usual = lagged(usual, float(usual[0]))
    relative = np.divide(saliency - usual, usual, out=np.zeros_like(usual), where=usual > 0)
    expected = lagged(rolling_quantile(values, 0.5, n_usual | 1), float(values[0]))
    side = one_sided(np.sign(values - expected), params.direction)
    departure = sigmas(np.maximum(relative, 0.0) * side, relative - np.median(relative), None)
    return batch_surprise(departure), expected


def _saliency(values: FloatArray, params: SpectralResidualParams) -> FloatArray:
    """Block by block; blocks overlap by half and only their middle is kept, except at the series' ends."""
    extended = np.r_[values, np.full(ADDED_POINTS, np.median(values[-ADDED_POINTS:]))]
    n = len(extended)
    n_block = min(params.window_points, n)
    saliency = np.zeros(n)
    for start in [*range(0, n - n_block, max(n_block // 2, 1)), n - n_block]:
        margin = n_block // 4 if start else 0
        block = _block_saliency(extended[start : start + n_block], params.spectrum_points | 1)
        saliency[start + margin : start + n_block] = block[margin:]
    return saliency[: len(values)]


def _block_saliency(block: FloatArray, spectrum_points: int) -> FloatArray:
    centred = block - block.mean()
    largest = float(np.abs(centred).max())
    if largest <= 1e-12 * float(np.abs(block).max()):
        return np.zeros_like(block)
    spectrum = np.fft.fft(centred / largest)
    amplitude = np.abs(spectrum)
    amplitude[0] = amplitude[1]  # the mean was taken out; an empty bin would bend its neighbours' average
    log_amplitude = np.log(np.maximum(amplitude, 1e-8 * amplitude.max()))
    usual = ndimage.uniform_filter1d(log_amplitude, spectrum_points, mode="wrap")
    residual = np.exp(log_amplitude - usual + 1j * np.angle(spectrum))
    residual[0] = 0.0
    return np.asarray(np.abs(np.fft.ifft(residual)))

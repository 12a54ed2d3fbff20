"""Saliency after removing the usual spectrum, after Ren et al. (2019), calibrated over the whole series."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from pynomaly_tasks.domain.detection.calibration import FloatArray, batch_surprise, lagged, rolling_quantile
from pynomaly_tasks.domain.detection.series_params import SpectralResidualParams


def score_spectral_residual(
    values: FloatArray, params: SpectralResidualParams
) -> tuple[FloatArray, FloatArray]:
    """Scores and expected values. values: (n,), evenly spaced, no NaN."""
    n_block = min(params.window_points, len(values))
    hop = max(n_block // 2, 1)
    saliency = np.zeros_like(values)
    starts = [*range(0, len(values) - n_block, hop), len(values) - n_block]
    for start in starts:
        block = _saliency(values[start : start + n_block], params.spectrum_points | 1)
        margin = 0 if start == 0 else n_block // 4
        saliency[start + margin : start + n_block] = block[margin:]
    usual = ndimage.uniform_filter1d(
        saliency, params.saliency_points, mode="nearest", origin=(params.saliency_points - 1) // 2
    )
    usual = lagged(usual, float(usual[0]))
    expected = lagged(rolling_quantile(values, 0.5, params.saliency_points | 1), float(values[0]))
    departure = np.maximum(saliency - usual, 0.0) / np.where(usual > 0, usual, 1.0)
    if params.direction == "high":
        departure = np.where(values > expected, departure, 0.0)
    elif params.direction == "low":
        departure = np.where(values < expected, departure, 0.0)
    return batch_surprise(departure), expected


def _saliency(block: FloatArray, spectrum_points: int) -> FloatArray:
    centred = block - np.mean(block)
    if not centred.any():
        return np.zeros_like(block)
    spectrum = np.fft.fft(centred)
    amplitude = np.abs(spectrum)
    log_amplitude = np.log(np.maximum(amplitude, 1e-8 * amplitude.max()))
    usual = ndimage.uniform_filter1d(log_amplitude, spectrum_points, mode="wrap")
    return np.abs(np.fft.ifft(np.exp(log_amplitude - usual + 1j * np.angle(spectrum))))

"""HDR pictures (PQ and HLG, BT.2020) brought to SDR (BT.709), as players do on an ordinary screen."""

from __future__ import annotations

import torch
from torch import Tensor

PQ, HLG = 16, 18
TRANSFERS = (PQ, HLG)
"""Transfer characteristics by ITU-T H.273."""

PEAK = 1000.0
"""cd/m² of the brightest pixel that is told apart; what most clips are graded for, and HLG's nominal display."""
WHITE = 203.0
"""cd/m² of SDR's white in HDR, by ITU-R BT.2408."""
ROWS = 128  # at a time: a whole 8k picture in float32 would take 400 MB
_M1, _M2, _C1, _C2, _C3 = 2610 / 16384, 2523 / 32, 3424 / 4096, 2413 / 128, 2392 / 128
_TO_709 = ((1.6605, -0.5876, -0.0728), (-0.1246, 1.1329, -0.0083), (-0.0182, -0.1006, 1.1187))
"""Linear BT.2020 to linear BT.709 primaries, by ITU-R BT.2087."""
_LUMINANCE = (0.2627, 0.6780, 0.0593)


def to_sdr(image: Tensor, transfer: int) -> Tensor:
    """[H, W, 3] integers from 0 to 65535, BT.2020 with this transfer, to bytes in BT.709."""
    return torch.cat([_band(rows.float() / 65535, transfer) for rows in image.split(ROWS)])


def _band(signal: Tensor, transfer: int) -> Tensor:
    light = _from_pq(signal) if transfer == PQ else _from_hlg(signal)
    brightest = light.amax(-1, keepdim=True).clamp(min=1e-6)
    light = light * (_tone_map(brightest) / brightest / WHITE)
    light = (light @ torch.tensor(_TO_709).T).clamp(0, 1)
    return (_to_709(light) * 255).round().to(torch.uint8)


def _from_pq(signal: Tensor) -> Tensor:
    """cd/m², by SMPTE ST 2084."""
    power = signal.pow(1 / _M2)
    return 10000 * ((power - _C1).clamp(min=0) / (_C2 - _C3 * power)).pow(1 / _M1)


def _to_pq(light: Tensor) -> Tensor:
    power = (light / 10000).pow(_M1)
    return ((_C1 + _C2 * power) / (1 + _C3 * power)).pow(_M2)


def _from_hlg(signal: Tensor) -> Tensor:
    """cd/m² on a display of `PEAK`, by ITU-R BT.2100."""
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    scene = torch.where(signal <= 0.5, signal.square() / 3, (((signal - c) / a).exp() + b) / 12)
    luminance = (scene * torch.tensor(_LUMINANCE)).sum(-1, keepdim=True).clamp(min=1e-6)
    return PEAK * luminance.pow(0.2) * scene


def _tone_map(light: Tensor) -> Tensor:
    """Dark and middle tones stay, what is bright is rolled off towards `WHITE`: the curve of ITU-R BT.2390, 5.4.1."""
    peak, white = _to_pq(torch.tensor([PEAK, WHITE]))
    signal, most = (_to_pq(light) / peak).clamp(max=1), white / peak
    knee = 1.5 * most - 0.5
    t = (signal - knee) / (1 - knee)
    rolled = (2 * t**3 - 3 * t**2 + 1) * knee + (t**3 - 2 * t**2 + t) * (1 - knee) + (-2 * t**3 + 3 * t**2) * most
    return _from_pq(torch.where(signal < knee, signal, rolled) * peak)


def _to_709(light: Tensor) -> Tensor:
    """The signal of a display with a gamma of 2.4 (ITU-R BT.1886)."""
    return light.pow(1 / 2.4)

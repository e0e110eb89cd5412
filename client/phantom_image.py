"""Drawing one phantom chest X-ray: geometry attenuates the beam, a detector turns attenuation into grey values.

Body, ribcage, lungs, heart, spine and vessels stop part of the beam; bright is where it is stopped. Images of the second
class have soft opacities inside a lung. Nothing here comes from, or says anything about, a real patient.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

Pixels = NDArray[np.floating]
"""(H, W) float32: rows from the top down."""
Point = tuple[float, float]
GOLDEN = 0.6180339887498949
"""Steps of this size modulo 1 fill [0, 1) evenly, however many are taken: shares are met without knowing the total."""


@dataclass(frozen=True)
class Scanner:
    """How one hospital's machine turns attenuation into grey values, and how many of its patients have an opacity."""

    file_format: str
    contrast: float
    exposure: float
    gamma: float
    noise: float
    prevalence: float


@dataclass(frozen=True)
class Anatomy:
    """One patient, in half image widths; x runs to the image's right, y down, both from -1 to 1."""

    chest_width: float
    heart_size: float
    rib_spacing: float
    rib_phase: float
    lung_air: float
    vessel_phase: float


def draw_scanner(index: int, rng: Generator) -> Scanner:
    """The machine of hospital `index`; prevalences are spread evenly over 20 to 60 %, file formats take turns."""
    return Scanner(
        file_format=("png16", "png8", "jpeg")[index % 3],
        contrast=rng.uniform(0.75, 1.1),
        exposure=rng.uniform(-0.06, 0.06),
        gamma=rng.uniform(0.75, 1.35),
        noise=rng.uniform(0.01, 0.035),
        prevalence=0.2 + 0.4 * (index * GOLDEN % 1.0),
    )


def draw_anatomy(rng: Generator) -> Anatomy:
    """One patient's anatomy."""
    return Anatomy(
        chest_width=rng.uniform(0.93, 1.05),
        heart_size=rng.uniform(0.88, 1.15),
        rib_spacing=rng.uniform(0.155, 0.185),
        rib_phase=rng.uniform(0.0, 1.0),
        lung_air=rng.uniform(0.74, 0.84),
        vessel_phase=rng.uniform(0.0, 2 * np.pi),
    )


def render(anatomy: Anatomy, opacity: bool, size_px: int, rng: Generator) -> Pixels:
    """Attenuation of one exposure of a patient, before the detector.

    Args:
        anatomy: the patient.
        opacity: whether a lung has one.
        size_px: height and width H = W.
        rng: positioning, depth of breath, texture and the opacity itself.

    Returns:
        (H, W) float32 in [0, 1]: share of the beam that is stopped.
    """
    line = np.linspace(-1.0, 1.0, size_px, dtype=np.float32)
    angle, scale = rng.normal(0.0, 0.025), rng.uniform(0.99, 1.06)
    across, down = line[None, :] - rng.normal(0.0, 0.03), line[:, None] - rng.normal(0.0, 0.03)
    x = (math.cos(angle) * across + math.sin(angle) * down) / (scale * anatomy.chest_width)
    y = (math.cos(angle) * down - math.sin(angle) * across) / scale
    u = np.abs(x)
    breath = rng.uniform(-0.05, 0.05)
    lungs, diaphragm = _lungs(x, y, u, breath)
    heart = _ellipse(x, y, (0.15, 0.34 + breath), (0.33, 0.25), 0.55, anatomy.heart_size)
    middle = _inside(0.125 + 0.05 * y - u, 0.03) + 0.7 * _ellipse(x, y, (0.13, -0.27), (0.08, 0.1), 0.0, 1.0)

    tissue = _body(x, y, u) * (1.0 + 0.08 * _cloud(size_px, 5, rng))
    air = anatomy.lung_air * (1.0 + 0.06 * _cloud(size_px, 4, rng)) * lungs * (1 - 0.75 * heart) * (1 - 0.6 * middle)
    extra = 0.16 * heart + 0.12 * middle + _bones(anatomy, y, u, diaphragm) + _vessels(anatomy, x, y, u) * lungs
    if opacity:
        extra = extra + _opacities(x, y, lungs * (1 - heart), rng)
    trachea = 0.2 * _inside(0.035 - np.abs(x - 0.01), 0.015) * _inside(-0.22 - y, 0.04)
    stomach = rng.uniform(0.0, 0.3) * _ellipse(x, y, (0.36, 0.74 + breath), (0.13, 0.08), 0.2, 1.0)
    path = 1.35 * tissue * (1.0 - air - trachea - stomach) + extra
    return (1.0 - np.exp(-1.15 * np.maximum(path, 0.0))).astype(np.float32)


def expose(attenuation: Pixels, scanner: Scanner, rng: Generator) -> Pixels:
    """What `scanner` records of an attenuation (H, W): blurred, noisy where little light arrives, in [0, 1]."""
    blurred = attenuation.copy()
    blurred[1:-1] = 0.25 * attenuation[:-2] + 0.5 * attenuation[1:-1] + 0.25 * attenuation[2:]
    blurred[:, 1:-1] = 0.25 * blurred[:, :-2] + 0.5 * blurred[:, 1:-1] + 0.25 * blurred[:, 2:]
    grain = rng.standard_normal(attenuation.shape, dtype=np.float32) * scanner.noise * (0.4 + blurred)
    exposure = 0.45 + scanner.exposure + rng.uniform(-0.02, 0.02)
    grey = scanner.contrast * 1.15 * (blurred + grain - 0.45) + exposure
    return np.asarray(np.clip(grey, 0.0, 1.0) ** scanner.gamma)


def _inside(distance: Pixels, softness: float) -> Pixels:
    """1 where `distance` > 0, 0 where it is < 0, with a soft edge."""
    return np.asarray(0.5 + 0.5 * np.tanh(distance / (2 * softness)))


def _ellipse(x: Pixels, y: Pixels, centre: Point, radii: Point, angle: float, scale: float) -> Pixels:
    """A soft-edged ellipse, turned by `angle` radians."""
    dx, dy = x - centre[0], y - centre[1]
    along, across = math.cos(angle) * dx + math.sin(angle) * dy, math.cos(angle) * dy - math.sin(angle) * dx
    return _inside(1.0 - np.sqrt((along / (radii[0] * scale)) ** 2 + (across / (radii[1] * scale)) ** 2), 0.06)


def _cloud(size_px: int, cells: int, rng: Generator) -> Pixels:
    """Smooth random field (H, W) with a standard deviation near 1, `cells` bumps across."""
    places = np.linspace(0.0, cells, size_px, dtype=np.float32)[:, None] - np.arange(cells + 1, dtype=np.float32)
    weights = np.exp(-(places**2))
    weights /= np.sqrt((weights**2).sum(axis=1, keepdims=True))
    bumps = rng.standard_normal((cells + 1, cells + 1), dtype=np.float32)
    return np.asarray(weights @ bumps @ weights.T)


def _body(x: Pixels, y: Pixels, u: Pixels) -> Pixels:
    """Thickness of soft tissue in [0, 1]: trunk, shoulders and neck, air around them."""
    width = 0.98 + 0.05 * y + 0.5 * _inside(-0.12 - y, 0.05)
    trunk = np.sqrt(np.maximum(1.0 - (u / width) ** 4, 0.0)) * _inside(y + 0.92 - 0.38 * u**2, 0.025)
    neck = np.sqrt(np.maximum(1.0 - (x / (0.27 + 0.5 * np.clip(y + 0.95, 0, 1))) ** 2, 0.0)) * _inside(-0.5 - y, 0.05)
    return np.asarray(np.maximum(trunk, 0.9 * neck))


def _lungs(x: Pixels, y: Pixels, u: Pixels, breath: float) -> tuple[Pixels, Pixels]:
    """Depth of air (H, W) in [0, 1] and the signed distance above the diaphragm, higher on the image's left."""
    below_apex = np.clip((y + 0.72) / 1.25, 0.0, 1.0)
    outer = 0.14 + 0.64 * np.sqrt(1.0 - (1.0 - below_apex) ** 2.6)
    dome = 0.56 + breath + 0.07 * np.tanh(x * 4.0) + 1.3 * np.clip(u - 0.36, 0.0, 1.0) ** 2 + 0.4 * (u - 0.36) ** 2
    edge = np.minimum(np.minimum(u - 0.12 - 0.05 * np.clip(y, 0.0, 1.0), outer - u), dome - y)
    return _inside(edge, 0.008) * (0.45 + 0.55 * np.sqrt(np.clip((edge + 0.01) / 0.22, 0.0, 1.0))), dome - y


def _bones(anatomy: Anatomy, y: Pixels, u: Pixels, diaphragm: Pixels) -> Pixels:
    """Ribs behind and in front, collar bones and spine."""
    below_apex = np.clip((y + 0.80) / 1.3, 0.0, 1.0)
    cage = _inside(0.18 + 0.64 * np.sqrt(1.0 - (1.0 - below_apex) ** 2.4) - u, 0.012) * _inside(y + 0.78, 0.02)
    back_course = y + 0.55 * u - 0.95 * u**2 + anatomy.rib_phase * 0.05
    front_course = y + 0.75 * (u - 0.2) - 0.9 * (u - 0.2) ** 3
    back = _inside(np.cos(2 * np.pi * back_course / anatomy.rib_spacing) - 0.1, 0.12)
    front = _inside(np.cos(2 * np.pi * (front_course / (1.25 * anatomy.rib_spacing) + anatomy.rib_phase)) - 0.35, 0.15)
    ribs = cage * _inside(diaphragm + 0.12, 0.08) * (0.11 * back + 0.06 * front * _inside(u - 0.27, 0.05))
    collar = _inside(0.028 - np.abs(y + 0.56 + 0.22 * (u - 0.1) - 0.18 * u**2), 0.01) * _inside(u - 0.07, 0.02)
    spine = _inside(0.075 - u, 0.012) * (0.10 + 0.035 * np.cos(2 * np.pi * y / 0.15))
    return np.asarray(ribs + 0.24 * collar * _inside(0.62 - u, 0.04) + spine)


def _vessels(anatomy: Anatomy, x: Pixels, y: Pixels, u: Pixels) -> Pixels:
    """Lung roots and the vessels that spread and fade from them."""
    across, down = u - 0.15, y + 0.05
    distance = np.hypot(across, down)
    angle = np.arctan2(down, across) + 0.25 * np.sin(9.0 * distance)
    phase = anatomy.vessel_phase + 2.0 * np.sign(x)
    streaks = np.exp(3.0 * (np.cos(11.0 * angle + phase) - 1.0)) + 0.6 * np.exp(4 * (np.cos(17 * angle - phase) - 1.0))
    root = np.exp(-((across / 0.09) ** 2) - (down / 0.16) ** 2)
    return np.asarray(0.13 * root + 0.14 * streaks * np.exp(-distance / 0.28))


def _opacities(x: Pixels, y: Pixels, lungs: Pixels, rng: Generator) -> Pixels:
    """One to three soft, uneven patches (H, W), each centred inside a lung."""
    inside, field = np.flatnonzero(lungs > 0.6), np.zeros_like(x)
    for _ in range(rng.choice(3, p=(0.55, 0.3, 0.15)) + 1):
        centre = rng.choice(inside)
        dx, dy = x - x.flat[centre], y - y.flat[centre]
        width, height, lean = rng.uniform(0.16, 0.42), rng.uniform(0.16, 0.42), rng.uniform(-0.8, 0.8)
        field += np.exp(-(((dx + lean * dy) / width) ** 2) - (dy / height) ** 2)
    uneven = np.clip(1.0 + 0.5 * _cloud(x.shape[0], 26, rng), 0.2, 2.2)
    return np.asarray(rng.uniform(0.3, 0.9) * np.minimum(field, 1.3) * uneven * np.sqrt(lungs))

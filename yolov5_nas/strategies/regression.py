"""Bayesian linear regression: what options add to a number, and how sure that is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

# Of the numbers' variance, what noise may be; each is as likely beforehand.
NOISES = (0.0003, 0.001, 0.003, 0.01, 0.03, 0.07, 0.15, 0.25, 0.35, 0.5, 0.65, 0.8, 0.92, 0.98)


def posterior(
    x: np.ndarray, y: np.ndarray, prior: np.ndarray, noise: np.ndarray
) -> tuple[float, np.ndarray, np.ndarray]:
    """Log evidence, mean and covariance of coefficients with a known prior (Bishop 2006, section 3.3).

    Args:
        x: (n, d); y: (n,).
        prior: (d,), standard deviations about 0; noise: (n,), the same of y.
    """
    import numpy as np

    variance = prior**2
    evidence = (x * variance) @ x.T + np.diag(noise**2)  # (n, n), of y
    gain = (x * variance).T @ np.linalg.inv(evidence)  # (d, n)
    _, logdet = np.linalg.slogdet(evidence)
    log = -0.5 * (y @ np.linalg.solve(evidence, y) + logdet)
    return float(log), gain @ y, np.diag(variance) - gain @ (x * variance)


@dataclass(frozen=True)
class Fit:
    """A linear model y = level + (x - centre) @ b of which b is known up to a mixture of normal distributions.

    Args:
        centre: (d,), of x.
        likely: (m,), how likely each part of the mixture is.
        means: (m, d), of b.
        axes: (d, d), orthonormal rows, along which b is independent; spreads: (m, d), standard deviations along them.
    """

    level: float
    centre: np.ndarray
    likely: np.ndarray
    means: np.ndarray
    axes: np.ndarray
    spreads: np.ndarray

    @property
    def mean(self) -> np.ndarray:
        """(d,), of b."""
        return self.likely @ self.means  # type: ignore[no-any-return]

    def draw(self, rng: np.random.Generator, width: float = 1.0) -> np.ndarray:
        """One b, (d,); a larger `width` draws further from the mean."""
        part = rng.choice(len(self.likely), p=self.likely)
        return self.means[part] + width * (self.spreads[part] * rng.normal(size=len(self.axes))) @ self.axes

    def of(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of rows @ b, for rows (n, d)."""
        import numpy as np

        means = rows @ self.means.T  # (n, m)
        variances = (rows @ self.axes.T) ** 2 @ (self.spreads**2).T
        mean = means @ self.likely
        return mean, np.sqrt((variances + (means - mean[:, None]) ** 2) @ self.likely)


def fit(x: np.ndarray, y: np.ndarray) -> Fit:
    """The model of numbers y (n,) by features x (n, d), n at least 2.

    All coefficients share one prior, a normal distribution around 0 that together with the noise explains the variance
    of y. The noise's share of it is unknown: each of `NOISES` is weighted by its evidence, with the scale of y
    integrated out (Bishop 2006, sections 3.3 and 3.5; Gelman et al. 2013, section 14.2).
    """
    import numpy as np

    n, d = x.shape
    level, centre = y.mean(), x.mean(0)
    x, y = x - centre, y - level
    _, sizes, axes = np.linalg.svd(x, full_matrices=True)  # x = u * sizes @ axes
    squares = np.zeros(d)
    squares[: len(sizes)] = sizes**2
    along = axes @ x.T @ y  # (d,), x' y along the axes
    shares = np.array(NOISES)[:, None]  # (m, 1)
    prior = (1 - shares) / max(squares.sum() / n, 1e-12)  # of a coefficient, with y's variance as the unit
    spread = 1 / (1 / prior + squares / shares)  # (m, d), variances of the posterior
    means = spread * along / shares
    # y' (noise + x prior x')^-1 y, and the determinant, of n - 1 numbers that are independent
    left = (y @ y - (means * along).sum(1)) / shares[:, 0]
    logdet = (n - 1) * np.log(shares[:, 0]) + np.log1p(prior * squares / shares).sum(1)
    left = np.maximum(left, 1e-12)
    log = -0.5 * ((n - 1) * np.log(left) + logdet)
    likely = np.exp(log - log.max())
    scale = left / (n - 1)  # of y's variance
    return Fit(float(level), centre, likely / likely.sum(), means @ axes, axes, np.sqrt(spread * scale[:, None]))


def fence(values: Sequence[float]) -> float:
    """The bound below which values are outliers: 1.5 times as far below the lower quartile as the best is above it.

    A training that broke down says little about its architecture, and flattens every plot and model that includes it.
    """
    quartile, highest = sorted(values)[len(values) // 4], max(values)
    return quartile - 1.5 * (highest - quartile)

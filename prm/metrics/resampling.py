"""Uncertainty over questions: one value per question in, bootstrap intervals and paired tests out."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from prm.metrics.ties import without_noise

NUM_DRAWS = 10_000
MAX_DRAWS = 1_000_000
"""Most resamples, since all those of an interval are held at once."""
CONFIDENCE = 0.95
CHUNK = 5_000_000
"""Drawn questions that are held at a time."""


@dataclass(kw_only=True)
class BootstrapConfig:
    """The bootstrap behind the intervals of an evaluation."""

    confidence: float = CONFIDENCE
    """Share of the bootstrap distribution that an interval holds."""
    num_bootstrap: int = NUM_DRAWS
    """Resamples of the questions or items behind each interval and paired test."""
    seed: int = 0
    """Seed of the bootstrap, and of everything else that is drawn."""

    def __post_init__(self) -> None:
        if self.num_bootstrap < 1:
            raise ValueError(f"--num_bootstrap {self.num_bootstrap}: an interval needs resamples, at least one")
        if self.num_bootstrap > MAX_DRAWS:
            raise ValueError(f"--num_bootstrap {self.num_bootstrap}: {MAX_DRAWS} at most, which fix an interval to its third digit")
        if self.seed < 0:
            raise ValueError(f"--seed {self.seed}: give 0 or more")
        if not 0 < self.confidence < 1:
            raise ValueError(f"--confidence {self.confidence}: give a share between 0 and 1, such as 0.95")

    @property
    def draws(self) -> tuple[float, int, int]:
        """What `bootstrap_interval`, `paired_difference` and `ratio_interval` take after their values."""
        return self.confidence, self.num_bootstrap, self.seed


def resampled_means(
    values: Float[np.ndarray, "questions *curves"], num_draws: int = NUM_DRAWS, seed: int = 0
) -> Float[np.ndarray, "draws *curves"]:
    """Means of `num_draws` resamples of the questions, with replacement.

    Every trailing column sees the same resamples, so differences between columns are paired.
    """
    num_questions = len(values)
    if num_questions == 0:
        raise ValueError("no questions to resample: the evaluation is empty")
    rng = np.random.default_rng(seed)
    flat = values.reshape(num_questions, -1)
    chunk = max(1, CHUNK // num_questions)
    parts = []
    for start in range(0, num_draws, chunk):
        size = min(chunk, num_draws - start)
        picks = rng.integers(num_questions, size=(size, num_questions)) + np.arange(size)[:, None] * num_questions
        times_drawn = np.bincount(picks.ravel(), minlength=size * num_questions).reshape(size, num_questions)
        parts.append(times_drawn @ flat / num_questions)
    return np.concatenate(parts).reshape(num_draws, *values.shape[1:])


def bootstrap_interval(
    values: Float[np.ndarray, "questions *curves"],
    confidence: float = CONFIDENCE,
    num_draws: int = NUM_DRAWS,
    seed: int = 0,
) -> tuple[Float[np.ndarray, "*curves"], Float[np.ndarray, "*curves"]]:
    """Percentile interval of the mean over questions: its lower and upper ends."""
    return percentile_interval(resampled_means(values, num_draws, seed), confidence)


@dataclass(frozen=True)
class PairedDifference:
    """How much better `first` is than `second` on the same questions; `p_value` is nan for fewer than two questions."""

    difference: Float[np.ndarray, "*curves"]
    low: Float[np.ndarray, "*curves"]
    high: Float[np.ndarray, "*curves"]
    p_value: Float[np.ndarray, "*curves"]


def paired_difference(
    first: Float[np.ndarray, "questions *curves"],
    second: Float[np.ndarray, "questions *curves"],
    confidence: float = CONFIDENCE,
    num_draws: int = NUM_DRAWS,
    seed: int = 0,
) -> PairedDifference:
    """Paired bootstrap of mean(first - second) over questions, `paired_test` of it."""
    gaps = without_noise(first - second)
    num_differing = np.asarray((gaps != 0).sum(axis=0))
    return paired_test(np.asarray(gaps.mean(axis=0)), resampled_means(gaps, num_draws, seed), len(gaps), num_differing, confidence)


def paired_test(
    difference: Float[np.ndarray, "*curves"],
    draws: Float[np.ndarray, "draws *curves"],
    num_questions: int,
    num_differing: Int[np.ndarray, "*curves"],
    confidence: float,
) -> PairedDifference:
    """Interval and two-sided p-value of a difference from the same difference in resamples of both systems' common questions.

    The p-value is twice the smaller share of resamples on either side of zero, counting zeros on both sides and one added draw, so
    that two identical systems give 1, and that no p-value is below 2 / (num_draws + 1). Nor is any below 2^(1 - num_differing), the
    least that a sign test gives on the `num_differing` questions on which the systems differ. Resampling alone could not tell that
    there are few: where all of them favor one system and every resample holds some, as in a small stratum, all resamples favor it.
    One question has no spread to resample: its p-value is nan.
    """
    difference, draws = without_noise(difference), without_noise(draws)
    low, high = percentile_interval(draws, confidence)
    tail = np.minimum((draws <= 0).sum(axis=0), (draws >= 0).sum(axis=0))
    p_value = np.clip(2 * (tail + 1) / (len(draws) + 1), 2.0 ** (1 - num_differing), 1.0)
    is_defined = (num_questions > 1) & ~np.isnan(difference)
    return PairedDifference(difference, low, high, np.where(is_defined, p_value, np.nan))


def percentile_interval(
    means: Float[np.ndarray, "draws *curves"], confidence: float
) -> tuple[Float[np.ndarray, "*curves"], Float[np.ndarray, "*curves"]]:
    """The central `confidence` share of resampled statistics: its lower and upper ends."""
    tail = (1 - check_confidence(confidence)) / 2
    low, high = np.quantile(means, [tail, 1 - tail], axis=0)
    return np.asarray(low), np.asarray(high)


def ratio_interval(
    numerators: Float[np.ndarray, "questions *curves"],
    denominators: Float[np.ndarray, "questions *curves"],
    confidence: float = CONFIDENCE,
    num_draws: int = NUM_DRAWS,
    seed: int = 0,
) -> tuple[Float[np.ndarray, "*curves"], Float[np.ndarray, "*curves"]]:
    """Percentile interval of sum(numerators) / sum(denominators) when questions are resampled: of a mean over steps, say.

    Resamples without anything to divide by are left out; where no question has anything, both ends are nan.
    """
    both = resampled_means(np.stack([numerators, denominators], axis=1).astype(np.float64), num_draws, seed)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = np.where(both[:, 1] > 0, both[:, 0] / both[:, 1], np.nan)
    filled = np.where(np.isnan(ratios).all(axis=0), 0.0, ratios)
    tail = (1 - check_confidence(confidence)) / 2
    low, high = np.nanquantile(filled, [tail, 1 - tail], axis=0)
    is_empty = np.asarray(denominators.sum(axis=0) == 0)
    return np.where(is_empty, np.nan, low), np.where(is_empty, np.nan, high)


def check_confidence(confidence: float) -> float:
    """The confidence itself. Raises ValueError for one that is no share."""
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}: give a share between 0 and 1, such as 0.95")
    return confidence

"""Published values beside measured ones: `LABEL=VALUE` in, a label and a share or ratio for each out."""

from collections.abc import Sequence
from math import isfinite


def parse_published(entries: Sequence[str], is_share: bool = True) -> dict[str, float]:
    """Label -> share such as 0.4699, or without `is_share` ratio such as 1.21. Raises ValueError for any other entry."""
    values: dict[str, float] = {}
    for entry in entries:
        label, _, number = entry.rpartition("=")
        try:
            value = float(number)
        except ValueError:
            value = float("nan")
        is_valid = 0 <= value <= 1 if is_share else isfinite(value) and value > 0
        if not label.strip() or not is_valid:
            expected = "between 0 and 1, such as 'asym=0.4699'" if is_share else "above 0, such as 'implicit / shared=1.21'"
            raise ValueError(f"--published {entry!r}: give LABEL=VALUE with a value {expected}")
        if label.strip() in values:
            raise ValueError(f"--published {entry!r}: a second value named {label.strip()!r}")
        values[label.strip()] = value
    return values

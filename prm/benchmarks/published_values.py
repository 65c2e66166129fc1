"""Published values beside measured ones: `LABEL=VALUE` in, a label and a share for each out."""

from collections.abc import Sequence


def parse_published(entries: Sequence[str]) -> dict[str, float]:
    """Raises ValueError for an entry without a label, or whose value is no share such as 0.4699."""
    values: dict[str, float] = {}
    for entry in entries:
        label, _, number = entry.rpartition("=")
        try:
            value = float(number)
        except ValueError:
            value = float("nan")
        if not label.strip() or not 0 <= value <= 1:
            raise ValueError(f"--published {entry!r}: give LABEL=VALUE with a value between 0 and 1, such as 'asym=0.4699'")
        if label.strip() in values:
            raise ValueError(f"--published {entry!r}: a second value named {label.strip()!r}")
        values[label.strip()] = value
    return values

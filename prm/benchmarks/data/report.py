"""Tables of the data engine's speed for the terminal: measurements in, text out."""

from collections.abc import Mapping
from typing import Any

from prm.benchmarks.tables import align


def data_tables(result: Mapping[str, Any]) -> str:
    """A line for each part that was run; for memory a table."""
    lines = []
    if part := result.get("grading"):
        lines.append(
            f"grading: {part['per_cpu_second']:.0f} rollouts per CPU-second, one by one {part['naive_per_cpu_second']:.0f}; "
            f"{part['rollouts']} rollouts, {part['distinct_pairs']} distinct pairs, {100 * part['agreement']:.2f}% equal grades"
        )
    if part := result.get("hostile"):
        slowest = max(part["cpu_seconds"], key=part["cpu_seconds"].get)
        lines.append(f"hostile: {len(part['grades'])} answers, at most {part['most_cpu_seconds']:.2f} CPU-seconds ({slowest})")
    if part := result.get("tokenizing"):
        lines.append(
            f"tokenizing: {part['per_cpu_second']:.0f} responses per CPU-second in batches, {part['ratio']:.2f} times "
            f"step by step; {'equal' if part['equal'] else 'UNEQUAL'} ids"
        )
    if part := result.get("memory"):
        sizes = list(next(iter(part["peak_bytes"].values())))
        rows = [["peak memory, MB", *(f"{int(size):,} rollouts" for size in sizes), "ratio"]]
        for stage, peaks in part["peak_bytes"].items():
            rows.append([stage, *(f"{peaks[size] / 1e6:.0f}" for size in sizes), f"{part['growth'][stage]:.2f}"])
        lines.append(align(rows))
    return "\n".join(lines)

"""Tables of speed for the terminal: the measurements of a benchmark of training or scoring in, aligned text out."""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from prm.benchmarks.speed.scoring_variants import IMPLICIT
from prm.benchmarks.tables import align, number, percent


def training_tables(result: Mapping[str, Any]) -> str:
    """Speed of every way of training and its ratios, balance of ranks, and memory by vocabulary size: the parts that were run."""
    tables = {
        "speed": partial(speed_table, hardware=result["hardware"]),
        "ranks": balance_table,
        "vocabulary": vocabulary_table,
    }
    return "\n\n".join(table(result[part]) for part, table in tables.items() if part in result)


def speed_table(speed: Mapping[str, Any], hardware: Mapping[str, Any]) -> str:
    rows = [["training", f"tokens/{clock(hardware)}", *references(speed), "padding", "peak GB", "estimate", "MFU"]]
    for name, variant in speed["variants"].items():
        memory = [gigabytes(variant[key]) for key in ("peak_memory_bytes", "estimated_memory_bytes")]
        shares = percent(variant["padding"]), *memory, percent(variant["mfu"])
        rows.append([name, f"{variant['tokens_per_second']:.0f}", *quotients(speed, name), *shares])
    notes = [f"{name}: out of memory" for name in speed["out_of_memory"]]
    work = f"{speed['useful_tokens']} useful tokens, the longest response has {speed['longest']}"
    title = f"{speed['model']['shape']} on {where(hardware)}; {work}"
    return "\n".join([title, align(rows), *notes])


def scoring_table(speed: Mapping[str, Any], hardware: Mapping[str, Any]) -> str:
    """Speed of every way of scoring and its ratios, what became of copies, and the inference time of implicit PRMs."""
    names = [f"{unit}/{clock(hardware)}" for unit in ("tokens", "responses")]
    rows = [["scoring", *names, *references(speed), "% computed", "% of matrix rate", "largest difference"]]
    for name, variant in speed["variants"].items():
        speeds = [f"{variant['tokens_per_second']:.0f}", f"{variant['responses_per_second']:.1f}"]
        shares = [percent(variant["computed"]["tokens"] / speed["candidates"]["tokens"]), percent(variant["matrix_share"])]
        rows.append([name, *speeds, *quotients(speed, name), *shares, number(variant["largest_difference"], ".0e")])
    work = speed["candidates"]
    model = f"{speed['model']['shape']} in {speed['dtype']} on {where(hardware)}"
    title = f"{model}; {work['responses']} candidates, {work['tokens']} tokens"
    rate = f"matrix rate, of large square products: {speed['matrix_flops_per_second'] / 1e9:,.0f} GFLOPs/s"
    return "\n".join([title, align(rows), rate, *copies_note(speed), *inference_time_note(speed["inference_time"])])


def where(hardware: Mapping[str, Any]) -> str:
    return f"{hardware['device']}, {hardware['threads']} thread" if hardware["threads"] else hardware["device"]


def clock(hardware: Mapping[str, Any]) -> str:
    return "CPU-s" if hardware["threads"] else "s"


def references(speed: Mapping[str, Any]) -> list[str]:
    """Heads of the columns that `quotients` fills."""
    return [f"/ {name}" for name in next(iter(speed["ratios"].values()), ())]


def quotients(speed: Mapping[str, Any], name: str) -> list[str]:
    return [f"{ratio['median']:.2f}" for ratio in speed["ratios"][name].values()]


def copies_note(speed: Mapping[str, Any]) -> Iterator[str]:
    """Which variants score the copies among the candidates again."""
    work = speed["candidates"]
    if work["copies"]:
        again = [name for name, variant in speed["variants"].items() if variant["computed"]["responses"] == work["responses"]]
        once = [name for name in speed["variants"] if name not in again]
        ways = [f"{how} by {', '.join(names)}" for how, names in (("scored once", once), ("scored again", again)) if names]
        yield f"{work['copies']} of {work['responses']} candidates are copies of others, word for word: {'; '.join(ways)}"


def inference_time_note(found: Mapping[str, Any] | None) -> Iterator[str]:
    """Ratios as measured beside those of FLOPs and what was published."""
    if found:
        ratios = [
            f"{IMPLICIT[name]} {ratio['median']:.2f} (by FLOPs {ratio['flops']:.2f})" for name, ratio in found["ratios"].items()
        ]
        published = [f"published: {label} {value:g}" for label, value in found["published"].items()]
        yield f"inference time, implicit PRM / discriminative ({found['over']}): {'; '.join([*ratios, *published])}"


def balance_table(ranks: Mapping[str, Any]) -> str:
    rows = [[f"{ranks['world_size']} ranks, FLOPs of {ranks['shape']}", "busiest / mean", "worst batch", "useful work"]]
    for name in ("packed_balanced", "padded_random"):
        balance = ranks[name]
        ratios = (balance["busiest_over_mean"], balance["busiest_over_mean_worst"])
        rows.append([name, *(f"{ratio:.3f}" for ratio in ratios), f"{balance['efficiency']:.3f}"])
    return align(rows)


def vocabulary_table(vocabulary: Mapping[str, Any]) -> str:
    rows = [[f"log-probs of {vocabulary['num_targets']} tokens, GB", "chunked", "full logits"]]
    rows += [[f"vocabulary {row['vocab_size']}", gigabytes(row["chunked"]), gigabytes(row["full"])] for row in vocabulary["sizes"]]
    return align(rows)


def gigabytes(size: float | None) -> str:
    return "-" if size is None else f"{size / 1e9:.2f}"

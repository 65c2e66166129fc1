"""The dataset card: statistics in, the README.md out with which `datasets.load_dataset(folder)` and the hub read the folder."""

from pathlib import Path
from typing import Any

from prm.data.statistics import table
from prm.files import write_text

# Without the types, a split whose first rows lack a field would be read without it, and the next one refused.
HEAD = """---
configs:
- config_name: default
  data_files:
{files}
dataset_info:
  features:
  - name: question_id
    dtype: string
  - name: sample_index
    dtype: int64
  - name: question
    dtype: string
  - name: steps
    list: string
  - name: correct
    dtype: bool
  - name: step_labels
    list: float64
  - name: answer
    dtype: string
  - name: extracted
    dtype: string
  - name: label_source
    dtype: string
  - name: completions
    list:
      list: int64
---
# Responses in steps, for a process reward model

`correct` is the outcome label, `step_labels` are -1 (bad), 0 (neutral), 1 (good) or soft targets in [0, 1]; null where there is
none. Both splits hold whole questions. `manifest.json` says how the files were made and what was dropped.

"""


def write_card(folder: Path, summaries: dict[str, dict[str, Any]]) -> None:
    """`summaries` are those of `Statistics`, by name; a split of which `folder` has a file is listed."""
    splits = [name for name in ("train", "validation") if (folder / f"{name}.jsonl").exists()]
    files = "\n".join(f"  - split: {name}\n    path: {name}.jsonl" for name in splits)
    header, *rows = ["| " + " | ".join(row) + " |" for row in table(summaries)]
    rule = "|" + "---|" * (len(summaries) + 1)
    write_text(folder / "README.md", HEAD.format(files=files) + "\n".join([header, rule, *rows]) + "\n")

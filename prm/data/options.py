"""Options of the dataset builder, checked before anything is read."""

from dataclasses import dataclass, field

from prm.data.decontaminate import NGRAM
from prm.steps import CONTRACTS


@dataclass
class BuildConfig:
    """Options of `scripts/build_dataset.py`."""

    rollouts: str = "data/graded"
    """Graded rollouts: what scripts/grade_rollouts.py wrote, or another shape that `prm.data.sources` knows."""
    responses: str | None = None
    """Labelled responses that are in steps already, instead of --rollouts."""
    step_labels: str | None = None
    """Responses with `step_labels` (for --loss step_ce), joined to the others by question_id and sample_index."""
    output: str = "data/dataset"
    """Folder of the dataset; replaced if it holds one already."""
    min_pass_rate: float = 0.2
    """Questions with a smaller share of right answers are dropped."""
    max_pass_rate: float = 0.8
    """Questions with a larger share of right answers are dropped."""
    max_step_length: int | None = None
    """Merge neighbouring steps while they stay within this many tokens; needs --tokenizer. Default: every paragraph is a step."""
    tokenizer: str | None = None
    """Model name or folder whose tokenizer counts the tokens of the statistics and of --max_step_length."""
    validation_fraction: float = 0.02
    """Share of the questions that goes to validation.jsonl; at least one question unless it is 0."""
    deduplicate: bool = True
    """Keep one of several responses to a question that are equal word for word."""
    near_duplicates: float | None = None
    """Drop responses whose runs of 5 words have a Jaccard similarity above this, in [0, 1), with an earlier response
    to the question of the same outcome and last step label. Default: keep them."""
    balance: bool = False
    """Keep as many right as wrong responses of each question, chosen by --seed."""
    decontaminate: list[str] = field(default_factory=list)
    """Evaluation files: questions that share their text or --ngram words in a row with one of them are dropped."""
    ngram: int = NGRAM
    """Words in a row that count as an overlap with an evaluation file."""
    tokenize: str | None = None
    """Model name or folder: encode the responses for its training ahead, so that scripts/train.py starts at once. Default: it
    encodes them when it first starts."""
    loss: str | None = None
    """Objective of that training, which chooses the encoding (asym if not given); needs --tokenize."""
    seed: int = 0
    """Seed of the split into training and validation, and of --balance."""

    def __post_init__(self) -> None:
        if not 0 <= self.min_pass_rate <= self.max_pass_rate <= 1:
            raise ValueError(f"pass rates [{self.min_pass_rate}, {self.max_pass_rate}]: need 0 <= min <= max <= 1")
        if not 0 <= self.validation_fraction < 1:
            raise ValueError(f"--validation_fraction {self.validation_fraction}: must be at least 0 and below 1")
        if self.max_step_length is not None and self.tokenizer is None:
            raise ValueError(f"--max_step_length {self.max_step_length} counts tokens: give --tokenizer too")
        if self.max_step_length is not None and self.max_step_length < 1:
            raise ValueError(f"--max_step_length {self.max_step_length}: must be at least 1 token")
        if self.responses and self.max_step_length:
            raise ValueError("--max_step_length: --responses are in steps already, which may carry labels; leave it out")
        if self.near_duplicates is not None and not 0 <= self.near_duplicates < 1:
            raise ValueError(f"--near_duplicates {self.near_duplicates}: a similarity, must be at least 0 and below 1")
        if self.loss is not None and self.tokenize is None:
            raise ValueError(f"--loss {self.loss} chooses how to encode: give --tokenize MODEL too")
        if self.loss is not None and self.loss not in CONTRACTS:
            raise ValueError(f"--loss {self.loss} is unknown; must be one of {', '.join(CONTRACTS)}")
        if self.ngram < 1:
            raise ValueError(f"--ngram {self.ngram}: must be at least 1 word")

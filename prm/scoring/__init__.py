"""Step scores of any responses under any PRM: `Scorer` in memory, `score_file` for files, `score_kept` for evaluations."""

from prm.scoring.engines import ScoringEngine, TorchEngine
from prm.scoring.file import ScoringConfig, score_file
from prm.scoring.notes import ScoringNotes, notes_of
from prm.scoring.options import ModelConfig
from prm.scoring.processes import score_in_processes
from prm.scoring.scorer import Scorer
from prm.scoring.store import score_kept

__all__ = [
    "ModelConfig",
    "Scorer",
    "ScoringConfig",
    "ScoringEngine",
    "ScoringNotes",
    "TorchEngine",
    "notes_of",
    "score_file",
    "score_in_processes",
    "score_kept",
]

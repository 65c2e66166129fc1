"""Which aggregations an evaluation reports: the field's, the user's, and a checkpoint's own."""

import pytest

from prm.aggregation import Aggregation, check_aggregation
from prm.benchmarks.response_scores import ResponseScoreConfig
from prm.benchmarks.score_files import scoring_notes
from prm.files import write_json
from prm.models.published import RECIPES
from prm.scoring import ScoringNotes, notes_of
from prm.steps.contract import CONTRACTS

PUBLISHED = {name: recipe.contract for name, recipe in RECIPES.items()}


@pytest.mark.parametrize("name", [*CONTRACTS, *PUBLISHED])
def test_every_contract_s_own_aggregation_is_reported(name):
    contract = {**CONTRACTS, **PUBLISHED}[name]
    config = ResponseScoreConfig()
    config.take_defaults_of(ScoringNotes.of(contract))
    own = contract["aggregation"]
    assert config.aggregations == (["min", "mean", "last"] if own in ("min", "mean", "last") else [own, "min", "mean", "last"])
    assert config.softmin_tau == 0.1
    check_aggregation(own, signed=contract["activation"] in ("difference", "identity"))


def test_what_the_user_gives_stays():
    config = ResponseScoreConfig(aggregation=["last", "softmin"], tau=0.5)
    config.take_defaults_of(ScoringNotes.of(PUBLISHED["qwen"]))
    assert (config.aggregations, config.softmin_tau) == (["last", "softmin"], 0.5)
    config = ResponseScoreConfig()
    assert (config.aggregations, config.softmin_tau) == (["min", "mean", "last"], 0.1)
    config.take_defaults_of(ScoringNotes(Aggregation("softmin", 0.3)))
    assert (config.aggregations, config.softmin_tau) == (["softmin", "min", "mean", "last"], 0.3)


def test_mistakes():
    with pytest.raises(ValueError, match="unknown aggregation 'minimum'"):
        ResponseScoreConfig(aggregation=["minimum"])
    with pytest.raises(ValueError, match="tau is 0"):
        ResponseScoreConfig(tau=0)


def test_a_temperature_that_nothing_has():
    with pytest.raises(ValueError, match=r"--tau 0\.5: the temperature of softmin, but --aggregation is last"):
        ResponseScoreConfig(aggregation=["last"], tau=0.5)
    config = ResponseScoreConfig(tau=0.5)
    with pytest.raises(ValueError, match="but --aggregation is product min mean last"):
        config.take_defaults_of(ScoringNotes.of(PUBLISHED["qwen"]))
    given = ResponseScoreConfig(tau=0.5)
    given.take_defaults_of(ScoringNotes(Aggregation("softmin", 0.3)))
    assert given.softmin_tau == 0.5


def test_a_broken_manifest_beside_scores_is_named(tmp_path):
    (tmp_path / "s.manifest.json").write_text("{")
    with pytest.raises(ValueError, match=r"s\.manifest\.json: not valid JSON .*; restore or remove it"):
        scoring_notes([str(tmp_path / "s.jsonl")])


def test_notes_are_those_of_the_finest_division_into_jobs(tmp_path):
    """Two jobs left out 1 response each; the same run in one job, which left out 7, has left a manifest, too."""
    own = {"aggregation": {"name": "softmin", "tau": 0.2}}
    for name, scored in (("manifest.json", 3), ("manifest-00000-of-00002.json", 4), ("manifest-00001-of-00002.json", 4)):
        write_json(tmp_path / "x" / name, {**own, "counts": {"responses": 10 if name == "manifest.json" else 5, "scored": scored}})
    assert scoring_notes([str(tmp_path / "x")]) == {"x": ScoringNotes(Aggregation("softmin", 0.2), None, 8, 2)}
    # Stopped in four, it ended in two.
    for index, counts in enumerate(({"responses": 3, "scored": 3}, {}, {}, {})):
        write_json(tmp_path / "x" / f"manifest-{index:05d}-of-00004.json", {**own, "counts": counts})
    assert scoring_notes([str(tmp_path / "x")])["x"].num_left_out == 2
    assert scoring_notes([str(tmp_path / "nothing.jsonl")]) == {}


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        ({"counts": [1]}, r"counts is \[1\], which no run writes"),
        ({"counts": {"responses": "many"}}, "responses among the counts is 'many'"),
        ({"counts": {"scored": None}}, "scored among the counts is None"),
        ({"aggregation": "min"}, "aggregation is 'min'"),
        ({"aggregation": {}}, "no 'name'"),
        ({"aggregation": {"name": "least"}}, "unknown aggregation 'least'"),
        ({"aggregation": {"name": ["min"]}}, "'name' is"),
        ({"aggregation": {"name": "softmin", "tau": "warm"}}, "'tau' is 'warm'"),
        ({"activation": ["sigmoid"]}, "activation is"),
    ],
)
def test_a_manifest_that_no_scoring_writes_is_named(tmp_path, manifest, message):
    write_json(tmp_path / "x.manifest.json", manifest)
    with pytest.raises(ValueError, match=rf"x\.manifest\.json: (aggregation: )?{message}.*; restore or remove it"):
        notes_of(tmp_path / "x.jsonl")


def test_only_an_evaluations_own_scores_have_the_notes_of_the_folder_beside_them(tmp_path):
    """A file of others' scores may stand beside a folder that score.py wrote."""
    write_json(tmp_path / "scores" / "manifest.json", {"aggregation": {"name": "last", "tau": 0.1}, "counts": {}})
    (tmp_path / "scores.jsonl").write_text("")
    assert notes_of(tmp_path / "scores.jsonl") is None
    write_json(tmp_path / "metrics.json", {})
    assert notes_of(tmp_path / "scores.jsonl").aggregation == Aggregation("last")
    assert notes_of(tmp_path / "other.jsonl") is None
    assert notes_of(tmp_path) is None, "of a folder only predictions.jsonl is read"

import pytest

from prm.figures import figure_paths, new_figure


def draw(path_stem):
    with new_figure(path_stem, 3, 2) as figure:
        figure.subplots().plot([1, 2], [3, 4], label="a")


def test_png_and_svg_are_written_beside_each_other_and_a_dot_in_the_name_is_no_suffix(tmp_path):
    draw(tmp_path / "new" / "asym-0.1")
    assert [path.name for path in figure_paths(tmp_path / "new" / "asym-0.1")] == ["asym-0.1.png", "asym-0.1.svg"]
    assert {path.name for path in (tmp_path / "new").iterdir()} == {"asym-0.1.png", "asym-0.1.svg"}


def test_the_same_drawing_gives_the_same_bytes(tmp_path):
    draw(tmp_path / "a")
    draw(tmp_path / "b")
    for a, b in zip(figure_paths(tmp_path / "a"), figure_paths(tmp_path / "b"), strict=True):
        assert a.read_bytes() == b.read_bytes()


def test_nothing_is_written_if_drawing_fails(tmp_path):
    with pytest.raises(ZeroDivisionError), new_figure(tmp_path / "a", 3, 2):
        1 / 0  # noqa: B018
    assert not list(tmp_path.iterdir())

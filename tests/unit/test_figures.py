import pytest
from matplotlib.figure import Figure

from prm.figures import figure_paths, legend_label, new_figure


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


@pytest.mark.parametrize("name", ["x$", "$\\frac$", "a_b^c", "$x^$", "_asym", "C:\\prm"])
def test_names_are_no_formulas_and_none_is_missing_from_a_legend(tmp_path, name):
    with new_figure(tmp_path / "a", 3, 2) as figure:
        axis = figure.subplots()
        axis.plot([1, 2], [3, 4], label=legend_label(name))
        axis.set_title(f"{name} of the step scores")
        axis.legend(title=name)
    text = figure_paths(tmp_path / "a")[1].read_text()
    assert f">{legend_label(name)}<" in text
    assert f">{name} of the step scores<" in text
    assert f">{name}<" in text


def test_nothing_is_written_if_drawing_fails(tmp_path):
    with pytest.raises(ZeroDivisionError), new_figure(tmp_path / "a", 3, 2):
        1 / 0  # noqa: B018
    assert not list(tmp_path.iterdir())


def test_a_figure_that_fails_to_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    with new_figure(tmp_path / "a", 3, 2):
        pass
    before = {path: path.read_bytes() for path in figure_paths(tmp_path / "a")}
    save = Figure.savefig

    def fail(figure, path, format, **options):
        save(figure, path, format=format, **options)
        if format == "svg":
            raise OSError("disk full")

    monkeypatch.setattr(Figure, "savefig", fail)
    with pytest.raises(OSError, match="disk full"), new_figure(tmp_path / "a", 5, 2):
        pass
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before

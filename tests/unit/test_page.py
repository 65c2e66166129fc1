import base64
import fnmatch
import gzip
import json
import re
import tomllib
from pathlib import Path

import pytest
import report

from prm.benchmarks.page import PageConfig, build_page
from prm.benchmarks.page.build import CHUNK, embed_json, texts_of
from prm.benchmarks.page.figures import inline_figure
from prm.benchmarks.page.review import review_items
from prm.benchmarks.results import Item, write_results
from prm.benchmarks.tables import Table
from prm.figures import new_figure
from prm.tracking import write_manifest

ROOT = Path(__file__).parents[2]
ATTACK = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\u2028\u2029<!--"
TABLE = Table("F1 (%) <b>", [["", "gsm8k"], ["fixed", "41.0"], ["  interval", "[1, 2]"]], note="of 50 & more")


def items(count=3):
    return [Item(f"i{n}", "g", f"Is ${n} < 5$?", ["So $x$.", "End."], [0.9, n / count], first_error=1) for n in range(count)]


def data_of(page):
    """The index and the unpacked chunks of a page."""
    index = json.loads(re.search(r'<script type="application/json" id="index">(.*?)</script>', page, re.S)[1])
    chunks = re.findall(r'<script type="application/gzip" id="chunk-\d+">(.*?)</script>', page)
    return index, [json.loads(gzip.decompress(base64.b64decode(chunk))) for chunk in chunks]


def test_texts_become_pieces_and_each_formula_stands_once():
    chunk = texts_of(review_items([Item("a", "g", "Is $x$?", ["So $x$ and \\[y\\]", "plain"], [0.5, 0.5])]))
    assert chunk["items"] == [{"question": ["Is ", 0, "?"], "steps": [["So ", 0, " and ", 1], ["plain"]]}]
    assert [formula[:2] for formula in chunk["formulas"]] == [["$x$", 0], ["\\[y\\]", 1]]


def test_answers_are_pieces_too_and_their_latex_needs_no_dollars():
    """A command that is unknown and a plain word stay text; an answer that nobody knows is absent."""
    answered = [
        Item(str(n), "g", "q", [], [], answer=a, extracted=e)
        for n, (a, e) in enumerate([(r"\frac{1}{2}", r"\no{2}"), ("two", None)])
    ]
    chunk = texts_of(review_items(answered))
    assert [formula[0] for formula in chunk["formulas"]] == [r"$\frac{1}{2}$"]
    assert chunk["items"][0]["answer"] == [0]
    assert chunk["items"][0]["extracted"] == [r"\no{2}"]
    assert chunk["items"][1] == {"question": ["q"], "steps": [], "answer": ["two"]}


def test_a_page_holds_everything_and_loads_nothing(tmp_path):
    write_results(tmp_path, {"f1": 0.41}, [TABLE], items())
    with new_figure(tmp_path / "f1", 3, 2) as figure:
        figure.subplots().plot([0, 1], label="gsm8k")
    write_manifest(tmp_path, {"model": "m"}, inputs={"data.json": "0123456789abcdef"}, counts={"num_items": 3})
    page = build_page(tmp_path, PageConfig(title="A & B"))
    assert "<h1>A &amp; B</h1>" in page
    assert '<tr><td></td><th scope="col">gsm8k</th></tr>' in page
    assert '<tr class="sub"><th scope="row">interval</th>' in page
    for text in ("F1 (%) &lt;b&gt;", "of 50 &amp; more", "data.json (0123456789ab)"):
        assert text in page
    assert page.count("<svg") == 1
    assert "&quot;f1&quot;: 0.41" in page
    outside = re.sub(r'"http://www\.w3\.org/[^"]*"|https?://(?:www\.w3\.org)[^\s"<]*', "", page)
    assert not re.search(r"https?://|//cdn|@import|src=\"(?!data:)|url\((?!#)", outside)
    index, chunks = data_of(page)
    assert [entry["id"] for entry in index["items"]] == ["i2", "i1", "i0"]
    assert chunks[0]["items"][0]["question"][0] == "Is "


def test_an_attack_is_data_everywhere(tmp_path):
    attacked = Item(ATTACK, ATTACK, ATTACK, [ATTACK, f"${ATTACK}$"], [0.5, 0.5])
    write_results(tmp_path, {"name": ATTACK}, [Table(ATTACK, [[ATTACK], [ATTACK]], note=ATTACK)], [attacked])
    (tmp_path / "manifest.json").write_text(json.dumps({"command": ["x.py", ATTACK], "model": ATTACK, "inputs": {ATTACK: ATTACK}}))
    page = build_page(tmp_path, PageConfig(title=ATTACK))
    assert page.count("<script") == 3  # index, one chunk, the page's own
    assert "<img" not in page
    assert "\u2028" not in embed_json(ATTACK)
    index, chunks = data_of(page)
    assert index["items"][0]["id"] == ATTACK
    assert "".join(piece for piece in chunks[0]["items"][0]["steps"][0]) == ATTACK


def test_the_cap_keeps_the_worst_and_says_of_how_many(tmp_path):
    write_results(tmp_path, {}, [TABLE], items(10))
    index, chunks = data_of(build_page(tmp_path, PageConfig(max_items=4)))
    assert [entry["id"] for entry in index["items"]] == ["i9", "i8", "i7", "i6"]
    assert index["num_items"] == 10
    assert len(chunks[0]["items"]) == 4


def test_the_header_counts_what_there_is_and_leaves_the_names_of_prms_alone(tmp_path):
    write_results(tmp_path, {}, [TABLE])
    write_manifest(tmp_path, {}, counts={"num_items": 8, "num_without_answer": 0, "num_unscored qwen_prm": 3, "num_unscored a": 0})
    assert "<dt>Counts</dt><dd>items 8, unscored qwen_<wbr>prm 3</dd>" in build_page(tmp_path)


@pytest.mark.parametrize(
    ("config", "extra", "expected"),
    [
        ({"model": "m", "scores": []}, {}, "<dt>Model</dt><dd>m</dd>"),
        ({"model": "m"}, {"model": "n"}, "<dt>Model</dt><dd>n</dd>"),
        ({"model": None, "scores": ["a=x", "y"]}, {"model": None}, "<dt>Scores</dt><dd>a=x, y</dd>"),
        ({"model": None, "predictions": "p"}, {}, "<dt>Predictions</dt><dd>p</dd>"),
    ],
)
def test_the_header_says_what_was_evaluated(tmp_path, config, extra, expected):
    write_results(tmp_path, {}, [TABLE])
    write_manifest(tmp_path, config, extra=extra)
    page = build_page(tmp_path)
    assert expected in page
    assert sum(page.count(f"<dt>{name}</dt>") for name in ("Model", "Scores", "Predictions")) == 1


def test_names_and_paths_may_break_where_a_reader_would(tmp_path):
    write_results(tmp_path, {}, [Table("", [["", "N=1"], ["qwen_prm, a/b (i+1)/n </b>", "5_0"]])])
    write_manifest(tmp_path, {}, inputs={"data/x_y.json": "0"})
    page = build_page(tmp_path)
    assert '<th scope="row">qwen_<wbr>prm, a/<wbr>b (i+1)/n &lt;/b&gt;</th><td>5_0</td>' in page
    assert "<dd>data/<wbr>x_<wbr>y.json (0)</dd>" in page


def test_which_responses_an_evaluation_kept_stands_above_them_and_in_the_header(tmp_path):
    write_results(tmp_path, {}, [TABLE], items())
    write_manifest(tmp_path, {}, extra={"items": "16 of 64 <b>"})
    page = build_page(tmp_path)
    assert "<dt>Responses</dt><dd>16 of 64 &lt;b&gt;</dd>" in page
    assert data_of(page)[0]["note"] == "16 of 64 <b>"
    write_manifest(tmp_path, {}, extra={"items": ""})
    assert "<dt>Responses</dt>" not in build_page(tmp_path)


def test_texts_are_packed_by_chunk(tmp_path):
    write_results(tmp_path, {}, [TABLE], items(CHUNK + 1))
    chunks = data_of(build_page(tmp_path))[1]
    assert [len(chunk["items"]) for chunk in chunks] == [CHUNK, 1]
    assert len(data_of(build_page(tmp_path, PageConfig(max_items=1)))[1][0]["items"]) == 1
    assert data_of(build_page(tmp_path, PageConfig(max_items=0)))[1] == []


def test_a_folder_with_tables_alone(tmp_path):
    write_results(tmp_path, {}, [Table("", [])])
    (tmp_path / "items.jsonl").unlink()
    (tmp_path / "metrics.json").unlink()
    page = build_page(tmp_path)
    assert "says how they were made" in page
    index, chunks = data_of(page)
    assert (index["num_items"], index["note"], index["items"], chunks) == (0, "", [], [])


def test_a_folded_table_opens_by_its_title_and_a_figure_has_a_caption(tmp_path):
    write_results(tmp_path, {}, [TABLE, Table("Later", [["a"], ["b"]], is_folded=True)])
    for name in ("f1", "other_name"):
        with new_figure(tmp_path / name, 3, 2) as figure:
            figure.subplots()
    page = build_page(tmp_path)
    assert page.count('<figure class="table">') == 1
    assert '<details class="table"><summary>Later</summary><div class="scroll"' in page
    assert "<figcaption>F1 of the first wrong step over the threshold" in page
    assert "<figcaption>other name</figcaption>" in page


def test_large_metrics_stay_in_their_file(tmp_path):
    write_results(tmp_path, {"curve": list(range(100_000))}, [TABLE])
    assert "read it in the folder itself" in build_page(tmp_path)


def test_a_figure_loses_scripts_links_and_other_files(tmp_path):
    inside = (
        '<script>alert(1)</script><foreignObject/><a href="http://x"><text>t</text></a><g onclick="f()" id="g1"/>'
        '<use href="#g1"/><use href="http://x/y.svg#z"/><path style="fill: #ffffff; stroke: url(#g1)"/><path style="fill: url(http://x)"/>'
        r'<path style="fill: u\72l(http://x)"/>'
        '<path style="stroke: #444444"/>'
    )
    (tmp_path / "f.svg").write_text(f'<svg xmlns="http://www.w3.org/2000/svg" width="144pt" viewBox="0 0 9 9">{inside}</svg>')
    picture, inches = inline_figure(tmp_path / "f.svg", "my f")
    assert inches == 2
    for gone in ("script", "foreignObject", "onclick", "http://x", "<a"):
        assert gone not in picture
    for kept in ('id="my-f-g1"', 'href="#my-f-g1"', "fill: var(--paper); stroke: url(#my-f-g1)", "stroke: var(--quiet)"):
        assert kept in picture


@pytest.mark.parametrize(("text", "message"), [("<svg", "not valid SVG"), ("<html/>", "not an SVG element")])
def test_a_file_that_is_no_figure(tmp_path, text, message):
    (tmp_path / "f.svg").write_text(text)
    with pytest.raises(ValueError, match=message):
        inline_figure(tmp_path / "f.svg", "f")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "manifest.json: not valid JSON"),
        ("[]", "a JSON object, found list"),
        ('{"inputs": ["a"]}', r"manifest\.json: inputs is \['a'\], which no run writes; run the evaluation again"),
        ('{"command": null}', "command is None"),
    ],
)
def test_a_broken_manifest(tmp_path, text, message):
    write_results(tmp_path, {}, [TABLE])
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        build_page(tmp_path)


def test_broken_metrics_are_named(tmp_path):
    write_results(tmp_path, {}, [TABLE])
    (tmp_path / "metrics.json").write_bytes(b'{"f1": "caf\xe9"}')
    with pytest.raises(ValueError, match=r"metrics\.json: not valid JSON .*; run the evaluation again"):
        build_page(tmp_path)


def test_the_script_writes_into_the_folder_or_where_it_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr("report.setup_logging", lambda: None)
    write_results(tmp_path / "eval", {}, [TABLE], items())
    with pytest.raises(FileNotFoundError, match=r"manifest\.json: is missing, so the evaluation did not come to its end"):
        report.main(["--input", str(tmp_path / "eval")])
    write_manifest(tmp_path / "eval", None)
    report.main(["--input", str(tmp_path / "eval")])
    report.main(["--input", str(tmp_path / "eval"), "--output", str(tmp_path / "page.html"), "--title", "T", "--max_items", "1"])
    assert "<h1>eval</h1>" in (tmp_path / "eval" / "report.html").read_text()
    assert "<h1>T</h1>" in (tmp_path / "page.html").read_text()


@pytest.mark.parametrize(
    ("flags", "error", "message"),
    [
        ([], ValueError, "give --input"),
        (["--input", "x", "--max_items", "-1"], ValueError, "--max_items -1"),
        (["--input", "/nowhere"], FileNotFoundError, "/nowhere: no such folder; give the --output_dir of an evaluation"),
        (["--input", __file__], FileNotFoundError, "is no folder; give the --output_dir of an evaluation"),
        (["--input", str(ROOT)], FileNotFoundError, r"holds no tables\.json; give the --output_dir of an evaluation"),
        (["--input", "x", "--output", "x/items.jsonl"], ValueError, r"--output x/items\.jsonl: the page is one \.html file"),
        (["--input", "x", "--output", ""], ValueError, r"the page is one \.html file"),
    ],
)
def test_inputs_and_outputs_that_cannot_be_are_refused(monkeypatch, flags, error, message):
    monkeypatch.setattr("report.setup_logging", lambda: None)
    with pytest.raises(error, match=message):
        report.main(flags)


def test_the_package_brings_the_page_along():
    """An installed package must hold what is no Python, or `build_page` finds no template."""
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["prm.benchmarks.page"]
    files = [path.name for path in (ROOT / "prm/benchmarks/page").iterdir() if path.is_file() and path.suffix != ".py"]
    assert len(files) == 4
    assert all(any(fnmatch.fnmatch(name, pattern) for pattern in patterns) for name in files)

"""The page of scripts/report.py in a real headless browser: nothing loaded, nothing injected, every control does what it says."""

import json

import pytest
from browser import Browser, find_browser
from matplotlib.image import imread

from prm.benchmarks.page import PageConfig, build_page
from prm.benchmarks.results import Item, write_results
from prm.benchmarks.tables import Table
from prm.figures import new_figure

ATTACK = "</script><script>window.hacked = 1</script><img src=x onerror='window.hacked = 2'><svg onload='window.hacked = 3'>\u2028"
WIDE = Table("Wide " * 30, [["name" * 20, *(f"column {i}" for i in range(30))], ["a", *("0.5" for _ in range(30))]], note="n" * 400)
LONG = f"${' + '.join(map(str, range(1, 15)))}$"
HEBREW = "כמה זה חמש ועוד שלוש?"
NUMBERS = Table(
    "Many", [["", *(f"another_measured_number_{i}" for i in range(8))], ["a long_name of a row", *(["[70.9, 74.7]"] * 8)]]
)
TITLE = "document.querySelector('#response h3')?.textContent"
IDS = "[...document.querySelectorAll('.row')].map((row) => row.querySelector('.name').textContent)"
STATUS = "document.getElementById('status').textContent"


def items():
    """Four kinds of verdicts in two groups, then one response with everything that could break a page."""
    rows = [
        Item(
            "missed",
            "math",
            r"Find $\frac{x}{2}$.",
            ["So $x = 2$.", "needle"],
            [0.9, 0.8],
            1,
            -1,
            False,
            0.8,
            None,
            "8",
            r"\frac{5}{2}",
        ),
        Item("alarm", "gsm8k", "How many?", ["One."], [0.3], -1, 0, True, 0.3),
        Item(
            "hit", "math", "Which?", ["a", r"\[\begin{aligned} 12345a &= b \\ c &= d \end{aligned}\]"], [0.9, 0.1], 1, 1, False, 0.1
        ),
        Item("fine", "gsm8k", "What?", ["b"], [0.95], -1, -1, True, 0.95),
        Item(ATTACK, "math", ATTACK, [ATTACK, "$" + ATTACK + "$", "w" * 3000, r"$x^{2}$" * 200], [0.99] * 4, -1, -1, True, 0.99),
        Item("long", "math", LONG, [f"So {LONG} is one long sum."], [0.98], -1, -1, True, 0.98, None, LONG, LONG),
        Item("errors", "level 10", "Q", ["a", "b", "c", "d"], [0.9, 0.1, 0.2, 0.3], 1, 2, wrong_steps=[1, 2, 3]),
        Item(HEBREW, "more", HEBREW, [HEBREW + " $5 + 3 = 8$.", "So 8."], [0.97] * 2, -1, -1, True, 0.97),
        Item("no steps", "level 2", "", [], [], correct=False, response_score=0.2),
    ]
    return rows + [Item(f"filler {n}", "more", f"Question {n}", ["s"] * 40, [0.97] * 40, -1, -1, True, 0.97) for n in range(147)]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluation")
    write_results(
        folder,
        {"attack": ATTACK},
        [WIDE, NUMBERS, Table("Later", [["a"], ["b"]], is_folded=True), Table(ATTACK, [[ATTACK], [ATTACK]])],
        items(),
    )
    manifest = {"command": ["eval.py", ATTACK], "model": ATTACK, "items": f"3 of 8 {ATTACK}"}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with new_figure(folder / "curve", 12, 3) as figure:
        figure.subplots().plot([0, 1], label=ATTACK)
    (folder / "report.html").write_text(build_page(folder, PageConfig(title=ATTACK)))
    return folder / "report.html"


@pytest.fixture(scope="module")
def chromium():
    program = find_browser()
    if program is None:
        pytest.skip("no browser: install chromium or Chrome, or name one in PRM_TEST_BROWSER")
    browser = Browser(program)
    yield browser
    browser.close()


@pytest.fixture
def browser(chromium, page):
    """With the page open on a desktop; at the end, it loaded nothing, ran nothing of others and complained of nothing."""
    chromium.open(page)
    chromium.wait(f"{TITLE} !== undefined")
    yield chromium
    assert chromium.run("window.hacked") is None
    assert chromium.requests() == [page.as_uri()]
    assert chromium.complaints() == []


def test_the_worst_miss_is_open_and_marked(browser):
    assert browser.run(TITLE) == "missed"
    assert browser.run(IDS)[:3] == ["missed", "alarm", "errors"]
    assert browser.run("document.querySelector('.step.is-true .flag').textContent") == "true first error"
    assert browser.run("document.querySelector('.step.is-true .number').textContent") == "2"
    assert browser.run("[...document.querySelectorAll('.score')].map((s) => s.textContent)") == ["score 0.90", "score 0.80"]
    tints = browser.run("[...document.querySelectorAll('.step')].map((step) => getComputedStyle(step).backgroundColor)")
    assert tints[0] != tints[1]


def test_answer_and_reference_stand_among_the_facts_and_are_searched(browser):
    facts = browser.run("document.querySelector('#response .facts').textContent")
    assert facts.startswith("math · final answer wrong · answer 52 · reference 8 · 2 steps")
    assert browser.run("document.querySelectorAll('#response .facts mfrac').length") == 1
    browser.press("/")
    browser.type(r"\frac{5}")
    browser.wait(f"{STATUS}.startsWith('1 of')")
    assert browser.run(IDS) == ["missed"]


def test_every_wrong_step_is_marked(browser):
    browser.run("location.hash = '#item=errors'")
    browser.wait(f"{TITLE} === 'errors'")
    of_step = "[...step.querySelectorAll('.flag')].map((flag) => flag.textContent)"
    flags = browser.run(f"[...document.querySelectorAll('.step')].map((step) => {of_step})")
    assert flags == [[], ["true first error"], ["wrong step", "predicted first error"], ["wrong step"]]
    assert browser.run("['true', 'wrong'].map((kind) => document.querySelectorAll(`.profile .${kind}`).length)") == [1, 2]
    assert "further wrong step" in browser.run("document.querySelector('.legend').textContent")
    browser.run("location.hash = '#item=missed'")
    browser.wait(f"{TITLE} === 'missed'")
    assert browser.run("document.querySelectorAll('#response .wrong').length") == 0


def test_formulas_are_typeset(browser):
    size = "(() => {{ const box = document.querySelector('{}').getBoundingClientRect(); return [box.width, box.height] }})()"
    width, height = browser.run(size.format(".question mfrac"))
    assert width > 4
    assert height > 15
    browser.run("location.hash = '#item=hit'")
    browser.wait(f"{TITLE} === 'hit'")
    assert browser.run(size.format(".step math[display=block] mtable"))[1] > 25
    assert browser.run("document.querySelectorAll('.step mtr').length") == 2
    ends = browser.run(
        "[...document.querySelectorAll('mtd.right')].map((cell) => cell.lastElementChild.getBoundingClientRect().right)"
    )
    assert ends[0] == pytest.approx(ends[1], abs=0.5)


def test_an_attack_is_shown_as_text(browser):
    browser.run(f"location.hash = '#item=' + encodeURIComponent({json.dumps(ATTACK)})")
    browser.wait(f"{TITLE} === {json.dumps(ATTACK)}")
    assert browser.run("document.querySelector('.question .prose').textContent") == ATTACK
    assert browser.run("document.querySelector('.step .prose').textContent") == ATTACK
    assert browser.run("document.querySelectorAll('img, .step script, .step svg, svg script').length") == 0


def test_the_page_says_which_responses_it_has(browser):
    assert browser.run("document.getElementById('explained').textContent").startswith(f"3 of 8 {ATTACK}. Every step is tinted")


def test_the_policy_of_the_page_refuses_markup_from_text(chromium, page):
    """Were some text taken for markup after all, the browser itself would refuse it."""
    chromium.open(page)
    attempt = "try { document.body.innerHTML = '<b></b>'; return 'taken' } catch (error) { return error.name }"
    assert chromium.run(f"(() => {{ {attempt} }})()") == "TypeError"


def test_filters_search_and_sort(browser):
    click = "document.querySelector('#verdicts .{}').click()"
    browser.run(click.format("false-alarm"))
    assert browser.run(IDS) == ["alarm"]
    browser.wait(f"{TITLE} === 'alarm'")  # the one that was open is gone
    assert browser.run("document.querySelector('[aria-selected=true] .name').textContent") == "alarm"
    browser.run(click.format("all"))
    choose = "(() => {{ const s = document.getElementById('{}'); s.value = '{}'; s.dispatchEvent(new Event('change')) }})()"
    groups = browser.run("[...document.getElementById('group').options].map((option) => option.value)")
    assert groups == ["", "gsm8k", "level 2", "level 10", "math", "more"]
    browser.run(choose.format("group", "gsm8k"))
    assert browser.run(IDS) == ["alarm", "fine"]
    assert browser.run(STATUS) == "2 of 156 responses"
    browser.run(choose.format("sort", "best first"))
    assert browser.run(IDS) == ["fine", "alarm"]
    browser.run(choose.format("outcome", "wrong"))
    assert browser.run(IDS) == []
    assert "No response matches" in browser.run("document.getElementById('rows').textContent")
    browser.run(choose.format("group", ""))
    browser.run(choose.format("sort", "highest response score"))
    assert browser.run(IDS) == ["missed", "no steps", "hit"]
    browser.press("/")
    browser.type("x = 2 NEEDLE")
    browser.wait(f"{STATUS}.startsWith('1 of')")
    assert browser.run(IDS) == ["missed"]


def test_keys(browser):
    browser.press("j")
    browser.wait(f"{TITLE} === 'alarm'")
    assert browser.run("location.hash") == "#item=alarm"
    assert browser.run("document.activeElement.tagName") == "BODY"
    browser.press("Enter")
    browser.wait("document.activeElement.id === 'response'")
    browser.press("k")
    browser.wait(f"{TITLE} === 'missed'")
    browser.run("document.getElementById('list').focus()")
    browser.press("ArrowDown")
    browser.wait(f"{TITLE} === 'alarm'")
    selected = "document.getElementById(list.getAttribute('aria-activedescendant')).querySelector('.name').textContent"
    assert browser.run(selected) == "alarm"
    browser.press("Enter")
    browser.wait("document.activeElement.id === 'response'")
    browser.press("Escape")
    assert browser.run("document.activeElement.id") == "list"
    browser.press("End")
    browser.wait("list.scrollTop > 10000")
    assert browser.run("document.querySelector('[aria-selected=true]').getAttribute('aria-posinset')") == "156"
    browser.press("/")
    assert browser.run("document.activeElement.id") == "search"
    browser.press("j")
    assert browser.run("search.value") == "j"


def test_the_next_response_begins_at_its_top(browser):
    """On a desktop the page itself scrolls along a long response."""
    browser.run("location.hash = '#item=filler%200'")
    browser.wait(f"{TITLE} === 'filler 0'")
    browser.run("document.querySelector('.step:last-child').scrollIntoView()")
    browser.wait("document.querySelector('#response h3').getBoundingClientRect().bottom < 0")
    browser.press("j")
    browser.wait(f"{TITLE} === 'filler 1'")
    assert 0 <= browser.run("document.querySelector('#response h3').getBoundingClientRect().top") < 100


def test_only_rows_in_sight_exist(browser):
    assert browser.run("document.querySelectorAll('.row').length") < 40
    assert browser.run("rows.offsetHeight") == 156 * 76
    browser.run("list.scrollTop = 100 * 76")
    browser.wait("[...document.querySelectorAll('.row')].some((row) => row.getAttribute('aria-posinset') === '101')")


def test_a_list_s_strip_leaves_the_texts_the_room_that_few_steps_do_not_need(browser):
    widths = browser.run("[...document.querySelectorAll('.row .strip')].slice(0, 2).map((strip) => strip.width.baseVal.value)")
    assert widths == [28, 14]  # two steps, one


def test_a_link_opens_its_response(chromium, page):
    chromium.open(page, fragment="#item=filler%20146")
    chromium.wait(f"{TITLE} === 'filler 146'")
    assert chromium.run("document.querySelector('#response h3').getBoundingClientRect().bottom < innerHeight")
    assert chromium.run("document.querySelector('[aria-selected=true] .name').textContent") == "filler 146"
    chromium.open(page, fragment="#item=gone")
    chromium.wait(f"{STATUS} === '156 responses'")


@pytest.mark.parametrize("dark", [False, True])
def test_a_phone(chromium, page, dark):
    overflow = "document.documentElement.scrollWidth > document.documentElement.clientWidth"
    chromium.open(page, 360, 740, dark)
    chromium.wait("document.querySelectorAll('.row').length > 3")
    assert chromium.run(overflow) is False
    chromium.run("document.querySelectorAll('.row')[1].click()")
    chromium.wait("document.getElementById('response').offsetHeight > 0")
    assert chromium.run("list.offsetHeight") == 0
    chromium.run(f"location.hash = '#item=' + encodeURIComponent({json.dumps(ATTACK)})")
    chromium.wait(f"{TITLE} === {json.dumps(ATTACK)}")
    assert chromium.run(overflow) is False
    chromium.run("location.hash = '#item=long'")
    chromium.wait(f"{TITLE} === 'long'")
    assert chromium.run(overflow) is False
    assert chromium.run("document.querySelectorAll('#response .display.wide math').length") == 4
    chromium.run("document.querySelector('.back').click()")
    chromium.wait("list.offsetHeight > 0")
    assert chromium.complaints() == []


def test_a_formula_scrolls_only_where_it_is_wider_than_its_line(chromium, page):
    chromium.open(page, 360, 740, fragment="#item=missed")
    chromium.wait(f"{TITLE} === 'missed'")
    assert chromium.run("document.querySelectorAll('.display').length") == 0
    chromium.run("location.hash = '#item=long'")
    chromium.wait(f"{TITLE} === 'long'")
    size = {"height": 740, "deviceScaleFactor": 1, "mobile": False}
    for width, number in ((1280, 0), (360, 4)):
        chromium.call("Emulation.setDeviceMetricsOverride", width=width, **size)
        chromium.wait(f"document.querySelectorAll('#response .wide').length === {number}")


def test_on_paper_nothing_is_cut_and_grounds_are_light(chromium, page):
    """A4 within its margins, printed from a screen in dark colors."""
    chromium.open(page, 718, 1000, dark=True, fragment="#item=alarm")
    chromium.wait(f"{TITLE} === 'alarm'")
    chromium.call("Emulation.setEmulatedMedia", media="print", features=[{"name": "prefers-color-scheme", "value": "dark"}])
    edges = (
        "[...document.querySelectorAll('.drawing svg, .table:nth-of-type(3) table')].map((e) => e.getBoundingClientRect().right)"
    )
    assert max(chromium.run(edges)) <= 718
    assert chromium.run("getComputedStyle(document.querySelector('.drawing')).overflowX") == "visible"
    assert chromium.run("document.querySelector('details.table tbody th').checkVisibility()")
    grounds = chromium.run(
        "['body', '.chip.false-alarm', '.step'].map((e) => getComputedStyle(document.querySelector(e)).backgroundColor)"
    )
    chromium.call("Emulation.setEmulatedMedia", media="")
    chromium.open(page, fragment="#item=alarm")
    chromium.wait(f"{TITLE} === 'alarm'")
    light = chromium.run("['.chip.false-alarm', '.step'].map((e) => getComputedStyle(document.querySelector(e)).backgroundColor)")
    assert grounds == ["rgb(255, 255, 255)", *light]


@pytest.mark.parametrize("width", [360, 1440])
def test_the_names_of_a_wide_table_stay_in_sight(chromium, page, width):
    chromium.open(page, width)
    scroll = "document.querySelector('.scroll')"
    chromium.run(f"{scroll}.scrollLeft = 300")
    gap = f"{scroll}.querySelector('tbody th').getBoundingClientRect().left - {scroll}.getBoundingClientRect().left"
    assert 0 <= chromium.run(gap) < 3


def test_a_name_breaks_within_a_word_only_where_there_is_little_room(chromium, page):
    for width, breaks in ((1440, False), (360, True)):
        chromium.open(page, width)
        assert (chromium.run("getComputedStyle(document.querySelector('tbody th wbr')).display") != "none") == breaks


def test_a_wide_table_takes_the_ground_beside_the_page(chromium, page):
    chromium.open(page, 1920)
    right = "document.querySelector('{}').getBoundingClientRect().right"
    assert chromium.run(f"{right.format('.scroll')} - {right.format('main')}") > 200
    assert chromium.run("document.documentElement.scrollWidth <= document.documentElement.clientWidth")


@pytest.mark.parametrize("dark", [False, True])
def test_an_edge_that_hides_a_part_of_a_figure_has_a_shadow(chromium, page, tmp_path, dark):
    """Beside the right edge the figure's ground differs from paper, until there is nothing more to the right."""
    chromium.open(page, 360, 740, dark)
    chromium.run("document.querySelector('.drawing').scrollIntoView()")
    for scroll, has_shadow in ((0, True), (9999, False)):
        chromium.run(f"document.querySelector('.drawing').scrollLeft = {scroll}")
        right, top = chromium.run("(({ right, top }) => [right, top])(document.querySelector('.drawing').getBoundingClientRect())")
        chromium.screenshot(tmp_path / "page.png")
        line = imread(tmp_path / "page.png")[int(top) + 12, : int(right) - 2, :3]
        assert (abs(line[-4] - line[-40]).max() > 0.05) == has_shadow


def test_what_a_figure_fills_by_default_is_seen_on_a_dark_page(chromium, page):
    """matplotlib writes no fill where it is black, as in markers."""
    chromium.open(page, dark=True)
    fill, ink = chromium.run(
        "['svg.figure', 'body'].map((e) => getComputedStyle(document.querySelector(e))).map((s, i) => (i ? s.color : s.fill))"
    )
    assert fill == ink != "rgb(0, 0, 0)"


def test_text_from_right_to_left_begins_at_the_right(browser):
    browser.run(f"location.hash = '#item=' + encodeURIComponent({json.dumps(HEBREW)})")
    browser.wait(f"{TITLE} === {json.dumps(HEBREW)}")
    gaps = """[...document.querySelectorAll('#response h3, #response .prose')].map((element) => {
      const range = document.createRange();
      range.selectNodeContents(element);
      const line = range.getClientRects()[0], box = element.getBoundingClientRect();
      return [line.left - box.left > 50, box.right - line.right > 50];
    })"""
    assert browser.run(gaps) == [[True, False], [True, False], [True, False], [False, True]]


CONTRAST = """
(() => {
  const canvas = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
  const rgb = (color, under) => {
    canvas.fillStyle = `rgb(${under})`; canvas.fillRect(0, 0, 1, 1);
    canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const ground = (element) => {
    const layers = [];
    for (let e = element; e; e = e.parentElement) layers.unshift(getComputedStyle(e).backgroundColor);
    return layers.reduce((under, color) => rgb(color, under), [255, 255, 255]);
  };
  const light = (c) => c.map((v) => v / 255).map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const ratio = (a, b) => (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  const read = '.chip, .headline, .facts dd, .facts dt, .note, .step .prose, .score, .number, .flag, .sub td, a.link, .lead';
  const worst = [...document.querySelectorAll(read)]
    .map((e) => [ratio(light(rgb(getComputedStyle(e).color, [0, 0, 0])), light(ground(e))), e.className || e.tagName]);
  return worst.sort((a, b) => a[0] - b[0])[0];
})()
"""


@pytest.mark.parametrize("dark", [False, True])
def test_text_can_be_read_on_every_tint(chromium, page, dark):
    """WCAG AA: at least 4.5 to 1, in both color schemes."""
    chromium.open(page, dark=dark, fragment="#item=hit")
    chromium.wait(f"{TITLE} === 'hit'")
    ratio, name = chromium.run(CONTRAST)
    assert ratio >= 4.5, name

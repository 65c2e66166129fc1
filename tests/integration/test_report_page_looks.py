"""The looks of the page of scripts/report.py in a real headless browser: on a phone, a desktop, paper, in light and dark."""

import json

import pytest
from example_page import ATTACK, HEBREW, TITLE
from matplotlib.image import imread


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
@pytest.mark.parametrize(("name", "above"), [(".drawing", 12), (".step .display", 2)])
def test_an_edge_that_hides_something_has_a_shadow(chromium, page, tmp_path, name, above, dark):
    """Beside the right edge the ground differs from what it is further in, until there is nothing more to the right."""
    chromium.open(page, 360, 740, dark, fragment="#item=long" if "display" in name else "")
    chromium.wait(f"{TITLE} !== undefined")
    chromium.run(f"document.querySelector('{name}').scrollIntoView()")
    for scroll, has_shadow in ((0, True), (9999, False)):
        chromium.run(f"document.querySelector('{name}').scrollLeft = {scroll}")
        right, top = chromium.run(f"(({{ right, top }}) => [right, top])(document.querySelector('{name}').getBoundingClientRect())")
        chromium.screenshot(tmp_path / "page.png")
        line = imread(tmp_path / "page.png")[int(top) + above, : int(right) - 2, :3]
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


def test_an_answer_from_right_to_left_takes_no_number_along(browser):
    browser.run(f"location.hash = '#item=' + encodeURIComponent({json.dumps(HEBREW)})")
    browser.wait(f"{TITLE} === {json.dumps(HEBREW)}")
    places = """(() => {
      const texts = document.createTreeWalker(document.querySelector('#response .facts'), NodeFilter.SHOW_TEXT);
      const range = document.createRange(), places = [];
      while (texts.nextNode()) {
        range.selectNodeContents(texts.currentNode);
        if (/שמונה|2 steps/.test(texts.currentNode.data)) places.push(range.getBoundingClientRect());
      }
      return places.map((place) => place.left);
    })()"""
    reference, steps = browser.run(places)
    assert reference < steps


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
  const worst = (seen, property, under) => [...document.querySelectorAll(seen)]
    .map((e) => [ratio(light(rgb(getComputedStyle(e)[property], [0, 0, 0])), light(ground(under(e)))), e.className || e.tagName])
    .sort((a, b) => a[0] - b[0])[0];
  const edge = (under) => worst('input, select, .moves button', 'borderTopColor', under);
  return [worst(read, 'color', (e) => e), edge((e) => e), edge((e) => e.parentElement)];
})()
"""


@pytest.mark.parametrize("dark", [False, True])
def test_text_can_be_read_on_every_tint(chromium, page, dark):
    """WCAG AA: at least 4.5 to 1, and 3 to 1 for what shows where a field is, in both color schemes."""
    chromium.open(page, dark=dark, fragment="#item=hit")
    chromium.wait(f"{TITLE} === 'hit'")
    text, *edges = chromium.run(CONTRAST)
    assert text[0] >= 4.5, text
    assert min(edges)[0] >= 3, edges

"""The page of scripts/report.py in a real headless browser: nothing loaded, nothing injected, every control does what it says."""

import json

import pytest
from example_page import ATTACK, IDS, STATUS, TITLE


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


def test_keys_move_through_list_and_response(browser):
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
    chromium.wait(f"{TITLE} === 'missed'")
    assert chromium.run(STATUS) == "No response gone in this page"


def test_the_way_back_ends_where_it_began(browser):
    back = "history.back()"
    click = "document.querySelectorAll('.row')[{}].click()"
    for action, title in ((click.format(2), "errors"), (click.format(1), "alarm"), (back, "errors"), (back, "missed")):
        browser.run(action)
        browser.wait(f"{TITLE} === '{title}'")
        assert browser.run("document.querySelector('[aria-selected=true] .name').textContent") == title


def test_a_link_to_what_the_filters_leave_out_selects_nothing(browser):
    browser.run("document.querySelector('#verdicts .hit').click()")
    browser.run("location.hash = '#item=alarm'")
    browser.wait(f"{TITLE} === 'alarm'")
    assert browser.run("document.querySelector('[aria-selected=true]')") is None
    browser.press("j")
    browser.wait(f"{TITLE} === 'hit'")


def test_a_search_keeps_no_more_than_it_needs(browser):
    """Of a large evaluation the unpacked texts would fill the memory of a browser."""
    browser.press("/")
    browser.type("needle")
    browser.wait(f"{STATUS}.startsWith('1 of')")
    assert browser.run("chunks.size") == 1  # the one of the open response


def test_by_keyboard_one_reaches_what_scrolls_and_passes_the_rest(chromium, page):
    chromium.open(page, 360, 740, fragment="#item=long")
    chromium.wait(f"{TITLE} === 'long'")
    boxes = "[...document.querySelectorAll('.scroll, .drawing, .display')]"
    reached = f"{boxes}.map((e) => [e.scrollWidth > e.clientWidth, e.tabIndex === 0])"
    assert chromium.run(reached).count([True, True]) > 5
    assert chromium.run(reached).count([False, False]) > 0
    chromium.run("document.querySelector('details.table').open = true")
    chromium.wait(f"{reached}.every(([scrolls, isReached]) => scrolls === isReached)")

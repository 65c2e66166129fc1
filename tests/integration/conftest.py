import pytest
from browser import Browser, find_browser
from example_page import TITLE, write_page


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """An evaluation's report.html."""
    return write_page(tmp_path_factory.mktemp("evaluation"))


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

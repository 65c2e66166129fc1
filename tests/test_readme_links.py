"""The README's links within the repository lead somewhere."""

import re
from pathlib import Path

import pytest
import readme

ROOT = Path(__file__).parents[1]
PROSE = re.sub(r"```.*?```", "", readme.TEXT, flags=re.S)
LINKS = [target for target in re.findall(r"\]\(([^)]+)\)", PROSE) if "://" not in target]


def anchor(heading: str) -> str:
    """A heading's anchor as GitHub makes it: lower case, punctuation removed, spaces to hyphens."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


ANCHORS = ["#" + anchor(heading) for heading in re.findall(r"^#+ (.+)$", PROSE, re.M)]


def test_no_two_headings_share_an_anchor():
    assert len(ANCHORS) == len(set(ANCHORS)) > 20


@pytest.mark.parametrize("target", sorted(set(LINKS)))
def test_link(target):
    assert target in ANCHORS or (ROOT / target).exists()

"""docs/api.md names every route, and none that is not there."""

import re
from pathlib import Path

from controlplane.auth import MATRIX

PAGE = Path(__file__).parents[3] / "docs" / "api.md"


def test_every_route_is_documented():
    named = set(re.findall(r"`(GET|PUT|POST|DELETE) (/[^`\s]*)`", PAGE.read_text()))
    assert named == set(MATRIX)

"""Of generated regular expressions, those that are accepted here are the ones that Envoy accepts."""

import json
import random
import subprocess
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from controlplane.demo.binaries import find_envoy
from mesh.model.regex import MAX_PROGRAM, regex_fault

_FILTERS = "type.googleapis.com/envoy.extensions.filters"

_KNOWN = (
    *(r"\x{100}", r"\x{ff}", r"[\x{0}-\x{ff}]", r"[\x{0}-\x{100}]", r"\x{10FFFF}", r"\xe9", r"[\xe0-\xff]+", r"\x{}"),
    *(
        "é",
        "[é]",
        "é{2,3}",
        "(?i)É",
        "€|ü",
        "日本",
        "[日本]",
        "[à-ü]",
        "[ü-à]",
        "[^é]",
        "(?P<é>a)",
        "\x7f",
        "a\x80b",
        "\x01",
    ),
    *(
        r"\p{Greek}",
        r"\pN",
        r"\p{Lu}",
        r"\p{L}+",
        r"\P{L}",
        r"[\p{Han}]",
        r"[[:alpha:]]",
        r"[[:word:]]",
        r"[[:é:]]",
        r"\pZ",
    ),
    *(
        r"\d",
        r"\b",
        r"\B",
        r"\A",
        r"\z",
        r"\Z",
        r"\C",
        r"\Q.*\E",
        r"\Qa",
        r"\1",
        r"(a)\1",
        r"\k<a>",
        r"\G",
        r"\X",
        r"\R",
    ),
    *(
        "(?i)a",
        "(?s).",
        "(?U)a+",
        "(?m)^a$",
        "(?x)a",
        "(?i:a)",
        "(?-i)a",
        "(?=a)",
        "(?!a)",
        "(?<=a)",
        "(?<!a)",
        "(?>a)",
    ),
    *("(?P<n>a)", "(?P<n>a)(?P<n>b)", "(?<n>a)", "(?P<1>a)", "(?P=n)", "(?P<>a)", "(?#c)", "(?:)", "()", "a||b", "|"),
    *(
        "a**",
        "a*?",
        "a*+",
        "a++",
        "a??",
        "*a",
        "+",
        "?",
        "a{2}",
        "a{,2}",
        "a{2,1}",
        "a{1001}",
        "a{1000}",
        "(a{100}){10}",
    ),
    *(
        "(a{100}){11}",
        "((a{10}){10}){10}",
        "{",
        "}",
        "a{",
        "a{1",
        "[",
        "]",
        "[]",
        "[]a]",
        "[^]",
        "[a-]",
        "[z-a]",
        "[a",
        "(",
        ")",
    ),
    *(
        "\\",
        "a\\",
        r"\-",
        r"\_",
        r"\e",
        r"\a",
        r"\f",
        r"\cA",
        r"\u0041",
        r"\N{x}",
        r"\07",
        r"\8",
        r"\400",
        r"\377",
        "$^",
        "^*",
    ),
)
"""Where encodings, versions and dialects differ."""

_PIECES = (
    *("a", "b", "/", ".", "é", "ü", "ß", "€", "日", "-", ",", ":", "=", "!", "<", ">", "P", "i", "0", "9"),
    *(
        "(",
        ")",
        "[",
        "]",
        "{",
        "}",
        "*",
        "+",
        "?",
        "|",
        "^",
        "$",
        "\\",
        "(?",
        "(?:",
        "(?i)",
        "[^",
        "{2}",
        "{2,3}",
        "{0,}",
    ),
    *(
        r"\x{",
        "100}",
        "7f}",
        r"\x{e9}",
        r"\x{100}",
        r"\xff",
        r"\d",
        r"\W",
        r"\p{L}",
        r"\pL",
        r"\P{Greek}",
        "[:alpha:]",
        r"\Q",
    ),
)


def _expressions(many: int) -> list[str]:
    draw = random.Random(1)
    made = ("".join(draw.choices(_PIECES, k=draw.randint(1, 7))) for _ in range(many))
    return list(dict.fromkeys((*_KNOWN, *made)))


def _config(expressions: Iterable[str]) -> str:
    """Each in a path and in a header, as routes have them."""
    routes = [
        {
            "match": {
                "safe_regex": {"regex": text},
                "headers": [{"name": "x", "string_match": {"safe_regex": {"regex": text}}}],
            },
            "direct_response": {"status": 200},
        }
        for text in expressions
    ]
    manager = {
        "@type": f"{_FILTERS}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "x",
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]},
        "http_filters": [
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": f"{_FILTERS}.http.router.v3.Router"},
            }
        ],
    }
    chain = {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
    address = {"socket_address": {"address": "127.0.0.1", "port_value": 1}}
    return json.dumps(
        {"static_resources": {"listeners": [{"name": "l", "address": address, "filter_chains": [chain]}]}}
    )


def _refusal(directory: Path, name: str, expressions: Iterable[str]) -> str:
    """Envoy's words, or ""."""
    config = directory / f"{name}.json"
    config.write_text(_config(expressions))
    command = [str(find_envoy()), "--mode", "validate", "-c", str(config), "--log-level", "error", "--concurrency", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode in (0, 1), done.stderr
    return done.stderr.strip() if done.returncode else ""


@pytest.mark.real
def test_what_is_accepted_is_what_envoy_accepts(tmp_path: Path) -> None:
    expressions = _expressions(400)
    good = [text for text in expressions if not regex_fault(text)]
    bad = [text for text in expressions if text not in good]
    assert len(good) > 100
    assert len(bad) > 100
    assert _refusal(tmp_path, "good", good) == ""
    with ThreadPoolExecutor(2) as pool:
        words = list(pool.map(lambda one: _refusal(tmp_path, f"bad-{one[0]}", [one[1]]), enumerate(bad)))
    lenient = [text for text, said in zip(bad, words, strict=True) if not said]
    # Where we refuse more than Envoy does by itself, it is our own bound, which stands in its bootstrap, too.
    assert [text for text in lenient if f"{MAX_PROGRAM} at most" not in regex_fault(text)] == []
    assert [said for said in words if "INVALID_ARGUMENT" in said] == []  # that would be the file's fault

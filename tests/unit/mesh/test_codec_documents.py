"""YAML and JSON text -> plain trees, bounded."""

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from mesh.codec import MAX_TEXT, BadDocument, load_json, load_yaml
from mesh.codec.documents import MAX_DEPTH, MAX_VALUES

plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(min_value=-(2**62), max_value=2**62)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abc<é: #'\"", max_size=8), inner, max_size=4),
    max_leaves=20,
)


@given(st.lists(plain.filter(lambda d: d is not None), max_size=3))
def test_what_another_writer_wrote_is_read_as_it_was(documents: list):
    text = yaml.safe_dump_all(documents, allow_unicode=True, default_flow_style=None)
    if "<<" not in text:
        assert load_yaml(text) == documents


@given(st.text(max_size=200) | st.binary(max_size=200) | st.text("{}[]:,-&*!|>'\"#%@ \n\tab1.~?", max_size=60))
def test_arbitrary_text_is_documents_or_a_bad_document(text: str | bytes):
    try:
        load_yaml(text)
    except BadDocument as exc:
        assert exc.reason
        assert exc.line >= 0


def test_many_documents_and_empty_ones():
    assert load_yaml("---\na: 1\n---\n---\n# nothing\n---\n[2]\n...\n") == [{"a": 1}, [2]]
    assert load_yaml("") == []
    assert load_yaml(b"\xef\xbb\xbfa: 1") == [{"a": 1}]


def test_json_is_yaml():
    assert load_yaml('{"a": [1, 2.5, null, true, "no"], "b": {}}') == [{"a": [1, 2.5, None, True, "no"], "b": {}}]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", "no"),  # Norway
        ("yes", "yes"),
        ("on", "on"),
        ("1:30", "1:30"),
        ("2026-11-21", "2026-11-21"),
        ("010", 10),
        ("0x1f", 31),
        ("0o17", 15),
        ("1_000", "1_000"),
        ("1e3", 1000.0),
        (".5", 0.5),
        ("-7", -7),
        ("'7'", "7"),
        ("!!str 7", "7"),
        ("v1", "v1"),
        ("~", None),
        ("TRUE", True),
        ("=", "="),
    ],
)
def test_scalars_are_those_of_yaml_1_2(text: str, value: object):
    (document,) = load_yaml(f"x: {text}")
    assert document == {"x": value}
    assert type(document["x"]) is type(value)


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("a: 1\nb: 2\na: 3\n", 3, "'a' is there twice"),
        ("a:\n  - {x: 1, x: 2}\n", 2, "'x' is there twice"),
        ("1: a\n", 1, "not text"),
        ("[a]: b\n", 1, "not text"),
        ("null: b\n", 1, "not text"),
        ("a: .nan\n", 1, "not a number that can be stored"),
        ("a: -.inf\n", 1, "not a number that can be stored"),
        ("a: 1e999\n", 1, "not a number that can be stored"),
        ("a: " + "9" * 5000, 1, "digits"),
        ("a: !!python/object/apply:os.system [id]\n", 1, "tag"),
        ("a: !!binary aGk=\n", 1, "tag"),
        ("a: !!set {b}\n", 1, "tag"),
        ("x: &a {b: 1}\ny:\n  <<: *a\n", 3, "merge keys"),
        ("a: *nowhere\n", 1, "nowhere"),
        ("a: &x [*x]\n", 1, "inside its own anchor"),
        ("a: 1\n---\nb: &x 1\n---\nc: *x\n", 5, "x"),
        ("a: 1\n b: 2\n", 2, "not YAML"),
        ("a: {b: [}\n", 1, "not YAML"),
        ("a: \x01\n", 0, "not YAML"),
        ("\tb: 1\n", 1, "not YAML"),
    ],
    ids=range(20),
)
def test_a_fault_is_told_with_its_line(text: str, line: int, words: str):
    with pytest.raises(BadDocument) as caught:
        load_yaml(text)
    assert words in caught.value.reason
    assert caught.value.line == line
    assert str(caught.value).startswith(f"line {line}: " if line else "not YAML")
    assert len(str(caught.value)) < 300


def test_an_alias_bomb_is_refused_before_it_goes_off():
    bomb = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"{chr(98 + n)}: &{chr(98 + n)} [{', '.join(['*' + chr(97 + n)] * 9)}]\n" for n in range(9)
    )
    with pytest.raises(BadDocument, match=f"more than {MAX_VALUES} values"):
        load_yaml(bomb)


def test_a_modest_alias_is_taken():
    assert load_yaml("a: &x {b: 1}\nc: *x\n") == [{"a": {"b": 1}, "c": {"b": 1}}]


def test_bounds_of_size_depth_and_count():
    with pytest.raises(BadDocument, match="longer than 4 MiB"):
        load_yaml("#" * (MAX_TEXT + 1))
    assert load_yaml("[" * MAX_DEPTH + "]" * MAX_DEPTH)
    with pytest.raises(BadDocument, match="deeper"):
        load_yaml("[" * 500_000)
    with pytest.raises(BadDocument, match="deeper"):
        load_yaml("\n".join(" " * n + "a:" for n in range(MAX_DEPTH + 2)))
    with pytest.raises(BadDocument, match="values"):
        load_yaml("[" + "1," * (MAX_VALUES + 1) + "]")


def test_json_text():
    assert load_json(b'{"a": [1]}') == {"a": [1]}
    for bad in (b"", b"{", b"\xff", b"[" * 100_000, b"#" * (MAX_TEXT + 1)):
        with pytest.raises(BadDocument):
            load_json(bad)

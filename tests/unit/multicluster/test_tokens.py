"""The token's text: whole, or no token."""

import pytest

from multicluster import tokens
from multicluster.tokens import BadToken, Token

TOKEN = Token(
    id="0123456789abcdef",
    secret="s" * 43,
    cluster="east",
    trust_domain="east.test",
    pin="f" * 32,
    addresses=("https://cp1.east.example:8443",),
)


def test_a_token_is_read_as_it_was_made():
    assert tokens.parse(tokens.text_of(TOKEN) + "\n") == TOKEN


@pytest.mark.parametrize("cut", range(1, 40, 3))
def test_a_cut_token_is_refused_without_being_repeated(cut):
    text = tokens.text_of(TOKEN)[:-cut]
    with pytest.raises(BadToken) as caught:
        tokens.parse(text)
    assert text not in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"id": "x"},
        {"secret": "short"},
        {"cluster": "a.b"},
        {"trust_domain": "EAST"},
        {"pin": ""},
        {"addresses": ()},
        {"addresses": ("http://cp1:80",)},
        {"addresses": ("https://cp1",)},
        {"addresses": ("https://a@cp1:80",)},
        {"addresses": ("https://cp1:80/x",)},
        {"addresses": tuple(f"https://cp{n}:80" for n in range(40))},
    ],
)
def test_impossible_parts_are_refused(changes):
    import msgspec

    with pytest.raises(BadToken):
        tokens.parse(tokens.text_of(msgspec.structs.replace(TOKEN, **changes)))


@pytest.mark.parametrize("text", ["", "hf1.a.b.c", "hfp1.", "hfp1." + "A" * 10_000, "hfp1.%%%", "hfp1.bnVsbA"])
def test_other_text_is_refused(text):
    with pytest.raises(BadToken):
        tokens.parse(text)

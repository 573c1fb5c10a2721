import json

import pytest

from ca.seal import Cipher, SealError, new_key_text

KEY, OTHER = bytes(32), bytes([1] * 32)


def test_what_was_sealed_opens_at_its_place_only():
    cipher = Cipher([KEY])
    sealed = cipher.seal(b"secret", "/holdfast/v1/private/ca/root")
    assert cipher.open(sealed, "/holdfast/v1/private/ca/root") == b"secret"
    with pytest.raises(SealError, match="altered or moved"):
        cipher.open(sealed, "/holdfast/v1/private/ca/other")


def test_it_is_readable_json_without_the_secret():
    sealed = Cipher([KEY]).seal(b"secret", "here")
    assert json.loads(sealed).keys() == {"sealed", "key", "nonce", "data"}
    assert b"secret" not in sealed


def test_no_two_seals_share_a_nonce():
    cipher = Cipher([KEY])
    assert len({json.loads(cipher.seal(b"x", "here"))["nonce"] for _ in range(100)}) == 100


def test_the_nonce_comes_from_what_was_injected():
    given = iter([b"a" * 12, b"b" * 12])
    cipher = Cipher([KEY], lambda _: next(given))
    assert json.loads(cipher.seal(b"x", "here"))["nonce"] == "YWFhYWFhYWFhYWFh"


def test_a_second_key_opens_what_the_first_one_sealed():
    sealed = Cipher([OTHER]).seal(b"x", "here")
    assert Cipher([KEY, OTHER]).open(sealed, "here") == b"x"
    with pytest.raises(SealError, match="not held"):
        Cipher([KEY]).open(sealed, "here")


@pytest.mark.parametrize("junk", [b"", b"{}", b"\xff", b"[]", b'{"sealed":1,"key":"x","nonce":"","data":""}'])
def test_junk_does_not_open(junk):
    with pytest.raises(SealError):
        Cipher([KEY]).open(junk, "here")


def test_every_flipped_byte_of_the_data_is_noticed():
    cipher = Cipher([KEY])
    value = json.loads(cipher.seal(b"secret", "here"))
    for field in ("nonce", "data"):
        altered = {**value, field: ("A" if value[field][0] != "A" else "B") + value[field][1:]}
        with pytest.raises(SealError):
            cipher.open(json.dumps(altered).encode(), "here")


def test_a_key_file_that_others_may_read_is_refused(tmp_path):
    path = tmp_path / "seal.key"
    path.write_text(new_key_text())
    path.chmod(0o640)
    with pytest.raises(SealError, match="chmod 600"):
        Cipher.from_file(path)
    path.chmod(0o600)
    assert Cipher.from_file(path).open(Cipher.from_file(path).seal(b"x", "here"), "here") == b"x"


@pytest.mark.parametrize("text", ["", "short", "A" * 43 + "\n", "AAAA\n"])
def test_bad_keys_are_refused(text):
    with pytest.raises(SealError):
        Cipher.parse(text)


def test_a_missing_key_file_is_named(tmp_path):
    with pytest.raises(SealError, match="missing"):
        Cipher.from_file(tmp_path / "missing")

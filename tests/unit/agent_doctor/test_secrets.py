"""What is secret is taken out by its name, by its looks and by heart; what is not, stays readable."""

import base64
import json

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import given
from hypothesis import strategies as st

from agent.doctor import secrets
from agent.doctor.secrets import GONE

PLANT = "hunter2Plant"


@pytest.mark.parametrize(
    "tree",
    [
        {"password": PLANT},
        {"clientSecret": PLANT, "other": 1},
        {"db": {"DB_PASSWORD": PLANT}},
        {"privateKey": {"inlineBytes": PLANT}},
        {"private_key": {"inline_string": [PLANT]}},
        {"header": {"key": "Authorization", "value": PLANT}},
        {"header": {"key": "x-api-key", "value": PLANT}},
        {"headers": [{"name": "cookie", "string_match": {"exact": PLANT}}]},
        {"name": "X-Vault-Token", "value": PLANT},
        {"command": ["/bin/check", "--password", PLANT]},
        {"command": ["/bin/check", f"--api-key={PLANT}"]},
        {"command": ["curl", "-u", f"joe:{PLANT}", "http://x"]},
        {"command": ["psql", f"postgres://joe:{PLANT}@db/x"]},
        {"command": ["sh", "-c", f"PGPASSWORD={PLANT} psql"]},
        {"env": [f"TOKEN={PLANT}"]},
        {"x-auth-key": PLANT},
        {"X-Auth": PLANT},
        {"env": {"DB_PASS": PLANT}},
        {"dbPass": PLANT},
        {"pwd": PLANT},
        {"command": ["mysql", "--pass", PLANT]},
        {"text": f"Authorization: Digest a=1, {PLANT}"},
        {"env": {"SECRET_KEY": PLANT, "SECRET_KEY_BASE": PLANT, "encryption_key": PLANT, "RAILS_MASTER_KEY": PLANT}},
        {"secret_id": PLANT, "token_2": PLANT, "psk": PLANT, "client_secret_v2": PLANT, "DB_PASS_2": PLANT},
        {"command": ["serve", "--secret-key", PLANT, f"--encryption-key={PLANT}"]},
        [[{"token": {"a": {"b": [PLANT, {"c": PLANT}]}}}]],
    ],
)
def test_what_is_called_like_a_secret_is_removed(tree):
    found = secrets.tree(tree)
    assert PLANT not in json.dumps(found)
    assert GONE in json.dumps(found)


@pytest.mark.parametrize(
    "line",
    [
        f"calling with Authorization: Bearer {PLANT}.abc",
        f"bearer {PLANT}",
        f'{{"authorization": "{PLANT}"}}',
        f"Set-Cookie: sid={PLANT}; Path=/",
        f"cookie: a=b; c={PLANT}",
        f"Environment=DB_PASSWORD={PLANT}",
        f"password='{PLANT}'",
        f"password='two {PLANT}'",
        f'password: "two {PLANT} \\" {PLANT}"',
        f'msg="{{\\"password\\": \\"two {PLANT}\\"}}"',
        f"DB_PASS={PLANT}",
        f"pwd: {PLANT}",
        f"mysql --pass {PLANT}",
        f"mysql --db-pass '{PLANT}'",
        f"curl -u joe:{PLANT} http://x",
        f"https://x/y?X-Amz-Signature={PLANT}&z=1",
        f"https://x/y?sig={PLANT}",
        f"push with glpat-{PLANT}",
        f"push with ghp_{PLANT}",
        f"api_key: {PLANT}",
        f"Environment=SECRET_KEY={PLANT} DJANGO_SECRET_KEY={PLANT}",
        f"SECRET_KEY_BASE={PLANT} RAILS_MASTER_KEY={PLANT} PASSPHRASE_1={PLANT} DB_PASS_2={PLANT}",
        f"private_key: {PLANT}",
        f"secret_id={PLANT}",
        f"/usr/bin/thing --secret-key {PLANT} --loud",
        f"https://joe:{PLANT}@example.com/x",
        f"/usr/bin/thing --token {PLANT} --loud",
        f"join with hf1.{PLANT}.{PLANT}.00",
        f"hvs.{PLANT}{PLANT}",
        f"eyJhbGciOi.eyJ{PLANT}.sig",
        f"-----BEGIN EC PRIVATE KEY-----\n{PLANT}\n-----END EC PRIVATE KEY-----",
        f"-----BEGIN PRIVATE KEY-----\\n{PLANT}",
    ],
)
def test_what_looks_like_a_secret_is_removed(line):
    assert PLANT not in secrets.text(f"before {line}\nafter")
    assert secrets.text(f"first line\n{line}").startswith("first line\n")


@pytest.mark.parametrize(
    "value",
    [
        {"token_file": "/etc/holdfast/token", "tokenFile": "/x"},
        {"name": "web", "value": "stays"},
        {"ports": [{"port": 80, "name": "http"}], "healthy": True},
        {"command": ["/bin/check", "--quick", "--path", "/x"]},
        {"keys": 3, "primary_key": "id", "key": "a", "monkey": "b", "tokens-used": 7},
        {"passed": 3, "passthrough": "yes", "note": "two checks pass, 3 passed: all; --passive x -u 1000"},
        {"dynamic_active_secrets": [{"name": "shop/web"}]},
        {"url": "https://cp-1:8443/x", "reason": "the join failed: no token"},
    ],
)
def test_what_is_none_stays(value):
    assert secrets.tree(value) == value


def test_of_envoys_secrets_all_but_the_secret_stays():
    of = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"
    certificate = {"certificate_chain": {"inline_string": "chain"}, "private_key": {"inline_string": PLANT}}
    found = secrets.tree({"secret": {"@type": of, "name": "shop/web", "tls_certificate": certificate}})
    assert found["secret"]["name"] == "shop/web"
    assert found["secret"]["tls_certificate"]["certificate_chain"] == {"inline_string": "chain"}
    for kind in ("session_ticket_keys", "generic_secret"):
        found = secrets.tree({"secret": {"@type": of, "name": "x", kind: {"keys": [{"inline_string": PLANT}]}}})
        assert PLANT not in json.dumps(found)


def test_json_stays_json_and_anything_else_is_text():
    assert json.loads(secrets.document(b'{"password": "x", "a": [1, true, null]}')) == {
        "password": GONE,
        "a": [1, True, None],
    }
    assert secrets.document(b"\xff password: x") == f"\ufffd password: {GONE}".encode()


def key() -> str:
    made = ec.generate_private_key(ec.SECP256R1())
    return made.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def test_what_this_host_holds_is_found_wherever_it_stands():
    pem = key()
    known = secrets.by_heart([pem])
    body = pem.splitlines()[1]
    for raw in (
        pem.encode(),
        json.dumps({"x": pem}).encode(),
        f"a line of it: {body}".encode(),
        base64.b64encode(pem.encode()),
        base64.b64encode(b"x" + pem.encode() + b"yy"),
        base64.b64encode(b"xy" + pem.encode()),
        base64.b64encode(body.encode()),
    ):
        left = secrets.forget(raw, known)
        assert body.encode() not in left
        assert base64.b64encode(body.encode())[4:-8] not in left, raw
        assert GONE.encode() in left


def test_the_marks_that_all_keys_have_are_not_secrets():
    known = secrets.by_heart([key()])
    assert secrets.forget(b"-----BEGIN CERTIFICATE-----\n-----END PRIVATE KEY-----", known) == (
        b"-----BEGIN CERTIFICATE-----\n-----END PRIVATE KEY-----"
    )
    assert secrets.by_heart(["short", ""]) == ()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=20,
)


@given(JSON)
def test_any_tree_is_taken_and_twice_is_once(value):
    once = secrets.tree(value)
    assert secrets.tree(once) == once

"""The settings file."""

from pathlib import Path

import pytest

from controlplane.settings import Settings, SettingsError, load, parse

GOOD = """
replica: cp1
listen: 127.0.0.1:8443
advertise: https://127.0.0.1:8443/
dataDir: data
sealKeyFile: /etc/holdfast/seal.key
etcd:
  endpoints: [127.0.0.1:2379]
  ca: pki/ca.pem
"""


def faults(text: str) -> dict[str, str]:
    outcome = parse(text, Path("/base"))
    assert isinstance(outcome, tuple)
    return {fault.path: fault.reason for fault in outcome}


def test_relative_paths_are_relative_to_the_file():
    settings = parse(GOOD, Path("/base"))
    assert isinstance(settings, Settings)
    assert settings.data_dir == "/base/data"
    assert settings.etcd.ca == "/base/pki/ca.pem"
    assert settings.seal_key_file == "/etc/holdfast/seal.key"
    assert settings.advertise == "https://127.0.0.1:8443"
    assert settings.controlplanes == ("https://127.0.0.1:8443",)
    assert settings.audit_path == Path("/base/data/audit.log")


def test_all_faults_of_shape_are_told_at_once():
    found = faults("replica: 5\nlisten: x\netcd: {endpoints: 7, nonsense: 1}\nsigner: {kind: paper}\n")
    assert {"replica", "advertise", "dataDir", "sealKeyFile", "etcd.endpoints", "etcd.nonsense", "signer.kind"} <= set(
        found
    )


def test_all_faults_of_content_are_told_at_once():
    text = GOOD.replace("cp1", "CP_1").replace("127.0.0.1:8443\n", "nowhere\n").replace("[127.0.0.1:2379]", "[a, ':9']")
    found = faults(text + "signer: {kind: vault}\ngates: [x]\nelectionTtlSeconds: 0\nlimits: {watches: -1}\n")
    assert {
        "replica",
        "listen",
        "etcd.endpoints[0]",
        "etcd.endpoints[1]",
        "signer.address",
        "signer.roleIdFile",
        "gates[0]",
        "electionTtlSeconds",
        "limits.watches",
    } <= set(found)


@pytest.mark.parametrize(
    "text", ["", "{", "a: b: c", "[]", "5", "--- {}\n--- {}\n", "&a [*a]", "x: !!python/object:os {}"]
)
def test_what_is_not_settings_is_refused_with_a_reason(text):
    assert all(faults(text).values())


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(SettingsError, match=r"nowhere\.yaml cannot be used"):
        load(tmp_path / "nowhere.yaml")


def test_a_good_file_is_loaded(tmp_path):
    (tmp_path / "cp.yaml").write_text(GOOD)
    assert load(tmp_path / "cp.yaml").replica == "cp1"

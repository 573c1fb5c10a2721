import pytest

from agent.settings import Settings, SettingsError, load

GOOD = """
node: vm1
address: 10.0.0.1
controlplanes: ["https://10.0.0.9:8443"]
gates: ["10.0.0.9:2389"]
locality: eu/a
envoy: {command: /opt/envoy, baseId: 3, drainSeconds: 5, parentShutdownSeconds: 9}
"""


def test_a_good_file_is_read(tmp_path):
    path = tmp_path / "agent.yaml"
    path.write_text(GOOD)
    settings = load(path)
    assert isinstance(settings, Settings)
    assert (settings.node, settings.envoy.base_id, settings.mtls_port) == ("vm1", 3, 15443)


def test_all_faults_are_told_at_once(tmp_path):
    path = tmp_path / "agent.yaml"
    path.write_text("node: 7\nadress: 10.0.0.1\nmtlsPort: many\nenvoy: {concurency: 2}\n")
    with pytest.raises(SettingsError) as caught:
        load(path)
    paths = {fault.path for fault in caught.value.faults}
    assert paths == {"node", "adress", "address", "mtlsPort", "envoy.concurency"}
    assert str(path) in str(caught.value)


def test_faults_of_meaning_are_told_at_once(tmp_path):
    path = tmp_path / "agent.yaml"
    path.write_text(
        "node: Not_A_Label\naddress: 'a b'\ncontrolplanes: ['http://x', 'https://']\ngates: [nowhere]\nscrape: '99'\n"
        "mtlsPort: 70000\nlocality: eu//a\nenvoy: {drainSeconds: 60}\n"
    )
    with pytest.raises(SettingsError) as caught:
        load(path)
    paths = {fault.path for fault in caught.value.faults}
    assert paths == {
        "node", "address", "controlplanes[0]", "controlplanes[1]", "gates[0]", "scrape", "mtlsPort", "locality",
        "envoy.parentShutdownSeconds",
    }  # fmt: skip


@pytest.mark.parametrize("text", ["", "a: b: c", "[1, 2]", "node: x\n---\nnode: y\n", "\x00"])
def test_what_is_no_settings_file_is_refused_with_its_name(tmp_path, text):
    path = tmp_path / "agent.yaml"
    path.write_text(text)
    with pytest.raises(SettingsError, match=r"agent\.yaml"):
        load(path)


def test_a_missing_file_says_what_to_do(tmp_path):
    with pytest.raises(SettingsError, match="--config"):
        load(tmp_path / "none.yaml")


def test_a_file_can_be_checked_before_it_takes_the_place_of_the_one_in_use(tmp_path):
    from click.testing import CliRunner

    from agent.cli import main

    path = tmp_path / "new.yaml"
    path.write_text("node: web-1\naddress: 10.0.0.7\ncontrolplanes: ['https://10.0.0.1:8443']\n")
    done = CliRunner().invoke(main, ["check", str(path)])
    assert (done.exit_code, done.output) == (0, f"{path} is fine\n")
    path.write_text(path.read_text() + "capture: {outbond: {}}\n")
    done = CliRunner().invoke(main, ["check", str(path)])
    assert done.exit_code == 1
    assert "capture.outbond" in done.output

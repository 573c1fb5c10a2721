"""Where the control plane is and who asks: flags > environment > config file."""

import pytest

from controlplane.cli.context import ConfigFile, Context, Flags, base_url, config_path, load_config, resolve
from controlplane.cli.errors import CliError, Exit

SAVED = ConfigFile(
    current="prod",
    contexts={
        "prod": Context(addresses=("cp1.example", "cp2.example:9000"), ca="/etc/prod-ca.pem", namespace="shop"),
        "lab": Context(addresses=("127.0.0.1:8443",)),
    },
)


def test_flags_win_over_environment_and_environment_over_the_file():
    env = {"HOLDFAST_ADDR": "env.example", "HOLDFAST_CA": "/env.pem", "HOLDFAST_TOKEN": "t-env"}
    found = resolve(Flags(addr="flag.example", ca="/flag.pem"), env, SAVED)
    assert (found.addresses, found.ca, found.token) == (("https://flag.example:8443",), "/flag.pem", "t-env")
    found = resolve(Flags(), env, SAVED)
    assert (found.addresses, found.ca) == (("https://env.example:8443",), "/env.pem")
    found = resolve(Flags(), {}, SAVED)
    assert found.addresses == ("https://cp1.example:8443", "https://cp2.example:9000")
    assert (found.ca, found.namespace) == ("/etc/prod-ca.pem", "shop")


def test_a_token_file_of_the_flags_wins_over_a_token_in_the_environment(tmp_path):
    (tmp_path / "t").write_text("from-file\n")
    flags = Flags(addr="x", token_file=str(tmp_path / "t"))
    assert resolve(flags, {"HOLDFAST_TOKEN": "from-env"}, ConfigFile()).token == "from-file"


def test_several_addresses_and_a_chosen_context():
    assert resolve(Flags(addr="a, b:1 ,"), {}, ConfigFile()).addresses == ("https://a:8443", "https://b:1")
    assert resolve(Flags(context="lab"), {}, SAVED).addresses == ("https://127.0.0.1:8443",)
    assert resolve(Flags(), {"HOLDFAST_CONTEXT": "lab"}, SAVED).addresses == ("https://127.0.0.1:8443",)


@pytest.mark.parametrize(
    ("flags", "env", "word"),
    [
        (Flags(), {}, "no control plane to talk to"),
        (Flags(context="nowhere"), {}, "no context 'nowhere'"),
        (Flags(addr="http://plain.example"), {}, "not one of a control plane"),
        (Flags(addr="https://x/path"), {}, "not one of a control plane"),
        (Flags(addr="x:notaport"), {}, "Port"),
    ],
)
def test_what_cannot_be_used_is_a_usage_error_that_says_so(flags, env, word):
    with pytest.raises(CliError) as caught:
        resolve(flags, env, ConfigFile())
    assert word in caught.value.message
    assert caught.value.exit_code == Exit.USAGE


def test_a_token_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(CliError, match="missing"):
        resolve(Flags(addr="x", token_file=str(tmp_path / "missing")), {}, ConfigFile())


def test_base_url_takes_ipv6():
    assert base_url("https://[::1]:9") == "https://[::1]:9"


def test_config_path():
    assert str(config_path({"HOLDFAST_CONFIG": "/x.yaml"})) == "/x.yaml"
    assert str(config_path({"XDG_CONFIG_HOME": "/xdg"})) == "/xdg/holdfast/config.yaml"
    assert str(config_path({"HOME": "/home/eve"})) == "/home/eve/.config/holdfast/config.yaml"


def test_the_config_file_is_read_strictly(tmp_path):
    path = tmp_path / "config.yaml"
    assert load_config(path) == ConfigFile()
    path.write_text("current: a\ncontexts: {a: {addresses: [x], tokenFile: t}}\n")
    assert load_config(path).contexts["a"].token_file == "t"
    path.write_text("contexts: {a: {adresses: [x]}}\n")
    with pytest.raises(CliError, match="adresses"):
        load_config(path)
    path.write_text("a: [")
    with pytest.raises(CliError):
        load_config(path)

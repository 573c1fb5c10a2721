"""How the daemon is started: without click if it is plainly asked for, and with the same words if it cannot begin."""

import subprocess
import sys

import pytest

from agent import cli, main


def test_the_daemon_starts_without_the_library_of_the_command_line():
    code = "import sys, agent.main; sys.exit('click' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_daemon_loads_nothing_that_only_few_hosts_or_questions_need():
    """Every host holds what is loaded: the judge of expressions alone is 2.4 MB, the simulator 1 MB."""
    heavy = (
        "re2",
        "mesh.compile.simulate",
        "mesh.compile.explain",
        "envoy.config.bootstrap",
        "google.protobuf.json_format",
    )
    code = f"import sys, agent.main, agent.daemon; print(*(name for name in {heavy} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.split() == []


@pytest.mark.parametrize("words", [["run", "--config", "{}"], ["run", "--config={}"]])
def test_a_faulty_file_is_named_on_every_way(words, tmp_path, monkeypatch, capsys):
    path = tmp_path / "agent.yaml"
    path.write_text("node: [")
    monkeypatch.setattr(sys, "argv", ["holdfast-agent", *(word.format(path) for word in words)])
    with pytest.raises(SystemExit) as ended:
        main.main()
    assert str(path) in f"{ended.value.code}{capsys.readouterr().err}"
    assert ended.value.code != 0


@pytest.mark.parametrize("words", [["run", "--help"], ["run", "--no-such-option"], ["status", "--help"], []])
def test_everything_else_is_the_command_lines(words, monkeypatch):
    asked = []
    monkeypatch.setattr(cli, "main", lambda: asked.append(sys.argv[1:]))
    monkeypatch.setattr(sys, "argv", ["holdfast-agent", *words])
    main.main()
    assert asked == [words]

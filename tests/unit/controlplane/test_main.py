"""What a control-plane node loads, and what it leaves."""

import subprocess
import sys
from pathlib import Path


def test_a_node_that_signs_by_itself_loads_no_library_that_it_does_not_need(tmp_path: Path):
    """10 MB: Vault's client and what that stands on, and colours for a terminal."""
    settings = tmp_path / "none.yaml"
    code = f"""
import sys
from click.testing import CliRunner
from controlplane import main
done = CliRunner().invoke(main.main, ["run", "--config", {str(settings)!r}])
assert done.exit_code == 2, done
looked_for = ("controlplane.daemon", "hvac", "requests", "rich.console")
print([name for name in looked_for if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "['controlplane.daemon']"

import subprocess
import sys
from pathlib import Path

import pytest

from controlplane.distribution.bundle import BundleError, bundle

TEXT = "def greet(name: str) -> str:\n    return f'hello {name}'\n"
MAIN = """from pkg.text import greet
import sys


def main() -> int:
    print(greet(sys.argv[1]))
    return 0


if __name__ == "__main__":
    main()
"""


def test_one_file_does_what_the_modules_do(tmp_path: Path):
    path = tmp_path / "one.py"
    path.write_text(bundle({"main": MAIN, "text": TEXT}, package="pkg", entry="main"))
    done = subprocess.run([sys.executable, "-I", path, "you"], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout == "hello you\n"  # once: a module's own `if __name__` is not the program's


def test_the_order_of_the_modules_given_does_not_matter():
    one = bundle({"main": MAIN, "text": TEXT}, package="pkg", entry="main")
    assert one == bundle({"text": TEXT, "main": MAIN}, package="pkg", entry="main")


@pytest.mark.parametrize(
    ("sources", "reason"),
    [
        ({"main": MAIN}, "which is not there"),
        ({"main": MAIN, "text": TEXT + "def main(): ...\n"}, "main is defined in"),
        ({"main": MAIN, "text": "from pkg.main import main\n" + TEXT}, "circle"),
        ({"main": "from pkg.text import greet as g\n", "text": TEXT}, "no `as`"),
        ({"main": "import pkg.text\n", "text": TEXT}, "say `from"),
        ({"main": "def main():\n    from pkg.text import greet\n", "text": TEXT}, "at the top"),
        ({"main": "x = 1\n"}, "has no main()"),
    ],
)
def test_what_could_mean_something_else_in_one_file_is_refused(sources: dict[str, str], reason: str):
    with pytest.raises(BundleError, match=reason.replace("(", r"\(").replace(")", r"\)")):
        bundle(sources, package="pkg", entry="main")

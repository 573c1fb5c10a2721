"""The programs that the roles install on a host, as the users that run them find them."""

import ensurepip
import hashlib
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.integration.hostd.hosts import can_make_namespaces
from tests.support.collection import environment

pytestmark = [
    pytest.mark.real,
    pytest.mark.slow,
    pytest.mark.skipif(not can_make_namespaces(), reason="needs root, and mounts of its own"),
]

PLAY = """
- hosts: cp-1
  gather_subset: [min]
  tasks:
  # An interpreter of the operator's own for Ansible, which is not the one that runs what is installed.
  - ansible.builtin.set_fact: {python: {version: {major: 9, minor: 9}}, cacheable: true}
  - ansible.builtin.import_role: {name: holdfast.mesh.common, tasks_from: venv}
"""
OWN = subprocess.run(
    ["/usr/bin/python3", "-c", "import sys; print('%d.%d' % sys.version_info[:2])"],
    capture_output=True,
    text=True,
    check=True,
).stdout.strip()
# A host of its own as far as files go: /opt and /etc are left as they are. Its umask is that of a hardened one.
HOST = """
mount -t tmpfs tmpfs /opt
mount -t tmpfs tmpfs "$1"
mkdir "$1/upper" "$1/work"
mount -t overlay overlay -o "lowerdir=/etc,upperdir=$1/upper,workdir=$1/work" /etc
umask 077
ansible-playbook -i inventory.json play.yml -e ansible_connection=local
exec setpriv --reuid=nobody --clear-groups /opt/holdfast/0.1.0/bin/python -P -c 'import holdfast_says'
"""


def wheel(folder: Path, name: str) -> Path:
    path = folder / f"{name}-0.1.0-py3-none-any.whl"
    about = f"{name}-0.1.0.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}_says.py", "print('here')\n")
        archive.writestr(f"{about}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1.0\n")
        archive.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{about}/RECORD", "")
    return path


def distribution(folder: Path) -> None:
    """As small as can be: pip, and a wheel in the program's place."""
    wheels = folder / "wheels"
    wheels.mkdir(parents=True)
    (pip,) = (Path(ensurepip.__file__).parent / "_bundled").glob("pip-*.whl")
    (wheels / pip.name).write_bytes(pip.read_bytes())
    wheel(wheels, "holdfast")
    files = [
        {
            "path": f"wheels/{path.name}",
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "size": path.stat().st_size,
            "kind": "wheel",
            "arch": "any",
            "python": "any" if path.name.startswith("pip") else OWN,
            "name": path.name.split("-")[0],
            "version": path.name.split("-")[1],
        }
        for path in sorted(wheels.iterdir())
    ]
    (folder / "manifest.json").write_text(json.dumps({"format": 1, "version": "0.1.0", "files": files}))


def test_a_service_s_user_can_run_what_was_installed_on_a_host_with_a_strict_umask(tmp_path: Path):
    distribution(tmp_path / "dist")
    (tmp_path / "play.yml").write_text(PLAY)
    host = {"ansible_python_interpreter": sys.executable}
    (tmp_path / "inventory.json").write_text(json.dumps({"all": {"hosts": {"cp-1": host}}}))
    (tmp_path / "scratch").mkdir()
    done = subprocess.run(
        ["unshare", "-m", "sh", "-ec", HOST, "host", str(tmp_path / "scratch")],
        cwd=tmp_path,
        env={**environment(tmp_path), "HOLDFAST_SECRETS_PASSWORD": "long enough for it"},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert done.stdout.endswith("here\n")

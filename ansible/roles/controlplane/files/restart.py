"""Restart this host's control-plane node, and wait until it answers: restart.py ADDRESS PORT."""

import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request

SECONDS = 60


def answers(url: str) -> str:
    """Why not; empty if it does. Nothing is sent, so that whoever answers learns nothing: no need to verify."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with urllib.request.urlopen(url, timeout=5, context=context):  # noqa: S310 - always https, see main
            return ""
    except urllib.error.HTTPError as exc:
        return exc.read(2000).decode(errors="replace")
    except OSError as exc:
        return str(exc)


def main(address: str, port: str) -> int:
    subprocess.run(["/usr/bin/systemctl", "daemon-reload"], check=True)
    subprocess.run(["/usr/bin/systemctl", "restart", "holdfast-controlplane.service"], check=True)
    host = f"[{address}]" if ":" in address else address
    end = time.monotonic() + SECONDS
    while reason := answers(f"https://{host}:{port}/readyz"):
        if time.monotonic() > end:
            sys.stderr.write(f"it is not ready {SECONDS} s after its restart: {reason}\n")
            sys.stderr.write("see: journalctl -u holdfast-controlplane\n")
            return 1
        time.sleep(0.2)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

"""A small service for the hosts: says who it is and who called, and calls others. Standard library only.

    app.py NAME [ADDRESS:]PORT

GET /            {"service": NAME, "caller": what the mesh says of the caller, "host": …}
GET /call?URL    what URL answers to a request made by this process: status and text
GET /slow?SEC    as /, after that many seconds
GET /healthz     200
"""

import http.server
import json
import socket
import sys
import time
import urllib.error
import urllib.parse
import urllib.request

CALLER = "x-forwarded-client-cert"


class App(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    name = ""

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        if path == "/slow":
            time.sleep(min(float(query or 1), 30))
        if path == "/call":
            self._answer(call(urllib.parse.unquote(query)))
        else:
            caller = self.headers.get(CALLER, "")
            self._answer({"service": self.name, "caller": caller, "host": socket.gethostname(), "path": path})

    def _answer(self, value: object) -> None:
        body = json.dumps(value).encode() + b"\n"
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *values: object) -> None:
        """The tests read answers, not logs."""


def call(url: str) -> dict[str, object]:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return {"status": answer.status, "text": answer.read().decode()}
    except urllib.error.HTTPError as exc:
        return {"status": exc.code, "text": exc.read().decode(errors="replace")}
    except OSError as exc:
        return {"status": 0, "text": str(exc)}


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


if __name__ == "__main__":
    App.name = sys.argv[1]
    address, _, port = sys.argv[2].rpartition(":")
    if ":" in address:
        Server.address_family = socket.AF_INET6  # at [::] for both families
    Server((address.strip("[]") or "127.0.0.1", int(port)), App).serve_forever()

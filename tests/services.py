"""A small web service on loopback for tests: it keeps what it is sent, and answers, refuses, redirects or hangs."""

import http.server
import json
import threading
from typing import Any


class Service:
    """A server that keeps what it is sent, and answers, refuses, redirects or hangs."""

    def __init__(self) -> None:
        self.bodies: list[Any] = []
        self.methods: list[str] = []
        self.status = 200
        self.hang = threading.Event()
        self.hang.set()
        service = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def answer(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                content = self.rfile.read(length)
                service.methods.append(self.command)
                service.hang.wait()
                if service.status == 200 and content:
                    service.bodies.append(json.loads(content))
                self.send_response(service.status)
                if service.status == 302:
                    self.send_header("Location", "/elsewhere")
                self.send_header("Content-Length", "0")
                self.end_headers()

            do_GET = do_POST = do_HEAD = answer  # noqa: N815

            def log_message(self, format: str, *args: object) -> None:
                pass

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request: Any, client_address: Any) -> None:
                """A client that gave up is no error of the server."""

        self.server = Server(("127.0.0.1", 0), Handler)
        self.root = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.address = f"{self.root}/hook"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def close(self) -> None:
        self.hang.set()
        self.server.shutdown()
        self.server.server_close()

"""Who takes the traces of a benchmark? A small collector: it answers OTLP over HTTP and keeps nothing."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from typing_extensions import override


class _Sink(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        """Read it all and say that it is kept."""
        self.rfile.read(int(self.headers.get("content-length", 0)))
        self.send_response(200)
        self.send_header("content-type", "application/x-protobuf")
        self.send_header("content-length", "0")
        self.end_headers()

    @override
    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


def serve() -> str:
    """Serve from a thread for as long as this process lives; the address for `telemetry.otlp`."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Sink)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}"

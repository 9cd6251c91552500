"""A server that gives every request the test's fixed answer, or no answer."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self


class FixedServer:
    """A server on a free port; a context manager that stops the server.

    Attributes:
        url: The server's URL, without a slash at the end.
        requests: The method, path, headers and body of each request so far.
    """

    def __init__(
        self,
        status: int,
        body: bytes,
        content_type: str = "application/json",
        *,
        silent: bool = False,
    ) -> None:
        """Start the server.

        Args:
            status: The HTTP status of every answer.
            body: The body of every answer.
            content_type: The type of the body.
            silent: Whether the server reads requests and never answers.
        """
        self.requests: list[tuple[str, str, dict[str, str], bytes]] = []
        self._end = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                """Print nothing."""

            def do_POST(self) -> None:
                received = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                headers = {name.lower(): value for name, value in self.headers.items()}
                outer.requests.append((self.command, self.path, headers, received))
                if silent:
                    outer._end.wait()
                    return
                self.send_response(status)
                self.send_header("Content-Type", content_type)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.01,), daemon=True
        )
        self._thread.start()

    def __enter__(self) -> Self:
        """Return the running server."""
        return self

    def __exit__(self, *_: object) -> None:
        """Stop the server."""
        self._end.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

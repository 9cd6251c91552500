"""A proxy before PostgREST like Supabase's gateway: serves `/rest/v1`, uses `apikey` as a token.

It follows Supabase's documentation of the API keys that are not JWTs. The hosted gateway accepts
more: such a key may also be the bearer token, if `apikey` has the same value.
"""

import http.client
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self
from urllib.parse import urlsplit

_PREFIX = "/rest/v1"
_BLOCK = 64 * 1024
_NO_JWT = "sb_"
_DOTS_OF_A_JWT = 2
_SECRET = "sb_secret_"  # noqa: S105 - only a prefix
# Headers of one connection, not of the request (RFC 9110, 7.6.1), and Host, which differs upstream.
_HOP_BY_HOP = frozenset(
    {
        "connection",
        "expect",
        "host",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)


class Gateway:
    """A proxy on a free port; a context manager that closes it.

    Attributes:
        url: The URL for `supabase.create_client`, without a slash at the end.
    """

    def __init__(self, upstream: str, tokens: Mapping[str, str] | None = None) -> None:
        """Start the proxy.

        Args:
            upstream: PostgREST's URL.
            tokens: The project's keys that are not JWTs, each with the token of its role.
        """
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.tokens = dict(tokens or {})
        self._server.upstream = urlsplit(upstream).netloc
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.01,), name="gateway", daemon=True
        )
        self._thread.start()

    def __enter__(self) -> Self:
        """Returns the running gateway."""
        return self

    def __exit__(self, *_: object) -> None:
        """Stop listening."""
        self.close()

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False  # a client with an open connection must not delay closing
    request_queue_size = 128
    upstream: str
    tokens: dict[str, str]

    def handle_error(self, *_: object) -> None:
        """Print nothing: a client that disconnects is not an error."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # head and body in one packet
    server: _Server

    def log_message(self, *_: object) -> None:
        """Log nothing, because requests contain keys."""

    def _forward(self) -> None:
        path = self.path.removeprefix(_PREFIX)
        if path == self.path or path[:1] not in ("", "/", "?"):
            self._fail(HTTPStatus.NOT_FOUND, "no route: the REST API is below /rest/v1")
            return
        if (refusal := self._refusal()) is not None:
            self._fail(HTTPStatus.UNAUTHORIZED, refusal)
            return
        with closing(http.client.HTTPConnection(self.server.upstream)) as upstream:
            try:
                self._send_request(upstream, path if path.startswith("/") else f"/{path}")
                response = upstream.getresponse()
            except ValueError as error:  # InvalidURL is a ValueError
                self._fail(HTTPStatus.BAD_REQUEST, f"not a request: {error}")
            except (OSError, http.client.HTTPException) as error:
                self._fail(HTTPStatus.BAD_GATEWAY, f"the API did not answer: {error!r}")
            else:
                self._send_response(response)

    do_GET = do_HEAD = do_POST = do_PATCH = do_PUT = do_DELETE = do_OPTIONS = _forward  # noqa: N815

    def _refusal(self) -> str | None:
        """Why the gateway refuses the key or the token, or None if it accepts both."""
        key, authorization = self.headers.get("apikey", ""), self.headers.get("authorization", "")
        if authorization.lower().startswith(f"bearer {_NO_JWT}"):
            return "Invalid JWT: a publishable or secret key belongs into apikey"
        if key.startswith(_NO_JWT) and key not in self.server.tokens:
            return "Unregistered API key"
        # PostgREST itself refuses such a key, unless another token is the bearer token.
        is_known = key in self.server.tokens or key.count(".") == _DOTS_OF_A_JWT
        if authorization and not is_known and not authorization.endswith(key):
            return "Invalid API key"
        if key.startswith(_SECRET) and "Mozilla/" in self.headers.get("user-agent", ""):
            return "Forbidden use of secret API key in browser"
        return None

    def _send_request(self, upstream: http.client.HTTPConnection, path: str) -> None:
        upstream.putrequest(self.command, path, skip_accept_encoding=True)
        for name, value in self.headers.items():
            if name.lower() not in _HOP_BY_HOP:
                upstream.putheader(name, value)
        if "apikey" in self.headers and "authorization" not in self.headers:
            key = self.headers["apikey"]
            upstream.putheader("Authorization", f"Bearer {self.server.tokens.get(key, key)}")
        chunked = "chunked" in self.headers.get("transfer-encoding", "").lower()
        if chunked:
            upstream.putheader("Transfer-Encoding", "chunked")
        upstream.endheaders()
        for block in self._chunks() if chunked else self._blocks():
            upstream.send(_chunk(block) if chunked else block)
        if chunked:
            upstream.send(_chunk(b""))

    def _blocks(self) -> Iterator[bytes]:
        """The body of a request with Content-Length."""
        left = int(self.headers.get("content-length", 0))
        while left > 0 and (block := self.rfile.read1(min(left, _BLOCK))):
            left -= len(block)
            yield block

    def _chunks(self) -> Iterator[bytes]:
        """The body of a request that comes in chunks."""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass  # trailers

    def _send_response(self, response: http.client.HTTPResponse) -> None:
        # send_response would add a second Server and Date header to PostgREST's.
        self.send_response_only(response.status, response.reason)
        for name, value in response.getheaders():
            if name.lower() not in _HOP_BY_HOP:
                self.send_header(name, value)
        bodyless = self.command == "HEAD" or response.status in (204, 304)
        chunked = not bodyless and "content-length" not in response.headers
        if chunked:
            self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try:
            while not bodyless and (block := response.read1(_BLOCK)):
                self.wfile.write(_chunk(block) if chunked else block)
                self.wfile.flush()
        except (OSError, http.client.HTTPException):
            self.close_connection = True
            return
        if chunked:
            self.wfile.write(_chunk(b""))
        # Upstream ended before the whole body: close, so that the client does not wait for more.
        self.close_connection |= bool(response.length) and not bodyless

    def _fail(self, status: HTTPStatus, message: str) -> None:
        self.close_connection = True  # the request's body may still be unread
        body = json.dumps({"message": message}).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _chunk(block: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(block), block)

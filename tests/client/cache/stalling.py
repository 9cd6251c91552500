"""A network between a client and a server that can stop forwarding without closing anything."""

import contextlib
import selectors
import socket
import threading
import time
from typing import Self

from stack.ports import free_port


class StallingProxy:
    """A context manager that forwards TCP to a port of this machine.

    Attributes:
        port: The port on loopback where the proxy listens.
    """

    def __init__(self, target: int) -> None:
        self.port = free_port()
        self._target = target
        self._open = threading.Event()
        self._open.set()
        self._done = False
        self._drops = threading.Event()
        self._sockets: list[socket.socket] = []
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        """Begin to forward."""
        self._server = socket.create_server(("127.0.0.1", self.port))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Close everything."""
        self._done = True
        self._open.set()
        self._thread.join()

    def stall(self) -> None:
        """Stop forwarding, and keep the connections open."""
        self._open.clear()

    def flow(self) -> None:
        """Forward again, beginning with the data that was held back."""
        self._open.set()

    def move(self, target: int, *, keep: bool = False) -> None:
        """Forward new connections to another port.

        Args:
            target: The other port.
            keep: Whether open connections stay. If not, they are closed before this returns.
        """
        self._target = target
        if not keep:
            self._drops.set()
            while self._drops.is_set():
                time.sleep(0.005)

    def _run(self) -> None:
        with selectors.DefaultSelector() as selector, self._server:
            selector.register(self._server, selectors.EVENT_READ)
            while not self._done:
                for key, _ in selector.select(0.02):
                    # During a stall, the kernel's buffers hold the data that was sent.
                    self._open.wait()
                    if key.fileobj is self._server:
                        near, _address = self._server.accept()
                        try:
                            far = socket.create_connection(("127.0.0.1", self._target))
                        except OSError:  # The server is down.
                            near.close()
                            continue
                        self._sockets += [near, far]
                        selector.register(near, selectors.EVENT_READ, far)
                        selector.register(far, selectors.EVENT_READ, near)
                    else:
                        self._forward(selector, key)
                if self._drops.is_set():
                    for one in self._sockets:
                        with contextlib.suppress(OSError):
                            one.shutdown(socket.SHUT_RDWR)
                    self._drops.clear()
        for one in self._sockets:
            one.close()

    def _forward(self, selector: selectors.BaseSelector, key: selectors.SelectorKey) -> None:
        source, other = key.fileobj, key.data
        assert isinstance(source, socket.socket)
        data = b""
        with contextlib.suppress(OSError):
            data = source.recv(65536)
            if data:
                other.sendall(data)
        if not data:
            for one in (source, other):
                with contextlib.suppress(KeyError, ValueError):
                    selector.unregister(one)
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)

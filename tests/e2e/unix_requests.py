"""requests over a Unix socket: an adapter to mount, as any user of requests would write it."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

import urllib3
from requests.adapters import HTTPAdapter

if TYPE_CHECKING:
    import requests


class UnixAdapter(HTTPAdapter):
    """Send to the Unix socket at `path`, whatever host the URL names."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self._pool = _Pool("localhost", path)

    def get_connection_with_tls_context(self, *_: Any, **__: Any) -> urllib3.HTTPConnectionPool:
        return self._pool

    def close(self) -> None:
        self._pool.close()
        super().close()


class _Pool(urllib3.HTTPConnectionPool):
    def __init__(self, host: str, path: str) -> None:
        super().__init__(host)
        self._path = path

    def _new_conn(self) -> _Connection:
        return _Connection(self._path)


class _Connection(urllib3.connection.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost")
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(self._path)


def session_on(path: str, session: requests.Session) -> requests.Session:
    """Have `session` find the host `broker` at the socket."""
    session.mount("http://broker", UnixAdapter(path))
    return session

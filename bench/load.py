"""The load: a client that costs as little as Python allows, in a process of its own.

    python -I -S bench/load.py SOCKET CONNECTIONS SECONDS [--fresh] [--pause S] < REQUEST

Each connection sends the request read from stdin as soon as the last answer is whole; with `--fresh` over a new
connection each time, with `--pause` after a rest (for one connection). Prints one line: the answers' count, the
seconds, then the seconds that each of the quantiles 0.5, 0.99 and 1 took.
"""

from __future__ import annotations

import argparse
import select
import socket
import sys
import time

READ = 65536  # bytes; an answer is smaller


class Connection:
    """One connection and its request under way."""

    def __init__(self, path: str) -> None:
        """Connect."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.connect(path)
        self.sent = 0.0
        self.parts = b""


def length(answer: bytes) -> int | None:
    """Return the size that a whole answer has; `None` while its head is not whole. Raises for anything but success."""
    if not answer.startswith(b"HTTP/1.1 200"):
        raise SystemExit(f"the server answered {answer[:200]!r}")
    head, separator, _ = answer.partition(b"\r\n\r\n")
    if not separator:
        return None
    return len(head) + 4 + int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])


class Load:
    """All connections, and how long each answer took."""

    def __init__(self, path: str, request: bytes, *, fresh: bool) -> None:
        """Open nothing yet."""
        self.taken: list[float] = []
        self._path = path
        self._request = request
        self._fresh = fresh
        self._poll = select.poll()
        self._live: dict[int, Connection] = {}
        self._usual = 0  # the size that the last answer had, so that the next one's head need not be read

    def add(self) -> None:
        """Connect and ask; connecting counts."""
        started = time.perf_counter()
        connection = Connection(self._path)
        self._live[connection.sock.fileno()] = connection
        self._poll.register(connection.sock, select.POLLIN)
        connection.sock.sendall(self._request)
        connection.sent = started

    def turn(self) -> None:
        """Take what came, and ask again where an answer is whole."""
        for number, _ in self._poll.poll(1000):
            connection = self._live[number]
            data = connection.parts + connection.sock.recv(READ)
            if len(data) == self._usual or self._whole(data):
                connection.parts = b""
                self.taken.append(time.perf_counter() - connection.sent)
                self._again(connection)
            else:
                connection.parts = data

    def _whole(self, data: bytes) -> bool:
        size = length(data)
        if size is None or len(data) < size:
            return False
        self._usual = size
        return True

    def _again(self, connection: Connection) -> None:
        if self._fresh:
            self._poll.unregister(connection.sock)
            del self._live[connection.sock.fileno()]
            connection.sock.close()
            self.add()
        else:
            connection.sent = time.perf_counter()
            connection.sock.sendall(self._request)


def main() -> None:
    """Run, and print the line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("socket")
    parser.add_argument("connections", type=int)
    parser.add_argument("seconds", type=float)
    parser.add_argument("--fresh", action="store_true")
    parser.add_argument("--pause", type=float, default=0.0)
    options = parser.parse_args()
    request = sys.stdin.buffer.read()
    load = Load(options.socket, request, fresh=options.fresh)
    for _ in range(options.connections):
        load.add()
    start = time.perf_counter()
    while (spent := time.perf_counter() - start) < options.seconds:
        load.turn()
        if options.pause:
            time.sleep(options.pause)
    taken = load.taken
    taken.sort()
    quantiles = (taken[min(len(taken) - 1, int(len(taken) * share))] for share in (0.5, 0.99, 1.0))
    print(len(taken), spent, *quantiles)


if __name__ == "__main__":
    main()

"""The load: a client that costs as little as Python allows, in a process of its own.

    python -I -S bench/load.py SOCKET CONNECTIONS SECONDS [--fresh] [--pause S] < REQUEST

Each connection sends the request read from stdin as soon as the last answer is whole; with `--fresh` over a new
connection each time, with `--pause` after a rest. Prints one line: the answers' count, the seconds, then the seconds
that each of the quantiles 0.5, 0.99 and 1 took.
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


def run(path: str, request: bytes, connections: int, seconds: float, *, fresh: bool, pause: float) -> list[float]:
    """Ask for `seconds`; return how long each answer took."""
    taken: list[float] = []
    poll = select.poll()
    live: dict[int, Connection] = {}

    def ask(connection: Connection) -> None:
        connection.sent = time.perf_counter()
        connection.sock.sendall(request)

    def add() -> Connection:
        started = time.perf_counter()
        connection = Connection(path)
        live[connection.sock.fileno()] = connection
        poll.register(connection.sock, select.POLLIN)
        ask(connection)
        connection.sent = started
        return connection

    usual = 0  # the size that the last answer had, so that the next one's head need not be read
    for _ in range(connections):
        add()
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for number, _ in poll.poll(1000):
            connection = live[number]
            data = connection.parts + connection.sock.recv(READ)
            if len(data) != usual or data[:12] != b"HTTP/1.1 200":
                whole = length(data)
                if whole is None or len(data) < whole:
                    connection.parts = data
                    continue
                usual = whole
            connection.parts = b""
            taken.append(time.perf_counter() - connection.sent)
            if pause:
                time.sleep(pause)
            if fresh:
                poll.unregister(number)
                del live[number]
                connection.sock.close()
                add()
            else:
                ask(connection)
    return taken


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
    start = time.perf_counter()
    taken = run(
        options.socket, request, options.connections, options.seconds, fresh=options.fresh, pause=options.pause
    )
    spent = time.perf_counter() - start
    taken.sort()
    quantiles = (taken[min(len(taken) - 1, int(len(taken) * share))] for share in (0.5, 0.99, 1.0))
    print(len(taken), spent, *quantiles)


if __name__ == "__main__":
    main()

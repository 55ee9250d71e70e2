"""A program that needs an API and holds no credential: it asks `broker-token`, then calls. Development only.

Usage: python -m tokenbroker.dev.agent [--terminal PATH] [--bare] BROKER_TOKEN PROFILE URL [PATH]

With --terminal it first takes the terminal at PATH as its own, as a program does that a person starts; without, it
is what cron starts. With --bare it calls without asking for a token. Prints what happened, never the token, and ends
with the status of `broker-token`.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import subprocess
import sys
import termios
import urllib.error
import urllib.request


def main() -> int:
    """Run once."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--terminal")
    parser.add_argument("--bare", action="store_true")
    parser.add_argument("broker_token")
    parser.add_argument("profile")
    parser.add_argument("url")
    parser.add_argument("path", nargs="?", help="what to call, the profile's name if not given")
    arguments = parser.parse_args()
    if arguments.terminal:
        _take(arguments.terminal)
    headers = {}
    if not arguments.bare:
        asked = subprocess.run([arguments.broker_token, arguments.profile], capture_output=True, text=True, check=False)
        if asked.returncode:
            print(asked.stderr.strip())
            return asked.returncode
        headers["Authorization"] = f"Bearer {asked.stdout.strip()}"
    return _call(f"{arguments.url}/{arguments.path or arguments.profile}", headers)


def _call(url: str, headers: dict[str, str]) -> int:
    """Call the API and say what it answered."""
    request = urllib.request.Request(url, headers=headers)  # noqa: S310  # the demo's own loopback API
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:  # noqa: S310  # as above
            print(f"API {answer.status}: {json.dumps(json.load(answer))}")
    except urllib.error.HTTPError as error:
        print(f"API {error.code}: {error.headers.get('WWW-Authenticate')}")
        return 1
    return 0


def _take(path: str) -> None:
    """Make the terminal this session's own; the process must lead its session (credentials(7))."""
    terminal = os.open(path, os.O_RDWR)
    fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)


if __name__ == "__main__":
    sys.exit(main())

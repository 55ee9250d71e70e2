"""How long `broker-token PROFILE` takes from nothing, compared with the interpreter's own start.

Runs the installed command against a stand-in daemon that has the token at hand, alternating with
`python -I -S -c pass` of the same interpreter, so that whatever else the machine does hits both alike. Exit status 1
when the ratio is above the limit.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
LIMIT = 1.3  # times the interpreter's start


def milliseconds(argv: list[str], environ: dict[str, str]) -> float:
    """Run a program with stdout closed off; return how long it took. Raises if it fails."""
    quiet = [(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]
    start = time.perf_counter()
    pid = os.posix_spawn(argv[0], argv, environ, file_actions=quiet)
    _, status = os.waitpid(pid, 0)
    taken = time.perf_counter() - start
    if status:
        sys.exit(f"{' '.join(argv)} failed: {os.waitstatus_to_exitcode(status)}")
    return taken * 1000


def measure(commands: dict[str, list[str]], environ: dict[str, str], rounds: int) -> dict[str, list[float]]:
    """Run each command `rounds` times, in turn."""
    times: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(rounds):
        for name, argv in commands.items():
            times[name].append(milliseconds(argv, environ))
    return times


def main() -> int:
    """Measure, print a table, and compare with the limit."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--command", type=Path, default=Path(sys.prefix) / "bin" / "broker-token")
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--limit", type=float, default=LIMIT)
    options = parser.parse_args()
    python = str(options.command.parent / "python3")
    commands = {
        "python -I -S -c pass": [python, "-I", "-S", "-c", "pass"],
        "broker-token PROFILE": [str(options.command), "search"],
        "broker-token PROFILE --json": [str(options.command), "search", "--json"],
    }
    with tempfile.TemporaryDirectory(prefix="tb") as folder:
        environ = dict(os.environ) | {"BROKER_SOCKET": f"{folder}/b.sock"}
        daemon = subprocess.Popen(
            [sys.executable, "-m", "tests.standins.fake_daemon", environ["BROKER_SOCKET"]],
            cwd=ROOT,
            stdout=subprocess.PIPE,
        )
        try:
            assert daemon.stdout is not None
            daemon.stdout.readline()
            measure(commands, environ, 5)
            times = measure(commands, environ, options.rounds)
        finally:
            daemon.terminate()
            daemon.communicate()
    base, *_ = times.values()
    print(f"{'command':30}{'median ms':>10}{'fastest ms':>12}{'paired ratio':>14}")
    ratios = {}
    for name, taken in times.items():
        ratios[name] = statistics.median(one / other for one, other in zip(taken, base, strict=True))
        print(f"{name:30}{statistics.median(taken):10.2f}{min(taken):12.2f}{ratios[name]:14.3f}")
    kept = ratios["broker-token PROFILE"] <= options.limit
    print(f"limit {options.limit} x: {'kept' if kept else 'EXCEEDED'} ({options.rounds} rounds)")
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())

"""`make bench`: measure everything, print one table; what is missed stands in it, and is told once more below.

python -m bench [PART]…
"""

from __future__ import annotations

import importlib
import os
import platform
import sys
import time

from bench.report import Row, table

PARTS = (
    "command", "sockets", "scale", "burst", "lives", "day", "start", "prompts", "reading", "refusal", "stalls",
    "networks", "answers", "signing",
)  # fmt: skip


def main() -> None:
    """Run the parts named on the command line, all if none is."""
    wanted = sys.argv[1:] or PARTS
    unknown = [part for part in wanted if part not in PARTS]
    if unknown:
        sys.exit(f"bench: error: unknown part `{unknown[0]}`, expected one of {', '.join(PARTS)}")
    rows: list[Row] = []
    started = time.monotonic()
    for part in wanted:
        print(f"bench: {part} …", file=sys.stderr, flush=True)
        rows += importlib.import_module(f"bench.{part}").rows()
    machine = f"{platform.system()} {platform.release()}, Python {platform.python_version()}, {os.cpu_count()} cores"
    print(f"{machine}, load average {os.getloadavg()[0]:.1f}, {time.monotonic() - started:.0f} s\n\n{table(rows)}")
    judged = [row for row in rows if row.met is not None]
    missed = [row.what for row in judged if not row.met]
    print(f"\n{len(missed)} of {len(judged)} targets missed{''.join(f'; {what}' for what in missed)}")
    # No exit status says so: times depend on the machine and on what else it does; what must hold everywhere is a test


if __name__ == "__main__":
    main()

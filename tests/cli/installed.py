"""`broker-token` laid out as installers do it, and run."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

CLIENT = Path(__file__).parents[2] / "client"


def install(prefix: Path, *, editable: bool) -> Path:
    """Lay out a virtual environment with the command in it, as pip does, and return the command."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    packages = prefix / "lib" / version / "site-packages"
    packages.mkdir(parents=True)
    (prefix / "bin").mkdir()
    (prefix / "pyvenv.cfg").write_text(f"home = {Path(sys._base_executable).parent}\n")  # type: ignore[attr-defined]
    (prefix / "bin" / "python3").symlink_to(sys._base_executable)  # type: ignore[attr-defined]
    if editable:
        (packages / "_editable_impl_tokenbroker_client.pth").write_text(f"{CLIENT}\n")
    else:
        shutil.copytree(CLIENT / "tokenbroker_client", packages / "tokenbroker_client")
    return Path(shutil.copy(CLIENT / "bin" / "broker-token", prefix / "bin"))


def run(command: Path | str, *arguments: str, **environ: str) -> tuple[int, str, str]:
    """Run a command without a terminal and in no environment but the given one; return its transcript."""
    done = subprocess.run(
        [str(command), *arguments],
        env={"PATH": os.defpath, "HOME": "/nonexistent"} | environ,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=30,
    )
    return done.returncode, done.stdout, done.stderr

"""A real `systemd --user` for a user of its own, whatever process 1 is: needs root, leaves nothing behind.

    with SystemdUser.start() as user:
        (user.home / ".config/systemd/user/x.service").write_text(…)
        user.systemctl("start", "x.service")

The user has a uid without a name, a private home and runtime folder, and a control group. There is no journal, and no
limit of memory has effect. Processes and the network are those of the machine.
"""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOT: Final = Path(__file__).parents[2]
MANAGERS: Final = (Path("/usr/lib/systemd/systemd"), Path("/lib/systemd/systemd"))
PROGRAMS: Final = ("systemctl", "unshare", "nsenter", "setpriv", "mount")
PATH: Final = "/usr/local/bin:/usr/bin:/bin"
PATIENCE: Final = 20.0  # seconds that anything may take on a busy machine
_JOIN: Final = 'echo $$ > "$0"; exec "$@"'  # sh: enter a control group, become a program


class Unavailable(Exception):
    """This machine cannot run a user manager; the text says why."""


class SystemdUser:
    """A running user manager. `start` makes one."""

    def __init__(self, uid: int, folder: Path, holder: subprocess.Popen[str]) -> None:
        """Hold what `start` made."""
        self.uid = uid
        self.home = folder / "home"
        self.runtime = folder / "run"
        self._folder = folder
        self._holder = holder
        self._manager: subprocess.Popen[bytes] | None = None

    @classmethod
    def start(cls) -> Self:
        """Start a manager and wait until it is ready. Raises `Unavailable`."""
        manager = _manager()
        uid = next(uid for uid in range(59_000, 60_000) if not _named(uid))
        folder = Path(tempfile.mkdtemp(prefix="systemd-user-", dir="/tmp"))  # TMPDIR may be closed to others
        folder.chmod(0o755)
        for name in ("home", "run"):
            (folder / name).mkdir(mode=0o700)
            os.chown(folder / name, uid, uid)
        with ExitStack() as undo:
            undo.callback(shutil.rmtree, folder, ignore_errors=True)
            user = cls(uid, folder, _hold(uid, folder))
            undo.callback(user.close)
            user._start_manager(manager)
            undo.pop_all()
        return user

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End every process of the user and remove all that was made."""
        self._holder.communicate(timeout=PATIENCE)
        if self._manager is not None:
            self._manager.wait(PATIENCE)

    def command(self, *argv: str | Path) -> list[str]:
        """Return the command that runs `argv` as this user, with little more than a home in its environment."""
        return [
            *("nsenter", f"--mount=/proc/{self._holder.pid}/ns/mnt", f"--wd={self.home}"),
            *("setpriv", f"--reuid={self.uid}", f"--regid={self.uid}", "--clear-groups"),
            *("env", "-i", f"HOME={self.home}", f"XDG_RUNTIME_DIR={self.runtime}", f"PATH={PATH}"),
            *map(str, argv),
        ]

    def popen(self, *argv: str | Path) -> subprocess.Popen[str]:
        """Start a program as this user, without a terminal."""
        return subprocess.Popen(
            self.command(*argv),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *argv: str | Path) -> tuple[int, str, str]:
        """Run a program as this user and return exit status, stdout and stderr."""
        process = self.popen(*argv)
        try:
            out, err = process.communicate(timeout=PATIENCE)
        finally:
            process.kill()
            process.wait()
        return process.returncode, out, err

    def systemctl(self, *arguments: str) -> str:
        """Run `systemctl --user` and return what it prints; fails when it does."""
        code, out, err = self.run("systemctl", "--user", *arguments)
        assert code == 0, f"systemctl {' '.join(arguments)}: {err}\n{self.log()}"
        return out.strip()

    def show(self, unit: str, name: str) -> str:
        """Return one property of a unit."""
        return self.systemctl("show", "--value", f"--property={name}", unit)

    def wait_for(self, unit: str, name: str, *values: str, unlike: str | None = None) -> str:
        """Wait until a property has one of `values`, or any value but `unlike`, and return it."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            found = self.show(unit, name)
            if found in values or (unlike is not None and found not in {unlike, "0", ""}):
                return found
            time.sleep(0.05)
        raise AssertionError(f"{unit}: {name} stayed {found!r}\n{self.log()}")

    def log(self) -> str:
        """Return what came in the way of starting the manager; it has no journal to say more to."""
        return (self._folder / "log").read_text()

    def _start_manager(self, program: Path) -> None:
        """Start the manager in its control group and wait for its own word that it is ready (sd_notify(3))."""
        place = f"/sys/fs/cgroup/{self._folder.name}/manager/cgroup.procs"
        enter, argv = self.command()[:3], self.command(program, "--user")[3:]
        notify = self._folder / "notify"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready, (self._folder / "log").open("w") as log:
            ready.bind(str(notify))
            notify.chmod(0o666)
            ready.settimeout(0.2)
            argv.insert(argv.index("-i") + 1, f"NOTIFY_SOCKET={notify}")
            self._manager = subprocess.Popen(
                [*enter, "sh", "-c", _JOIN, place, *argv], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
            deadline = time.monotonic() + PATIENCE
            said = b""
            while b"READY=1" not in said.splitlines():
                if self._manager.poll() is not None or time.monotonic() > deadline:
                    raise Unavailable(f"systemd --user did not get ready: {self.log()[-500:]}")
                with suppress(TimeoutError):
                    said = ready.recv(4096)


def _manager() -> Path:
    """Return the manager's program. Raises `Unavailable`."""
    if sys.platform != "linux" or os.geteuid() != 0:
        raise Unavailable("a user manager of its own can be set up by root on Linux only")
    if missing := [name for name in PROGRAMS if shutil.which(name) is None]:
        raise Unavailable(f"not installed: {', '.join(missing)}")
    program = next((path for path in MANAGERS if path.exists()), None)
    if program is None:
        raise Unavailable("systemd is not installed")
    return program


def _named(uid: int) -> bool:
    try:
        pwd.getpwuid(uid)
    except KeyError:
        return False
    return True


def _hold(uid: int, folder: Path) -> subprocess.Popen[str]:
    """Start the process that holds the mount namespace and cleans up when its input ends. Raises `Unavailable`."""
    holder = subprocess.Popen(
        ["unshare", "--mount", "--propagation", "private", "sh", str(ROOT / "tests/standins/systemd_user.sh"),
         str(uid), str(folder), *_kept((ROOT, Path(sys.prefix), Path(sys.base_prefix)))],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,  # Ctrl-C is for the tests; this one still has to clean up
    )  # fmt: skip
    assert holder.stdout is not None
    if holder.stdout.readline() != "prepared\n":
        _, said = holder.communicate(timeout=PATIENCE)
        raise Unavailable(f"no namespace for a user manager can be made here: {said.strip()}")
    return holder


def _kept(places: Sequence[Path]) -> list[str]:
    """Return the folders that our programs need, without those that lie in another of them."""
    real = {place.resolve() for place in places}
    return sorted(str(place) for place in real if not real & set(place.parents))

"""The calls of `broker doctor op`: made here, judged in `op_grants.py`, watched by a person.

Rules of this file:
1. A call needs the authorization and gives away nothing: it lists the vaults past `op`'s cache, and what it prints is
   dropped. Of what it says on stderr only the scrubbed text leaves this file.
2. It runs the same program with the same environment as the daemon's reads do, in sessions made the same way.
3. Every call is bounded by `prompt_timeout`; cancelled, it leaves no child behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from typing import IO, TYPE_CHECKING, Any, Final

from tokenbroker.errors import UsageError, VaultError, VaultUnavailable
from tokenbroker.vaults.op.errors import Completed, general_error
from tokenbroker.vaults.op.grants import Place, Seen, Step
from tokenbroker.vaults.op.program import find_op, op_environment
from tokenbroker.vaults.op.runner import GRACE, OpRunner
from tokenbroker.vaults.op.scrub import scrub

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from tokenbroker.config import VaultConfig

ASK: Final = ("vault", "list", "--format", "json", "--cache=false")
LOOK: Final = ("account", "list", "--format", "json")  # asks nobody, and fails when the app cannot be reached
WHOAMI: Final = ("whoami", "--format", "json")  # asks nobody (contract 1.2)
WITHOUT_SETTINGS: Final = {"OP_LOAD_DESKTOP_APP_SETTINGS": "false"}  # contract 9.3
BESIDE: Final = ("/bin/sh", "-c", '"$@"; exit "$?"', "sh")  # a process in between, which a bare exec would not leave
IDLE: Final = 300.0  # seconds after which the daemon ends the sessions of an experiment that nobody goes on with
_LONGEST: Final = 64 * 1024  # bytes of stderr that are looked at


class Prober:
    """Makes calls, and keeps the sessions that they are made in until `close`."""

    def __init__(
        self, config: VaultConfig, *, environ: Mapping[str, str], home: Path, clock: Callable[[], float]
    ) -> None:
        """Start nothing yet. `clock` gives seconds that only grow."""
        self._config = config
        self._environ = environ
        self._home = home
        self._clock = clock
        self._sessions: dict[tuple[bool, int], OpRunner] = {}

    async def look(self) -> None:
        """See that `op` is there, that the app answers, and that there is an account; asks nobody.

        Raises `VaultError`.
        """
        done = await self._run(Step(Place.TERMINAL), LOOK)
        if done.failed:
            raise general_error(done)
        if done.stdout.strip() in {b"", b"[]", b"null"}:
            raise VaultUnavailable(
                "`op` knows no 1Password account",
                hint="turn on 1Password's Settings > Developer > Integrate with 1Password CLI",
            )

    async def call(self, step: Step, *, argv: Sequence[str] = ASK, extra: Mapping[str, str] | None = None) -> Seen:
        """Make one call and say what came of it; a failure is an outcome and raises nothing."""
        began = self._clock()
        text = ""
        try:
            done = await self._run(step, argv, extra)
            text = scrub(done.said, self._config.account or "")
            outcome = general_error(done).code if done.failed else "ok"
        except VaultError as error:
            outcome = error.code
        return Seen(outcome, self._clock() - began, text)

    async def close(self) -> None:
        """End the sessions. May be called twice."""
        sessions, self._sessions = self._sessions, {}  # one that is made meanwhile is somebody's who goes on
        await asyncio.gather(*(session.close() for session in sessions.values()))

    async def _run(self, step: Step, argv: Sequence[str], extra: Mapping[str, str] | None = None) -> Completed:
        program = find_op(self._config.op, self._environ, self._home)
        account = ["--account", self._config.account] if self._config.account else []
        whole = [*(BESIDE if step.caller > 1 else ()), str(program), *argv, *account]
        env = op_environment(self._environ, self._home) | dict(extra or {})
        if step.place is Place.OWN:
            return await _run_here(whole, env, self._config.prompt_timeout)
        terminal = step.place in {Place.TERMINAL, Place.SERVICE_TERMINAL}
        session = self._sessions.setdefault((terminal, step.session), OpRunner(terminal=terminal))
        return await session.run(whole, env=env, seconds=self._config.prompt_timeout)


async def _run_here(argv: Sequence[str], env: Mapping[str, str], seconds: float) -> Completed:
    """Run a program in the terminal of this process, as a shell would, dropping what it prints.

    Its stderr goes to a file without a name: a pipe could be held open for ever by the `op daemon` that it leaves.
    """
    with tempfile.TemporaryFile() as errors:
        try:
            process = await asyncio.create_subprocess_exec(
                *argv, env=dict(env), stdout=asyncio.subprocess.DEVNULL, stderr=errors
            )
        except OSError:
            raise VaultUnavailable("`op` cannot be started", hint="run `broker doctor`") from None
        try:
            async with asyncio.timeout(seconds):
                code: int | None = await process.wait()
        except TimeoutError:
            code = None
        finally:
            await _end(process)
        return Completed(code, stderr=_content(errors), timed_out=code is None)


async def _end(process: Process) -> None:
    for end in (process.terminate, process.kill):
        if process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            end()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(GRACE):
                await process.wait()


def _content(file: IO[bytes]) -> bytes:
    file.seek(0)
    return file.read(_LONGEST)


class ServiceProbe:
    """The running daemon's part: the same calls, as the service makes them, for `POST /v1/op-experiment`."""

    def __init__(
        self, config: VaultConfig, *, environ: Mapping[str, str], home: Path, clock: Callable[[], float]
    ) -> None:
        """Start nothing yet; arguments as `Prober` takes them."""
        self._prober = Prober(config, environ=environ, home=home, clock=clock)
        self._one_call = asyncio.Lock()  # each call may be a dialog
        self._life = 0  # how often it was closed
        self._end: asyncio.TimerHandle | None = None
        self._ending: asyncio.Task[None] | None = None

    async def answer(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Make the call that `body` asks for, and say what came of it.

        `{"setting": "terminal"|"plain", "session": 1|2, "caller": 1|2}` → the same and `{outcome, seconds, text}`;
        `{"setting": "end"}` ends the sessions. They also end by themselves. Calls wait for one another. Raises
        `UsageError`, and `VaultUnavailable` for a call that still waited when the sessions were ended.
        """
        step = _asked(body)
        if step is None:
            await self.close()
            return {"setting": "end"}
        seen = await self._in_turn(step)
        place = step.place.removeprefix("service-")
        made = {"setting": place, "session": step.session, "caller": step.caller}
        return {**made, "outcome": seen.outcome, "seconds": seen.seconds, "text": seen.text}

    async def close(self) -> None:
        """End the sessions and the call that runs in one; safe at any moment, and as often as one likes."""
        self._life += 1
        self._rest()
        await self._prober.close()

    async def _in_turn(self, step: Step) -> Seen:
        life = self._life
        async with self._one_call:
            if life != self._life:
                raise VaultUnavailable("the experiment was ended meanwhile", hint="run `broker doctor op` again")
            self._rest()
            try:
                return await self._prober.call(step)
            finally:
                if life == self._life:
                    self._end = asyncio.get_running_loop().call_later(IDLE, self._forget)

    def _rest(self) -> None:
        if self._end is not None:
            self._end.cancel()
            self._end = None

    def _forget(self) -> None:
        self._ending = asyncio.get_running_loop().create_task(self.close())


def _asked(body: Mapping[str, Any]) -> Step | None:
    setting, session, caller = body.get("setting"), body.get("session", 1), body.get("caller", 1)
    if setting == "end":
        return None
    places = {"terminal": Place.SERVICE_TERMINAL, "plain": Place.SERVICE_PLAIN}
    numbers = all(type(number) is int and number in {1, 2} for number in (session, caller))
    if not (isinstance(setting, str) and setting in places and numbers):
        raise UsageError("the request needs a `setting`: terminal, plain or end; `session` and `caller` are 1 or 2")
    return Step(places[setting], session, caller)

"""Where an access token comes from: the keyring, systemd, or an open descriptor; never the path of a file.

Rules of this file:
1. Nobody is asked: the clients that live on these tokens are those that nobody sits at.
2. What another user could have read or written is refused.
3. Nothing blocks the loop: each look-up has a thread of its own that ends by itself, and the wait for it is bounded.
4. What was read from a descriptor is kept, as it can be read once; everything else is read anew each time.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import re
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote

from tokenbroker.errors import PASSING, ConfigError, NoCredential, VaultError
from tokenbroker.model import Secret
from tokenbroker.vaults.credential import systemd as credential_systemd
from tokenbroker.vaults.credential.descriptor import HAND_OVER, read_to_end, take_over
from tokenbroker.vaults.credential.keyring import look_up

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    Source = Callable[[], Awaitable[Secret]]

MAX_BYTES: Final = 64 * 1024
FD_PATIENCE: Final = 60.0  # seconds for the writer of a descriptor: it may be a program that asks a person
PATIENCE: Final = 10.0  # seconds for the keyring, or a file of systemd
FIRST_FD: Final = 3
_FORMS: Final = "write it as `keyring://SERVICE/USERNAME`, `systemd://NAME` or `fd://N`"
_SYSTEMD_NAME = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9_.@-]{1,255}")


@dataclass(frozen=True, slots=True)
class _Place:
    """One `where`, taken apart."""

    where: str
    scheme: str
    names: tuple[str, ...]

    @property
    def next_step(self) -> str:
        """The command by which a token gets there."""
        if self.scheme == "keyring":
            service, username = self.names
            return f'run `keyring set "{service}" "{username}"`'
        return credential_systemd.next_step(self.names[0]) if self.scheme == "systemd" else HAND_OVER


class CredentialSources:
    """Access tokens by the text under `credential` of a configuration.

    Made once, by the daemon; it outlives configurations, so that a reload finds what came through a descriptor.
    """

    def __init__(
        self,
        environ: Mapping[str, str],
        uid: int,
        *,
        keyring: Callable[[str, str], str | None] = look_up,
        fd_patience: float = FD_PATIENCE,
        patience: float = PATIENCE,
    ) -> None:
        """Read nothing yet. `uid` is whose files are trusted, besides root's; `keyring` looks an entry up, blocking."""
        self._environ = environ
        self._uid = uid
        self._keyring = keyring
        self._fd_patience = fd_patience
        self._patience = patience
        self._from_fd: dict[int, concurrent.futures.Future[Secret]] = {}
        self._running: dict[str, concurrent.futures.Future[Secret]] = {}

    def source(self, where: str) -> Source:
        """Return what gives the token kept at `where`, each time it is awaited; that raises a `VaultError`.

        A descriptor begins to be read now. Raises `ConfigError` when `where` is none of the three forms,
        `NoCredential` when it is a descriptor that is not open, or not safe.
        """
        place = _parse(where)
        if place.scheme == "fd":
            number = int(place.names[0])
            if number not in self._from_fd:
                take_over(number, self._uid)
                self._from_fd[number] = _in_thread(lambda: self._from_descriptor(place))
            return lambda: self._wait(place, self._from_fd[number])
        return lambda: self._look_up(place)

    async def _look_up(self, place: _Place) -> Secret:
        earlier = self._running.get(place.where)
        if earlier is None or earlier.done():
            work = self._from_keyring if place.scheme == "keyring" else self._from_systemd
            earlier = self._running[place.where] = _in_thread(lambda: work(place))
            earlier.add_done_callback(lambda done: self._forget(place, done))
        return await self._wait(place, earlier)

    def _forget(self, place: _Place, done: concurrent.futures.Future[Secret]) -> None:
        """Keep no token that can be read anew; called in the thread."""
        if self._running.get(place.where) is done:
            del self._running[place.where]

    async def _wait(self, place: _Place, reading: concurrent.futures.Future[Secret]) -> Secret:
        limit = self._fd_patience if place.scheme == "fd" else self._patience
        try:
            async with asyncio.timeout(limit):
                waited = asyncio.wrap_future(reading)
                waited.add_done_callback(_retrieve)
                return await asyncio.shield(waited)
        except TimeoutError:
            raise NoCredential(
                f"{place.where}: no token came within {limit:g} s",
                hint=place.next_step,
                retry_after=None if place.scheme == "fd" else PASSING,
            ) from None
        except VaultError as error:
            raise error.anew() from None

    def _from_descriptor(self, place: _Place) -> Secret:
        raw = read_to_end(int(place.names[0]), MAX_BYTES + 1, self._fd_patience)
        return checked(raw, place.where, place.next_step)

    def _from_keyring(self, place: _Place) -> Secret:
        value = self._keyring(*place.names)
        if not value:
            raise NoCredential(f"{place.where}: the keyring has no such entry", hint=place.next_step)
        return checked(value.encode("utf-8", "surrogatepass"), place.where, place.next_step)

    def _from_systemd(self, place: _Place) -> Secret:
        folder = self._environ.get("CREDENTIALS_DIRECTORY")
        raw = credential_systemd.read(folder, place.names[0], self._uid, MAX_BYTES + 1)
        return checked(raw, place.where, place.next_step)


def checked(raw: bytes, where: str, hint: str) -> Secret:
    """Return the token in `raw`, without the line end that editors add. Raises `NoCredential` if it is none."""
    text = raw.removesuffix(b"\n").removesuffix(b"\r")
    if len(raw) > MAX_BYTES:
        problem = f"is longer than {MAX_BYTES // 1024} KiB"
    elif not text.strip():
        problem = "is empty"
    else:
        try:
            token = text.decode()
        except UnicodeDecodeError:
            problem = "is not text"
        else:
            if token.isprintable():
                return Secret(token)
            problem = "holds control characters, or more than one line"
    raise NoCredential(f"{where}: what is kept there is no token: it {problem}", hint=hint)


def _parse(where: str) -> _Place:
    scheme, separator, rest = where.partition("://")
    names = tuple(rest.split("/"))
    if separator and scheme == "keyring" and len(names) == 2 and all(names):  # noqa: PLR2004  # the two that are named
        return _Place(where, scheme, tuple(map(unquote, names)))
    if separator and scheme == "systemd" and _SYSTEMD_NAME.fullmatch(rest):
        return _Place(where, scheme, (rest,))
    if separator and scheme == "fd" and re.fullmatch(r"[1-9]\d{0,6}|0", rest) and int(rest) >= FIRST_FD:
        return _Place(where, scheme, (rest,))
    # What was found is not shown: it may be the token itself.
    raise ConfigError("vault.credential: not a place where a token can be kept", hint=_FORMS)


def _retrieve(waited: asyncio.Future[Secret]) -> None:
    """Take note of how it ended: who waited may have gone away, and asyncio would log that with a traceback."""
    if not waited.cancelled():
        waited.exception()


def _in_thread(work: Callable[[], Secret]) -> concurrent.futures.Future[Secret]:
    """Run `work` in a thread that does not keep the program from ending, as one of an executor would."""
    future: concurrent.futures.Future[Secret] = concurrent.futures.Future()

    def run() -> None:
        try:
            future.set_result(work())
        except VaultError as error:
            future.set_exception(error.anew())
        except Exception as error:  # noqa: BLE001  # libraries raise what they like; its text may hold anything
            future.set_exception(
                NoCredential(f"the token cannot be read: {type(error).__name__}", hint="run `broker doctor`")
            )

    threading.Thread(target=run, name="credential", daemon=True).start()
    return future

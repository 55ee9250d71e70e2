"""The system's keyring: `keyring://SERVICE/USERNAME`, percent-encoded, through the `keyring` library.

Rules of this file:
1. Only backends on the allow-list are asked. The library picks by itself what it finds, and with `keyrings.alt`
   installed and no desktop that is a plain-text file (contract os.md 4).
2. The library blocks, perhaps on a dialog, so it runs in a thread, and the wait is bounded. A thread cannot be ended:
   while one is still stuck no other is started, so that dialogs do not pile up.
3. The library's error texts stay here: they may hold anything.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote

from tokenbroker.errors import PromptDismissed, PromptUnanswered, SecretNotFound, VaultError, VaultUnavailable
from tokenbroker.model import Secret

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping

    from tokenbroker.config import VaultConfig
    from tokenbroker.model import RateLimit, SecretRef

SCHEME = "keyring://"
TIMEOUT = 70.0  # seconds; as long as the prompt of 1Password, for the person is the same
_CHAINER = "keyring.backends.chainer.ChainerBackend"
ALLOWED = frozenset({
    "keyring.backends.macOS.Keyring",
    "keyring.backends.SecretService.Keyring",
    "keyring.backends.libsecret.Keyring",
    "keyring.backends.kwallet.DBusKeyring",
    "keyring.backends.kwallet.DBusKeyringKWallet4",
})  # fmt: skip

Answers = dict["SecretRef", "Secret | VaultError"]
_KEYCHAIN: Final = threading.Lock()
"""Of the process, as is macOS's switch for the Keychain's dialogs: one look-up wants them, another does not."""


@contextlib.contextmanager
def keychain_alone(platform: str) -> Iterator[None]:
    """Wait until nobody else in this process looks up in macOS's Keychain; elsewhere nobody has to wait."""
    with _KEYCHAIN if platform == "darwin" else contextlib.nullcontext():
        yield


def full_name(backend: object) -> str:
    """Return the full name of the backend's own class; a subclass of an allowed one has another."""
    kind = type(backend)
    return f"{kind.__module__}.{kind.__qualname__}"


def is_allowed(backend: Any) -> bool:
    """Tell whether `backend` encrypts what it keeps; of a chain, whether every link does."""
    name = full_name(backend)
    if name == _CHAINER:
        return bool(backend.backends) and all(full_name(link) in ALLOWED for link in backend.backends)
    return name in ALLOWED


def parse_reference(ref: SecretRef) -> tuple[str, str] | None:
    """Return service and user name; `None` when `ref` is not `keyring://SERVICE/USERNAME`."""
    parts = ref.uri.removeprefix(SCHEME).split("/")
    if not ref.uri.startswith(SCHEME) or len(parts) != 2 or not all(parts):  # noqa: PLR2004  # the two that are named
        return None
    return unquote(parts[0]), unquote(parts[1])


class KeyringVault:
    """The `Vault` port over the system's keyring."""

    def __init__(
        self,
        *,
        backend: Any | None = None,
        allow: Callable[[Any], bool] = is_allowed,
        timeout: float = TIMEOUT,
    ) -> None:
        """Load nothing yet. `backend` is a `KeyringBackend`; `None` takes the one that the library picks."""
        self._backend = backend
        self._allow = allow
        self._timeout = timeout
        self._stuck: threading.Thread | None = None

    @property
    def name(self) -> str:
        """The configuration's name of this backend."""
        return "keyring"

    @property
    def may_prompt(self) -> bool:
        """Always: a locked keyring, or macOS for an unknown program, shows a dialog."""
        return True

    @property
    def limits(self) -> tuple[RateLimit, ...]:
        """None."""
        return ()

    async def read(
        self, refs: Collection[SecretRef], *, fresh: bool = False
    ) -> Mapping[SecretRef, Secret | VaultError]:
        """Read all of `refs`, as `ports.Vault` says.

        Cancelling stops before the next entry; a dialog that is open stays until the person closes it.
        """
        del fresh  # there is no cache
        if self._stuck is not None and self._stuck.is_alive():
            raise PromptUnanswered(
                "the keyring is still waiting for an earlier dialog", hint="answer the dialog, then run `broker unlock`"
            )
        given_up = threading.Event()
        try:
            async with asyncio.timeout(self._timeout):
                return await self._in_thread(lambda: self._look_up(refs, given_up))
        except TimeoutError:
            raise PromptUnanswered(
                f"the keyring did not answer within {self._timeout:g} s; its dialog may still be on the screen",
                hint="answer or close the dialog, then run `broker unlock`",
            ) from None
        finally:
            given_up.set()

    async def probe(self) -> str:
        """Return the name of the keyring's backend. Raises `VaultUnavailable` when there is none that may be used."""
        try:
            async with asyncio.timeout(self._timeout):
                return await asyncio.to_thread(self._backend_name)
        except VaultError:
            raise
        except Exception as error:  # noqa: BLE001  # backends raise D-Bus errors and others of their own
            raise VaultUnavailable(
                f"the keyring cannot be used: {type(error).__name__}", hint="run `keyring diagnose`"
            ) from None

    def _backend_name(self) -> str:
        from keyring import get_keyring  # noqa: PLC0415  # heavy, and only for those who use it

        backend = self._backend if self._backend is not None else get_keyring()
        self._refuse_foreign(backend)
        return full_name(backend)

    def adjust(self, config: VaultConfig) -> None:
        """Take over other bounds of time."""
        self._timeout = config.prompt_timeout

    async def lock(self) -> None:
        """Nothing is held: the keyring is the system's to lock."""

    async def close(self) -> None:
        """Forget the backend. May be called twice."""
        self._backend = None

    async def _in_thread(self, work: Callable[[], Answers]) -> Answers:
        """Run `work` in a thread that does not keep the program from ending, as one of an executor would."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Answers] = loop.create_future()

        def settle(answers: Answers | None, error: BaseException | None) -> None:
            if future.done():
                return
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(answers or {})

        def run() -> None:
            answers, problem = None, None
            try:
                answers = work()
            except Exception as error:  # noqa: BLE001  # handed over to the caller, whatever it is
                problem = error
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(settle, answers, problem)

        self._stuck = threading.Thread(target=run, name="keyring", daemon=True)
        self._stuck.start()
        return await future

    def _look_up(self, refs: Collection[SecretRef], given_up: threading.Event) -> Answers:
        """Read entry after entry, in the thread."""
        from keyring import errors, get_keyring  # noqa: PLC0415  # heavy, and only for those who use it

        try:
            backend = self._backend if self._backend is not None else get_keyring()
            self._refuse_foreign(backend)
            with keychain_alone(sys.platform):
                return {ref: _entry(backend, ref) for ref in refs if not given_up.is_set()}
        except errors.KeyringLocked:
            raise PromptDismissed(
                "the keyring stayed locked: its dialog was refused or could not be shown",
                hint="unlock the keyring, then run `broker unlock`",
            ) from None
        except VaultError:
            raise
        except Exception as error:  # noqa: BLE001  # backends raise D-Bus errors and others of their own
            raise VaultUnavailable(
                f"the keyring cannot be read: {type(error).__name__}", hint="run `keyring diagnose`"
            ) from None

    def _refuse_foreign(self, backend: Any) -> None:
        if not self._allow(backend):
            raise VaultUnavailable(
                f"keyring backend {full_name(backend)} is not one that keeps secrets encrypted, and is not used",
                hint="run `keyring --list-backends`, then set PYTHON_KEYRING_BACKEND to the system's own"
                " in the environment of the daemon",
            )


def _entry(backend: Any, ref: SecretRef) -> Secret | VaultError:
    parsed = parse_reference(ref)
    if parsed is None:
        return SecretNotFound(f"{ref}: not a keyring reference", hint="write it as `keyring://SERVICE/USERNAME`")
    value = backend.get_password(*parsed)
    if not value:
        service, username = parsed
        return SecretNotFound(
            f"{ref}: the keyring has no such entry", hint=f'run `keyring set "{service}" "{username}"`'
        )
    return Secret(value)

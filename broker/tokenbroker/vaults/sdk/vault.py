"""1Password through its SDK and the desktop app: one process that the app authorizes, all references in one call.

Rules of this file:
1. The process is kept until a lock, as the app's authorization is its own: a new process means a new prompt. Else it is
   ended only when it hangs, dies, or has lost the app; the log and the error say so.
2. One read makes one call; nothing is tried again here. The SDK itself asks the app once more when the session has
   expired, which is the read's one prompt.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from tokenbroker.errors import Locked, PromptUnanswered, VaultError, VaultUnavailable
from tokenbroker.model import Secret
from tokenbroker.vaults.helper import Helper, HelperLost
from tokenbroker.vaults.json_answer import is_text
from tokenbroker.vaults.left_dialog import LeftDialog, beside
from tokenbroker.vaults.op.program import SANE_PATH
from tokenbroker.vaults.sdk import process as sdk_process
from tokenbroker.vaults.sdk.errors import ENDS_PROCESS, UNLOCK, failure, problem, refuse

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

    from tokenbroker.config import VaultConfig
    from tokenbroker.model import RateLimit, SecretRef
    from tokenbroker.ports import Clock

GRACE = 1.5  # seconds for a cancelled call to end by itself, which saves the authorization, and for the process to exit
PROBE_TIMEOUT = 10.0  # seconds to start Python and load the SDK

_PASSED = frozenset({
    "HOME", "USER", "LOGNAME", "LANG", "TMPDIR",
    "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "DBUS_SESSION_BUS_ADDRESS", "DISPLAY", "WAYLAND_DISPLAY", "XAUTHORITY",
})  # fmt: skip

log = logging.getLogger(__name__)


def sdk_environment(environ: Mapping[str, str], home: Path) -> dict[str, str]:
    """Return the whole environment of the process, made from the daemon's `environ` by an allow-list."""
    passed = {name: value for name, value in environ.items() if name in _PASSED or name.startswith("LC_")}
    return passed | {"HOME": str(home), "PATH": SANE_PATH}


class SdkVault:
    """The `Vault` port over the SDK's desktop authorization."""

    def __init__(
        self,
        config: VaultConfig,
        *,
        environ: Mapping[str, str],
        home: Path,
        clock: Clock | None = None,
        grace: float = GRACE,
        library: Path | None = None,
    ) -> None:
        """Start nothing yet. `library` is for tests: a stand-in for the app's library, which the SDK else finds."""
        self._account = config.account or ""  # the configuration is refused without one
        self._patience = config.prompt_timeout
        self._grace = grace
        self._dialog = LeftDialog(clock)
        self._helper = Helper(
            [sdk_process.__file__, *([str(library)] if library else [])],
            task="uses 1Password's SDK", grace=grace, env=sdk_environment(environ, home),
        )  # fmt: skip

    @property
    def name(self) -> str:
        """The configuration's name of this backend."""
        return "sdk"

    @property
    def may_prompt(self) -> bool:
        """Always: the app decides when it asks, and no option of the SDK forbids it."""
        return True

    @property
    def limits(self) -> tuple[RateLimit, ...]:
        """None that the SDK tells."""
        return ()

    async def read(
        self, refs: Collection[SecretRef], *, fresh: bool = False
    ) -> Mapping[SecretRef, Secret | VaultError]:
        """Read all of `refs`, as `ports.Vault` says.

        When cancelled, waits a moment for the call to end; if it does not, ends the process, and the authorization
        with it. A dialog that is open then stays until the person closes it.
        """
        del fresh  # the SDK has no cache; the app's own is kept current by the app
        refused = {ref: refuse(ref) for ref in refs}
        answers: dict[SecretRef, Secret | VaultError] = {ref: error for ref, error in refused.items() if error}
        asked = [ref for ref, error in refused.items() if error is None]
        if asked:
            found = await self._open({"account": self._account, "refs": [ref.uri for ref in asked]})
            answers |= {ref: _answer(ref, found) for ref in asked}
        return answers

    async def _open(self, request: dict[str, Any]) -> dict[str, Any]:
        """Make the call that may show a dialog, and note whether that stays on the screen."""
        older = self._dialog.may_be_there
        if older:
            log.warning("An older 1Password dialog may still be on the screen; what is answered there is lost")
        try:
            found = await self._ask(request, self._patience)
        except asyncio.CancelledError:
            self._dialog.leave()
            raise
        except Locked as error:
            if isinstance(error, PromptUnanswered):
                self._dialog.leave()
            if older:
                raise beside(error, UNLOCK) from None
            raise
        self._dialog.clear()
        return found

    async def probe(self) -> str:
        """Return the version of the SDK when it and the app are installed. Never prompts; for `broker doctor`.

        Raises `VaultNotInstalled`, or `VaultUnavailable` when the process does not say.
        """
        return str((await self._ask({"probe": True}, PROBE_TIMEOUT))["version"])

    def adjust(self, config: VaultConfig) -> None:
        """Take over other bounds of time."""
        self._patience = config.prompt_timeout

    async def lock(self) -> None:
        """End the process that the app gave its authorization to."""
        await self.close()

    async def close(self) -> None:
        """End the process, and the app's authorization with it. May be called twice; a later read starts anew."""
        await self._helper.end()

    async def _ask(self, request: dict[str, Any], seconds: float) -> dict[str, Any]:
        try:
            answer = await self._helper.call(request, lambda frame: frame, seconds=seconds, patience=self._grace)
        except HelperLost as lost:
            raise _explained(lost, seconds, prompted="refs" in request) from None
        if "failure" not in answer:
            return answer
        kind = answer["failure"]
        if kind in ENDS_PROCESS:
            log.info("Ended the process that uses 1Password's SDK, a new one will ask again: %s", kind)
            await self._helper.end()
        raise failure(kind, answer.get("number"))


def _answer(ref: SecretRef, found: dict[str, Any]) -> Secret | VaultError:
    """Return what the app gave for `ref`; an empty value is an error and never an empty secret."""
    value = found["values"].get(ref.uri)
    kind = found["problems"].get(ref.uri)
    return Secret(value) if is_text(value) and value else problem(ref, kind if isinstance(kind, str) else None)


def _explained(lost: HelperLost, seconds: float, *, prompted: bool) -> VaultError:
    """Say what it means that the process is gone, and that a new one will ask the person again."""
    if lost.late and prompted:
        log.warning("Ended the process that uses 1Password's SDK, as it hung; its dialog may still be on the screen")
        return PromptUnanswered(
            f"1Password did not answer its SDK within {seconds:g} s and the process was ended; its dialog may still be"
            " on the screen, and answering it now has no effect",
            hint=f"close the dialog, then {UNLOCK}, which asks again; if that hangs too, restart the 1Password app",
        )
    return VaultUnavailable(
        "the process that uses 1Password's SDK ended before its answer; the next attempt asks for approval again",
        hint=f"{UNLOCK} again",
    )

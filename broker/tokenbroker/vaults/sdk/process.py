"""The helper process in which 1Password's SDK runs: what the 1Password app authorizes, until a lock.

The app gives its authorization to an account and a process, for ten minutes without use (contract 5). The SDK's calls
are blocking calls into the app's own library and may hang for ever, so they are made here, where a hang can be ended.

Started as `python -I sdk/process.py [LIBRARY]`; LIBRARY is for tests, a stand-in for the library of the app. Rules:
1. No text of the SDK, the app or an exception leaves this process: it may hold values. Kinds of failure do.
2. It authenticates when it has no client, once for each request, and never tries again by itself. The SDK does so once,
   when the app says that the session is over.
3. When the daemon's end of stdin closes, the process ends at once, whatever the SDK is doing. The SDK's finalizers do
   not run: they would call into the library again.

Frames as in `op_terminal`. Requests: `{account, refs}` and `{"probe": True}`. Answers: `{values, problems}` (by
reference: the value, the kind of error), `{version}`, or `{failure, number}` when nothing could be read.
"""

from __future__ import annotations

import asyncio
import marshal
import os
import queue
import re
import sys
import threading
from typing import TYPE_CHECKING, Any

from tokenbroker import __version__
from tokenbroker.vaults.op.terminal import HEADER, close_memory, frame, keep_private, send

if TYPE_CHECKING:
    from collections.abc import Sequence

INTEGRATION = "tokenbroker"  # shown by the app in its prompt

# What an error of the whole call says → its kind. The first four are the SDK's own words; how the app words a refused
# prompt is not known, so it is recognized broadly (contract 5, [guess]).
_SAID = (
    (r"channel is closed", "disconnected"),
    (r"unexpectedly dropped", "disconnected"),
    (r"return code: -[2357]$", "disconnected"),  # the other system's numbers for the two above
    (r"return code:", "internal"),
    (r"(authorization|authentication|prompt|dialog)\w* .*(time ?out|timed out)", "unanswered"),
    (r"\b((?<!permission )denied|dismissed|cancell?ed|declined|rejected|refused by the user)\b", "dismissed"),
    (r"\b(is|are) locked\b", "locked"),
)


def classify(error: Exception) -> dict[str, Any]:
    """Say what kind of failure this is, without any of its text; `number` is a return code of the library."""
    kinds = {
        "DesktopSessionExpiredException": "expired", "RateLimitExceededException": "limited",
        "ValidationError": "garbled", "JSONDecodeError": "garbled", "UnicodeDecodeError": "garbled",
    }  # fmt: skip
    if isinstance(error, ImportError):
        missing = isinstance(error, ModuleNotFoundError) and (error.name or "").partition(".")[0] == "onepassword"
        return {"failure": "package-missing" if missing else "package-broken"}
    if isinstance(error, FileNotFoundError):
        return {"failure": "no-app"}
    if isinstance(error, OSError) or (isinstance(error, AttributeError) and "symbol" in str(error)):
        return {"failure": "library"}  # ctypes could not load it, or did not find the SDK's functions in it
    known = kinds.get(type(error).__name__)
    if known is not None:
        return {"failure": known}
    # References and other quoted names are the user's words, not the app's.
    said = re.sub(r"op://\S*|\"[^\"]*\"|(?<!\w)'[^']*'(?!\w)", "…", str(error))
    number = re.search(r"return code: (-?\d+)", said)
    kind = next((kind for pattern, kind in _SAID if re.search(pattern, said, re.IGNORECASE)), "unknown")
    return {"failure": kind, "number": int(number[1]) if number else None}


class Reader:
    """The SDK's client, kept between requests."""

    def __init__(self, library: str | None) -> None:
        """Load nothing yet."""
        self._library = library
        self._client: Any = None

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Do what is asked and return the answer. Never raises."""
        try:
            if "probe" in request:
                return self._probe()
            return asyncio.run(self._read(request["account"], request["refs"]))
        except Exception as error:  # noqa: BLE001  # the SDK raises plain `Exception`
            failed = classify(error)
            # A rate limit says nothing against the client; after anything else the next request asks for a new one,
            # as an app that was started anew does not know the old one.
            if failed["failure"] != "limited":
                self._client = None
            return failed

    def _probe(self) -> dict[str, Any]:
        from importlib.metadata import version  # noqa: PLC0415  # only here

        self._imported().find_1password_lib_path()
        return {"version": version("onepassword-sdk")}

    def _imported(self) -> Any:
        """Return the SDK's module that finds and loads the app's library."""
        from onepassword import desktop_core  # noqa: PLC0415  # heavy, and perhaps not installed

        library = self._library
        if library is not None:
            desktop_core.find_1password_lib_path = lambda: library
        return desktop_core

    async def _read(self, account: str, refs: Sequence[str]) -> dict[str, Any]:
        if self._client is None:
            self._imported()
            from onepassword.client import Client, DesktopAuth  # noqa: PLC0415  # as above

            self._client = await Client.authenticate(
                auth=DesktopAuth(account), integration_name=INTEGRATION, integration_version=__version__
            )
            # Not before: the app may look up which program asks, to show it in its prompt. Nothing secret came so far.
            close_memory()
        found = (await self._client.secrets.resolve_all(list(refs))).individual_responses
        return {
            "values": {ref: one.content.secret for ref, one in found.items() if one.content is not None},
            "problems": {ref: str(one.error.type.value) for ref, one in found.items() if one.error is not None},
        }


def take_pipes() -> tuple[int, int]:
    """Return the daemon's pipes under other numbers: whatever reads or prints in this process meets /dev/null."""
    pipes = os.dup(0), os.dup(1)
    null = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(null, standard)
    os.close(null)
    return pipes


def follow(pipe: int, requests: queue.SimpleQueue[dict[str, Any]]) -> None:
    """Pass requests on until the daemon is gone; then end the process, from this thread, as the other may hang."""
    with os.fdopen(pipe, "rb") as stream:
        while len(header := stream.read(HEADER.size)) == HEADER.size:
            requests.put(marshal.loads(stream.read(HEADER.unpack(header)[0])))  # noqa: S302  # from the daemon, our parent
    os._exit(0)


def main() -> None:
    """Answer requests until the daemon goes away."""
    keep_private()
    incoming, outgoing = take_pipes()
    requests: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    threading.Thread(target=follow, args=(incoming, requests), daemon=True).start()
    reader = Reader(sys.argv[1] if len(sys.argv) > 1 else None)
    while True:
        send(outgoing, frame(reader.answer(requests.get())))


if __name__ == "__main__":
    main()

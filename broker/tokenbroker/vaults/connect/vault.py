"""1Password through a Connect server: nobody is asked, and each item is read once.

Rules of this file:
1. Names are compared here and never sent: how the server's filter treats case and quotes is not documented, and the
   SDK sends it unescaped. So a read is one listing of vaults, one of items for each vault in which an item is named by
   its title, and each item once.
2. What concerns one vault or item (400, 403, 404) is the error of its references. All else ends the read.
3. A session lives for one read: reads are hours apart, and the machine may sleep.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from tokenbroker.errors import PASSING, SecretAmbiguous, SecretNotFound, VaultError, VaultNotInstalled, VaultUnavailable
from tokenbroker.model import Secret
from tokenbroker.vaults.connect.answers import UNLOCK, Absent, Item, TokenRefused, TooBig, file_named, is_id, named
from tokenbroker.vaults.op.item import pick
from tokenbroker.vaults.op.reference import OpReference, parse_reference

if TYPE_CHECKING:
    from collections.abc import Awaitable, Collection, Coroutine, Iterable, Mapping, Sequence

    from tokenbroker.config import VaultConfig
    from tokenbroker.model import RateLimit, SecretRef
    from tokenbroker.vaults.connect.api import ConnectApi

PACKAGE = "onepasswordconnectsdk>=2.1.1,<2.2"
"""What the extra `connect` installs."""
_CONTENT = {None, "attribute=content"}
OVERALL = 4  # times `timeout`: what a read may take that needs several calls

Answers = dict["SecretRef", "Secret | VaultError"]
Outcome = Item | Callable[[OpReference], VaultError]
"""An item that was read, or how to say of a reference why it was not."""
T = TypeVar("T")


class ConnectVault:
    """The `Vault` port over a Connect server."""

    def __init__(self, config: VaultConfig, *, credential: Callable[[], Awaitable[Secret]]) -> None:
        """Open nothing yet. `credential` gives the access token, or raises `VaultError`."""
        self._config = config
        self._credential = credential
        self._token: Secret | None = None

    @property
    def name(self) -> str:
        """The configuration's name of this backend."""
        return "connect"

    @property
    def may_prompt(self) -> bool:
        """Never: the server holds the access."""
        return False

    @property
    def limits(self) -> tuple[RateLimit, ...]:
        """None that is documented."""
        return ()

    async def read(
        self, refs: Collection[SecretRef], *, fresh: bool = False
    ) -> Mapping[SecretRef, Secret | VaultError]:
        """Read all of `refs`, as `ports.Vault` says. The server's own cache cannot be gone past."""
        del fresh
        parsed = {ref: parse_reference(ref) for ref in refs}
        waiting = [one for one in parsed.values() if one is not None]
        found = await self._with_api(lambda api: _read(api, waiting)) if waiting else {}
        return {ref: found[ref] if one else _unreadable(ref) for ref, one in parsed.items()}

    async def probe(self) -> str:
        """Return version and state of the server in a few words, reading no item; for `broker doctor`.

        Raises `VaultError` when it cannot be reached, or refuses the access token.
        """
        return await self._with_api(_probe)

    def adjust(self, config: VaultConfig) -> None:
        """Take over other bounds of time."""
        self._config = config

    async def lock(self) -> None:
        """Forget the access token."""
        await self.close()

    async def close(self) -> None:
        """Forget the access token. May be called twice; a later read asks for it anew."""
        self._token = None

    async def _with_api(self, work: Callable[[ConnectApi], Awaitable[T]]) -> T:
        """Do `work`; when the token is refused, once more with the token as it is kept now.

        Also if it is the same: before 1.7.2 a server's first answer could be a false 401 (contract 4).
        """
        for token in (self._token, None):
            token = token or await self._credential()  # noqa: PLW2901  # the one at hand, then the one that is kept
            try:
                done = await self._once(token, work)
            except TokenRefused:
                continue
            self._token = token
            return done
        raise VaultUnavailable(
            f"the Connect server at {self._config.url} refuses the access token: it is wrong, expired or revoked",
            hint=f"put a new one at {self._config.credential}, then {UNLOCK}",
        )

    async def _once(self, token: Secret, work: Callable[[ConnectApi], Awaitable[T]]) -> T:
        seconds = OVERALL * self._config.timeout
        try:
            async with asyncio.timeout(seconds):
                api = await asyncio.to_thread(_open, self._config, token)
                try:
                    return await work(api)
                finally:
                    await api.close()
        except TimeoutError:
            raise VaultUnavailable(
                f"the Connect server at {self._config.url} did not answer everything within {seconds:g} s",
                hint=f"raise `timeout` of the vault, then {UNLOCK}",
                retry_after=PASSING,
            ) from None


def _open(config: VaultConfig, token: Secret) -> ConnectApi:
    """Load the libraries and make the session, in a thread."""
    try:
        from tokenbroker.vaults.connect.api import ConnectApi  # noqa: PLC0415  # heavy, and only for those who use it
    except ImportError:
        raise VaultNotInstalled(
            "the Python package onepasswordconnectsdk is not installed, or not in a version that fits",
            hint=f"run `pip install '{PACKAGE}'` where tokenbroker is installed, then {UNLOCK}",
        ) from None
    return ConnectApi(config, token)


async def _probe(api: ConnectApi) -> str:
    await api.heartbeat()
    vaults = await api.vaults()
    health = await api.health()
    return f"{health}; vaults: {len(vaults)}"


async def _read(api: ConnectApi, waiting: Sequence[OpReference]) -> Answers:
    """Find the vault of each reference, then read vault by vault."""
    vaults = await api.vaults()
    answers: Answers = {}
    groups: dict[str, list[OpReference]] = {}
    for one in waiting:
        match named(vaults, one.vault):
            case [vault]:
                groups.setdefault(vault, []).append(one)
            case []:
                answers[one.ref] = _no_vault(one)
            case _:
                answers[one.ref] = SecretAmbiguous(
                    f"{one.ref}: more than one vault has this name; write the vault's id", hint="run `op vault list`"
                )
    for found in await _together(_read_vault(api, vault, group) for vault, group in groups.items()):
        answers |= found
    return answers


async def _read_vault(api: ConnectApi, vault: str, group: Sequence[OpReference]) -> Answers:
    """Read what has the form of an id as an id, and look for the rest, and for ids that are none, among the titles."""
    wanted: dict[str, list[OpReference]] = {}
    for one in group:
        wanted.setdefault(one.item, []).append(one)
    outcomes = await _items(api, vault, [key for key in wanted if is_id(key)])
    missing = [key for key in wanted if key not in outcomes]
    if missing:
        outcomes |= await _by_title(api, vault, missing, outcomes)
    pairs = [(one, outcomes[key]) for key, refs in wanted.items() for one in refs]
    values = await _together(_value(api, vault, outcome, one) for one, outcome in pairs)
    return {one.ref: value for (one, _), value in zip(pairs, values, strict=True)}


async def _items(api: ConnectApi, vault: str, ids: Iterable[str]) -> dict[str, Outcome]:
    """Read the items of these ids; those that are not there are left out."""

    async def outcome(item: str) -> Outcome | None:
        try:
            return await api.item(vault, item)
        except Absent:
            return None
        except TooBig:
            return _too_big

    asked = list(ids)
    found = await _together(outcome(item) for item in asked)
    return {item: outcome for item, outcome in zip(asked, found, strict=True) if outcome is not None}


async def _by_title(
    api: ConnectApi, vault: str, names: Iterable[str], known: Mapping[str, Outcome]
) -> dict[str, Outcome]:
    """Find items by their titles, reading none that is among `known`, which is by id."""
    try:
        titles = await api.items(vault)
    except Absent:
        return dict.fromkeys(names, _no_vault)
    ids = {name: named(titles, name) for name in names}
    unread = {found[0] for found in ids.values() if len(found) == 1} - known.keys()
    items = {**known, **await _items(api, vault, sorted(unread))}
    return {name: _only(found, items) for name, found in ids.items()}


def _only(found: Sequence[str], items: Mapping[str, Outcome]) -> Outcome:
    if len(found) > 1:
        return _ambiguous_item
    return items.get(found[0], _no_item) if found else _no_item


async def _value(api: ConnectApi, vault: str, outcome: Outcome, one: OpReference) -> Secret | VaultError:
    """Return the field that `one` names, or else the content of the file."""
    if not isinstance(outcome, Item):
        return outcome(one)
    if outcome.archived:
        return _no_item(one)
    picked = pick(outcome.content, one)
    if picked is not None:
        return picked
    file = file_named(outcome.content, one)
    if file is not None and one.query in _CONTENT:
        return await _content(api, vault, outcome.id, file, one)
    return SecretNotFound(
        f"{one.ref}: a Connect server gives values and files, and one-time passwords if it is new enough, as they are",
        hint=f"write it without `?{one.query}`, or use another backend",
    )


async def _content(api: ConnectApi, vault: str, item: str, file: str, one: OpReference) -> Secret | VaultError:
    """Return a file as text."""
    try:
        text = (await api.file(vault, item, file)).decode()
    except TooBig:
        return SecretNotFound(f"{one.ref}: the file is larger than tokenbroker takes", hint=_show_item(one))
    except (Absent, UnicodeDecodeError):
        text = ""
    return Secret(text) if text else SecretNotFound(f"{one.ref}: the file is not text", hint=_show_item(one))


async def _together(work: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Do all of `work` at once. The first failure ends the others and is raised as it is."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one) for one in work]
    except ExceptionGroup as several:
        problem = several.exceptions[0]
    else:
        return [task.result() for task in tasks]
    raise problem


def _unreadable(ref: SecretRef) -> VaultError:
    return SecretNotFound(f"{ref}: not a reference to 1Password", hint="write it as `op://VAULT/ITEM/FIELD`")


def _no_vault(one: OpReference) -> VaultError:
    return SecretNotFound(
        f"{one.ref}: there is no such vault, or this access token may not see it",
        hint=f'give the token the vault with `op connect vault grant --vault "{one.vault}"`',
    )


def _no_item(one: OpReference) -> VaultError:
    return SecretNotFound(
        f"{one.ref}: the vault has no such item, or it is archived",
        hint=f'see what there is with `op item list --vault "{one.vault}"`',
    )


def _ambiguous_item(one: OpReference) -> VaultError:
    return SecretAmbiguous(
        f"{one.ref}: more than one item has this title; write the item's id",
        hint=f'see the ids with `op item list --vault "{one.vault}"`',
    )


def _too_big(one: OpReference) -> VaultError:
    return SecretNotFound(f"{one.ref}: the item is larger than tokenbroker takes", hint=_show_item(one))


def _show_item(one: OpReference) -> str:
    return f'look at it with `op item get "{one.item}" --vault "{one.vault}"`'

"""A service account's allowances: what is used, what a read will cost, and when to stop before they are used up. PURE.

Documented (contract 3): 1,000 or 10,000 reads per token and hour; 1,000, 5,000 or 50,000 requests per account and day,
of all its service accounts together. A window begins with its first request. Times are seconds of the clock that counts
sleep; `now` is always a parameter.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from tokenbroker.errors import VaultError, VaultUnavailable
from tokenbroker.model import RateLimit
from tokenbroker.vaults.json_answer import NotDecoded, decode
from tokenbroker.vaults.op.errors import UNLOCK
from tokenbroker.vaults.op.template import GarbledOutput

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from tokenbroker.vaults.op.reference import OpReference

HOUR: Final = 3600.0
DAY: Final = 24 * HOUR
RESERVE: Final = 0.05  # of a limit: left for a person who must look, and for what other machines have used meanwhile
UNTOLD_PAUSE: Final = 600.0  # seconds to wait after a 429 that does not say how long

COLD_COST: Final = 3  # reads that an item costs when it is found by name (documented; measured for `op read`)
COLD_COST_BY_ID: Final = 2  # measured, when vault and item are given by id
CACHED_COST: Final = 1  # measured: `op read` of an item that `op` has in its cache
_ID = re.compile(r"[a-z0-9]{26}")
_WORD = re.compile(r"[a-z_]{1,40}")
_MOST: Final = 10**9  # requests; far beyond any plan
_LONGEST_WINDOW: Final = 2 * 24 * 3600  # seconds
_LONGEST: Final = 64 * 1024  # bytes of what `op` tells of them

ItemKey = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Window:
    """One allowance and what is used of it."""

    type: str
    action: str
    limit: int
    used: int = 0
    ends: float | None = None
    """When it is whole again; `None`: not begun."""

    @property
    def length(self) -> float:
        """Seconds from its first request to its end."""
        return DAY if self.type == "account" else HOUR

    def at(self, now: float) -> Window:
        """Return it as it stands at `now`: whole again if its end is past."""
        over = self.ends is not None and now >= self.ends
        return replace(self, used=0, ends=None) if over else self

    def spend(self, cost: int, now: float) -> Window:
        """Return it with `cost` more used."""
        if not cost or self.action == "write":
            return self
        return replace(self, used=self.used + cost, ends=now + self.length if self.ends is None else self.ends)

    def too_small_for(self, cost: int) -> bool:
        """Tell whether `cost` more would touch the reserve. A whole window never is: more there will not be."""
        return self.action != "write" and self.used > 0 and self.used + cost > self.limit * (1 - RESERVE)


SMALLEST_PLAN: Final = (
    Window("token", "write", 100),
    Window("token", "read", 1000),
    Window("account", "read_write", 1000),
)
"""Individual and Families: what is assumed where `op` cannot tell."""


@dataclass(frozen=True, slots=True)
class Allowance:
    """All windows of one service account. Empty windows: nothing is known yet."""

    windows: tuple[Window, ...] = ()
    estimated: bool = False
    """Whether the limits are assumed, not told."""
    not_before: float = float("-inf")
    """Until when 1Password has said to wait."""

    def told(self, windows: Sequence[Window]) -> Allowance:
        """Return it with what 1Password says instead of what was counted."""
        return replace(self, windows=tuple(windows), estimated=False)

    def assumed(self) -> Allowance:
        """Return it with the smallest plan, because 1Password does not tell; what is counted already stays."""
        return self if self.windows else replace(self, windows=SMALLEST_PLAN, estimated=True)

    def spend(self, cost: int, now: float) -> Allowance:
        """Return it with `cost` reads more used."""
        return replace(self, windows=tuple(window.at(now).spend(cost, now) for window in self.windows))

    def refused(self, retry_after: float | None, now: float) -> Allowance:
        """Return it after 1Password itself refused a request."""
        pause = UNTOLD_PAUSE if retry_after is None else retry_after
        return replace(self, not_before=max(self.not_before, now + pause))

    def refusal(self, cost: int, now: float) -> VaultError | None:
        """Return why a read of `cost` is not to be made now; `None` if it may be."""
        if now < self.not_before:
            return VaultUnavailable(
                "1Password refused the last request of the service account, as its allowance is used up",
                hint=_wait(self.not_before - now),
                retry_after=self.not_before - now,
            )
        short = [window for window in (one.at(now) for one in self.windows) if window.too_small_for(cost)]
        if not short:
            return None
        window = max(short, key=lambda one: one.ends or now)
        left = (window.ends or now) - now
        return VaultUnavailable(
            f"the {_name(window)} is nearly used up ({window.used} of {window.limit}{_guess(self.estimated)}), and this"
            f" read may cost {cost}",
            hint=_wait(left),
            retry_after=left,
        )

    def shown(self, now: float) -> tuple[RateLimit, ...]:
        """Return what people may know."""
        current = [window.at(now) for window in self.windows]
        return tuple(
            RateLimit(
                one.type, one.action, one.limit, one.used, None if one.ends is None else one.ends - now, self.estimated
            )
            for one in current
        )


def cost_of(asked: Collection[OpReference], cached: Collection[ItemKey], *, fresh: bool) -> int:
    """Return how many reads one call for `asked` may cost at most; `cached` are the items that `op` has seen already.

    `fresh` goes past the cache, so that every reference costs what an item costs.
    """
    known = set() if fresh else set(cached)
    total = 0
    for one in asked:
        if one.item_key in known:
            total += CACHED_COST
        else:
            by_id = _ID.fullmatch(one.vault) and _ID.fullmatch(one.item)
            total += COLD_COST_BY_ID if by_id else COLD_COST
        if not fresh:
            known.add(one.item_key)
    return total


def parse_limits(output: bytes, now: float) -> list[Window]:
    """Read what `op service-account ratelimit --format json` prints. Raises `GarbledOutput`."""
    try:
        rows = decode(output, _LONGEST)
    except NotDecoded:
        rows = None
    if not isinstance(rows, list) or not rows:
        raise GarbledOutput("not the limits of a service account")
    return [_window(row, now) for row in rows]


def _window(row: Any, now: float) -> Window:
    match row:
        case {"type": str(kind), "action": str(action), "limit": int(limit), "used": int(used)}:
            reset = row.get("reset", 0)
            named = _WORD.fullmatch(kind) and _WORD.fullmatch(action)
            if named and _within(limit, 1, _MOST) and _within(used, 0, _MOST) and _within(reset, 0, _LONGEST_WINDOW):
                return Window(kind, action, limit, used, now + reset if reset else None)
    raise GarbledOutput("not a limit of a service account")


def _within(value: object, least: int, most: int) -> bool:
    return type(value) is int and least <= value <= most


def _name(window: Window) -> str:
    if window.type == "account":
        return "daily allowance of all service accounts of the 1Password account"
    return "hourly allowance of the service account's token"


def _guess(estimated: bool) -> str:  # noqa: FBT001  # the one fact this is about
    return ", by our own count" if estimated else ""


def _wait(seconds: float) -> str:
    minutes = max(1, round(seconds / 60))
    return f"wait {minutes} minutes, then {UNLOCK}; see the allowances with `broker status`"

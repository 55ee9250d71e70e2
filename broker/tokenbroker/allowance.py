"""What issuers' quotas allow: how much is left by their last answers, when that is little, and when it is nothing.

Rules of this file:
1. Nothing here awaits or reads a clock; `now` is an argument.
2. An answer is believed until its bucket resets. What is not known is not a limit.
3. A quota of a client counts for that client, one of an organization for all clients that ask for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tokenbroker.errors import IssuerError, IssuerNeedsPerson, IssuerThrottled

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from tokenbroker.model import Instant, Quota

PATIENCE: Final = 300.0  # seconds; a quota that comes back later than this needs a person
MOST: Final = 1000  # quotas that are remembered
LONGEST_WAIT: Final = 3600.0  # seconds; after that an issuer is asked again, whatever it said


@dataclass(frozen=True, slots=True)
class Holder:
    """On whose account a token is asked for."""

    issuer: str
    client: str
    organization: str | None = None


@dataclass(frozen=True, slots=True)
class Standing:
    """What an issuer said of one quota, and when."""

    holder: Holder
    quota: Quota
    as_of: Instant
    """The start of the request that it answered."""

    def resets_in(self, now: Instant) -> float:
        """Return the seconds until the bucket is full again; negative when that was."""
        return self.quota.resets_in - (now.elapsed - self.as_of.elapsed)


class Allowance:
    """The last word of each issuer on each of its quotas."""

    def __init__(self) -> None:
        """Know nothing."""
        self._told: dict[tuple[str, str, str], Standing] = {}  # issuer, whose, bucket
        self._tried: set[tuple[str, str, str]] = set()
        """Those that a person had tried again although nothing was left."""

    def note(self, holder: Holder, quotas: Iterable[Quota], as_of: Instant) -> None:
        """Take note of what an answer said to a request that began at `as_of`; an older one's word is not taken."""
        if len(self._told) > MOST:
            self.standing(as_of)
        if len(self._told) > MOST:
            self._told.clear()  # names that change with each answer are no buckets
        for quota in quotas:
            place = _place(holder, quota)
            before = self._told.get(place)
            if before is None or before.as_of.elapsed <= as_of.elapsed:
                self._told[place] = Standing(holder, quota, as_of)
                self._tried.discard(place)

    def check(self, holder: Holder, now: Instant) -> None:
        """Raise, with `retry_after`, if nothing is left of one of the holder's quotas before it resets."""
        spent = [one for one in self._of(holder, now) if one.quota.remaining == 0]
        spent = [one for one in spent if _place(one.holder, one.quota) not in self._tried]
        spent = [one for one in spent if now.elapsed - one.as_of.elapsed < LONGEST_WAIT]
        if spent:
            last = max(spent, key=lambda one: one.resets_in(now))
            raise used_up(f"issuer `{holder.issuer}`", last.quota, last.resets_in(now))

    def low(self, holder: Holder, floor: float, now: Instant) -> bool:
        """Tell whether less than the share `floor` is left of one of the holder's quotas."""
        return any(one.quota.remaining < floor * one.quota.limit for one in self._of(holder, now))

    def standing(self, now: Instant) -> list[Standing]:
        """Return what is known and has not been reset since, by issuer and client; for `broker status`."""
        self._told = {place: one for place, one in self._told.items() if one.resets_in(now) > 0}
        return sorted(self._told.values(), key=lambda one: (one.holder.issuer, one.holder.client, one.quota.bucket))

    def forgive(self, which: Callable[[str], bool]) -> None:
        """Let the clients that fit try once more: a person may have raised their quotas."""
        self._tried |= {place for place, one in self._told.items() if which(one.holder.client)}

    def _of(self, holder: Holder, now: Instant) -> Iterator[Standing]:
        for one in self._told.values():
            if _place(holder, one.quota) == _place(one.holder, one.quota) and one.resets_in(now) > 0:
                yield one


def used_up(subject: str, quota: Quota, wait: float) -> IssuerError:
    """Return the error of a quota of which nothing is left for `wait` seconds."""
    kind = IssuerNeedsPerson if wait > PATIENCE else IssuerThrottled
    return kind(
        f"{subject} has no tokens left for this {quota.holder}: all {quota.limit} of {quota.bucket} are used up, "
        f"more in {_duration(wait)}",
        hint="raise the quota at the issuer and run `broker unlock`, or ask for fewer choices of scopes: each is one "
        "more token",
        retry_after=min(wait, LONGEST_WAIT),
    )


def _place(holder: Holder, quota: Quota) -> tuple[str, str, str]:
    whose = f"organization {holder.organization}" if quota.holder == "organization" else f"client {holder.client}"
    return holder.issuer, whose, quota.bucket


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"  # noqa: PLR2004  # two minutes

"""How many token requests an issuer says it will still answer, and when it will answer again.

Pure. What is not understood says nothing: these headers are other people's, and some are still drafts.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from tokenbroker.issuers.exchange import http_date
from tokenbroker.model import Quota

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

MAX_BUCKETS: Final = 8
LONGEST: Final = 24 * 3600.0  # seconds; no bucket that anybody has is longer than a day
EPOCH: Final = 1_000_000_000  # a larger number is a time, a smaller one a number of seconds

_HOLDERS: Final = {"client": "auth0-client-quota-limit", "organization": "auth0-organization-quota-limit"}
_FIELD = re.compile(r"\s*([a-z])=([A-Za-z0-9_.-]{1,32})\s*")
_NUMBER = re.compile(r"[0-9]{1,12}")
_TOLD: Final = (  # remaining, reset
    ("x-rate-limit-remaining", "x-rate-limit-reset"),  # Okta: epoch seconds
    ("x-ratelimit-remaining", "x-ratelimit-reset"),  # GitHub, Auth0: epoch seconds; others: seconds from now
    ("ratelimit-remaining", "ratelimit-reset"),  # draft-ietf-httpapi-ratelimit-headers-00 to -06: seconds from now
)
_DRAFT = re.compile(r"(?:^|[;,\s])(?:t|reset)=([0-9]{1,9})(?![0-9])")
_DRAFT_SPENT = re.compile(r"(?:^|[;,\s])(?:r|remaining)=0(?![0-9])")


def quotas(headers: Mapping[str, str]) -> tuple[Quota, ...]:
    """Return what the answer's headers say (Auth0: `b=per_hour;q=10;r=7;t=3540,b=per_day;…`); names are lower case."""
    found = (_bucket(holder, text) for holder, name in _HOLDERS.items() for text in _buckets(headers.get(name, "")))
    return tuple(quota for quota in found if quota is not None)


def throttled_for(headers: Mapping[str, str], now: float) -> float | None:
    """Return the seconds until an issuer that gave no `Retry-After` will answer again, by what else it says.

    A time is compared with the issuer's own clock, the answer's `Date`, where there is one.
    """
    now = http_date(headers.get("date", "")) or now
    waits = [*_classic(headers, now), *_draft(headers)]
    return max(waits, default=None)


def _buckets(header: str) -> list[str]:
    return header.split(",")[:MAX_BUCKETS]


def _bucket(holder: str, text: str) -> Quota | None:
    matches = [_FIELD.fullmatch(part) for part in text.split(";")]
    fields = {match[1]: match[2] for match in matches if match}
    numbers = [fields.get(name, "") for name in "qrt"]
    if None in matches or "b" not in fields or not all(map(_NUMBER.fullmatch, numbers)):
        return None
    limit, remaining, resets_in = map(int, numbers)
    return Quota(holder, fields["b"], limit, min(remaining, limit), min(float(resets_in), LONGEST))


def _classic(headers: Mapping[str, str], now: float) -> Iterator[float]:
    for remaining, reset in _TOLD:
        value = headers.get(reset, "").strip()
        if headers.get(remaining, "0").strip() == "0" and _NUMBER.fullmatch(value):
            seconds = float(value)
            yield max(seconds - now, 0.0) if seconds >= EPOCH else seconds


def _draft(headers: Mapping[str, str]) -> Iterator[float]:
    """Read `RateLimit: "default";r=0;t=30`, before draft -08 `limit=10, remaining=0, reset=30`."""
    value = headers.get("ratelimit", "")[:1000]
    each = value.split(",") if ";" in value else [value]
    for policy in each[:MAX_BUCKETS]:
        if _DRAFT_SPENT.search(policy) and (wait := _DRAFT.search(policy)):
            yield float(wait[1])

"""Quotas, and the headers by which issuers speak of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.standins.second_issuer.state import State


@dataclass
class Quota:
    """So many tokens in a window; `reset` is seconds until it begins anew."""

    limit: int = 10
    remaining: int = 10
    reset: int = 3600
    day_limit: int = 100
    day_remaining: int = 100

    def spend(self) -> bool:
        """Take one from the quota; say whether there was one."""
        if min(self.remaining, self.day_remaining) <= 0:
            return False
        self.remaining -= 1
        self.day_remaining -= 1
        return True


def headers(quota: Quota | None, state: State, *, spent: bool) -> dict[str, str]:
    """Return what the face's issuer says of `quota`, on a success and where it refuses (`spent`)."""
    if quota is None:
        return {}
    at = str(int(state.clock.now()) + quota.reset)
    remaining = 0 if spent else quota.remaining
    match state.face.limits:
        case "auth0":
            hour = f"b=per_hour;q={quota.limit};r={quota.remaining};t={quota.reset}"
            day = f"b=per_day;q={quota.day_limit};r={quota.day_remaining};t={quota.reset + 43200}"
            return {"Auth0-Client-Quota-Limit": f"{hour},{day}"}
        case "okta":
            return {
                "X-Rate-Limit-Limit": str(quota.limit),
                "X-Rate-Limit-Remaining": str(remaining),
                "X-Rate-Limit-Reset": at,
            }
        case "github":
            return {
                "x-ratelimit-limit": str(quota.limit),
                "x-ratelimit-remaining": str(remaining),
                "x-ratelimit-used": str(quota.limit - remaining),
                "x-ratelimit-reset": at,
                "x-ratelimit-resource": "core",
            }
        case "plain":
            return {"Retry-After": str(quota.reset)} if spent else {}

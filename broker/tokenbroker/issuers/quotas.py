"""How many token requests an issuer says it will still answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tokenbroker.model import Quota


def quotas(headers: Mapping[str, str]) -> tuple[Quota, ...]:
    """Return what the answer's headers say; names are lower case."""
    return ()

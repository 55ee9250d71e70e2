"""Proof keys: tokens bound to a key that never leaves the daemon (RFC 9449)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenbroker.model import Credentials
    from tokenbroker.ports import ProofKey


class ProofKeys:
    """One key per client."""

    async def of(self, credentials: Credentials) -> ProofKey:
        """Return the client's key, made at its first use."""
        raise NotImplementedError

"""The made-up user of tests/e2e, for the commands of this folder."""

from __future__ import annotations

from tests.e2e.conftest import beside, daemon, issuer, rig

__all__ = ["beside", "daemon", "issuer", "rig"]

"""tokenbroker: hand short-lived OAuth tokens to local programs; keep client secrets in 1Password."""

from __future__ import annotations

__version__ = "0.1.0"

"""Ask the local credential broker for tokens. Standard library only."""

from __future__ import annotations

__version__ = "0.1.0"

"""For clients of servers that speak plain HTTP on this machine."""

from __future__ import annotations

import ssl

NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""Trusts nobody. `verify=NO_TLS` spares httpx from reading every authority there is, which takes 40 ms a client."""

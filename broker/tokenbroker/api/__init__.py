"""The edge: bytes on the sockets become calls to the Broker, and its answers become bytes."""

from __future__ import annotations

"""What the operating system gives and asks: time, sockets, activation, notifications, hardening."""

from __future__ import annotations

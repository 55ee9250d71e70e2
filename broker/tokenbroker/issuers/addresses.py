"""Which addresses a secret may be sent to, and by which proxy.

Pure: names are judged as they are written; nothing is resolved, no environment is read.
"""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING, Final
from urllib.parse import SplitResult, urlsplit

if TYPE_CHECKING:
    from collections.abc import Mapping

_PORTS: Final = {"https": 443, "http": 80}
# Narrower than RFC 3986, so that no two parsers can see two hosts: ASCII, no user name, no backslash, no fragment.
_ADDRESS = re.compile(
    r"https?://(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?(?:[/?][\x21\x24-\x5b\x5d-\x7e]*)?"
)
_NO_PROXY = re.compile(r"(?P<name>\[[^\]]*\]|[0-9a-f:]*:[0-9a-f:]*:[0-9a-f:./]*|[^:]*)(?::(?P<port>[0-9]+))?")


def secure(url: str) -> SplitResult | None:
    """Return `url` split if a secret may be sent there, else `None`: https, or http to this machine."""
    if not _ADDRESS.fullmatch(url):
        return None
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return None
    allowed = parts.scheme == "https" or is_loopback(parts.hostname or "")
    return parts if allowed and port != 0 else None


def is_loopback(host: str) -> bool:
    """Tell whether `host` is this machine, by its name alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def same_origin(one: SplitResult, other: SplitResult) -> bool:
    """Tell whether two addresses have the same scheme, host and port (RFC 6454 §4)."""
    return _origin(one) == _origin(other)


def proxy_for(url: str, configured: str | None, env: Mapping[str, str]) -> str | None:
    """Return the proxy to reach `url` by: the configured one, else `HTTPS_PROXY` unless `NO_PROXY` covers the host.

    Never one for this machine: a proxy would see a development secret in clear, and could not reach it.
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    if is_loopback(host):
        return None
    if configured:
        return configured
    found = env.get("https_proxy") or env.get("HTTPS_PROXY")
    no_proxy = env.get("no_proxy") or env.get("NO_PROXY") or ""
    if not found or _exempt(host, parts.port or _PORTS.get(parts.scheme), no_proxy):
        return None
    return found if "://" in found else f"http://{found}"


def _exempt(host: str, port: int | None, no_proxy: str) -> bool:
    """Tell whether `NO_PROXY` covers `host`.

    An entry is `*`, a name with all below it, an address or a network (`10.0.0.0/8`), and counts for all ports or, with
    one behind it, for that alone. The names differ between programs; these are the rules of Go and curl together.
    """
    for entry in no_proxy.lower().replace(" ", ",").split(","):
        split = _NO_PROXY.fullmatch(entry)
        if entry == "*" or (split and split["port"] in {None, str(port)} and _covers(split["name"], host)):
            return True
    return False


def _covers(entry: str, host: str) -> bool:
    name = entry.removeprefix("*").lstrip(".").strip("[]")
    if not name:
        return False
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(name, strict=False)
    except ValueError:
        return host == name or host.endswith(f".{name}")


def _origin(parts: SplitResult) -> tuple[str, str | None, int | None]:
    return parts.scheme, parts.hostname, parts.port or _PORTS.get(parts.scheme)

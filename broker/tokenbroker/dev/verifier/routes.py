"""Which scopes a request needs and which clients may make it: what is in neither table is refused.

A path has one spelling here. Whatever a framework, a proxy or a file system might read as another path (an encoded
slash, a dot segment, an empty segment, a letter that need not be encoded) is refused before anything is looked up, so
that the table and the handler cannot mean different things.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import unquote

from tokenbroker.dev.verifier.refusal import forbidden, malformed

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

ANY = "*"
"""Stands for every client, or every route, in a grant."""
_RAW = re.compile(r"/(?:[A-Za-z0-9._~!$&'()*+,;=:@/-]|%[0-9A-Fa-f]{2})*")  # path-absolute, RFC 3986 §3.3
_NEEDLESS = re.compile(r"[A-Za-z0-9._~/\\%;\x00-\x1f\x7f-]")  # what must not come encoded
_KEY = re.compile(r"(?P<method>[A-Z]+) (?P<path>/\S*)")


def plain(raw: str) -> str:
    """Return the decoded form of a path as it was sent, if that is its only spelling. Raises `Refused`."""
    refused = malformed("the path is not in its plain form")
    if not _RAW.fullmatch(raw) or any(_NEEDLESS.match(chr(int(code, 16))) for code in re.findall("%(..)", raw)):
        raise refused
    segments = raw.split("/")[1:]
    if {".", ".."} & set(segments) or "" in segments[:-1] or any(";" in segment for segment in segments):
        raise refused
    try:
        return unquote(raw, errors="strict")
    except UnicodeDecodeError:
        raise refused from None


@dataclass(frozen=True, slots=True)
class _Route:
    key: str
    method: str
    segments: tuple[str, ...]
    scopes: frozenset[str]

    def fits(self, method: str, segments: tuple[str, ...]) -> bool:
        return (
            self.method == method and len(self.segments) == len(segments) and all(map(_same, self.segments, segments))
        )


def _same(pattern: str, segment: str) -> bool:
    return bool(segment) if pattern.startswith("{") and pattern.endswith("}") else pattern == segment


@dataclass(frozen=True, slots=True)
class Needed:
    """What a request needs: all of the scopes, and a grant for each of the routes."""

    scopes: frozenset[str] = frozenset()
    routes: frozenset[str] = frozenset()
    """Empty for what is public."""


class Routes:
    """The tables of one API.

    `Routes({"GET /search": ["search:read"]}, grants=[("billing-agent", "GET /search")])`. A key is a method and a path;
    `{name}` as a whole segment fits any one segment. HEAD counts as GET, a websocket's handshake in ASGI as WEBSOCKET
    (in aiohttp it is a GET), and OPTIONS as itself. Where several keys fit, the scopes and grants of all are needed.
    """

    def __init__(
        self,
        scopes: Mapping[str, Collection[str]],
        *,
        grants: Iterable[tuple[str, str]],
        public: Collection[str] = (),
    ) -> None:
        """Keep the tables: key → scopes, all needed; (client id, key), either of them `*`; keys that need no token.

        Raises `ValueError` for what cannot be meant: a key that is none, a route without scopes, a grant without route.
        """
        self._routes = [_route(key, needed) for key, needed in scopes.items()]
        self._public = [_route(key, ("",)) for key in public]
        self._grants = frozenset(grants)
        unknown = {key for _, key in self._grants} - set(scopes) - {ANY}
        if unknown:
            raise ValueError(f"grants name routes that are not there: {', '.join(sorted(unknown))}")

    def needed(self, method: str, path: str) -> Needed | None:
        """Return what a request for the plain `path` needs, `None` for what is not offered."""
        wanted, segments = "GET" if method == "HEAD" else method, tuple(path.split("/")[1:])
        found = [route for route in self._routes if route.fits(wanted, segments)]
        if found:
            scopes = frozenset[str]().union(*(route.scopes for route in found))
            return Needed(scopes, frozenset(route.key for route in found))
        return Needed() if any(route.fits(wanted, segments) for route in self._public) else None

    def granted(self, client_id: str, routes: Collection[str]) -> None:
        """Check that the client may use all of these routes. Raises `Refused`."""
        for key in routes:
            if not self._grants & {(client_id, key), (client_id, ANY), (ANY, key), (ANY, ANY)}:
                # No error code of RFC 6750 fits: another token would not help.
                raise forbidden("access_denied", "the client is not allowed here")


def _route(key: str, scopes: Collection[str]) -> _Route:
    found = _KEY.fullmatch(key)
    if found is None or found["method"] == "HEAD":
        raise ValueError(f"not a route: {key!r}, expected a method and a path such as 'GET /search'; HEAD is GET's")
    if isinstance(scopes, str) or not scopes:
        raise ValueError(f"route {key!r} needs a list of scopes; what needs none is named in `public`")
    return _Route(key, found["method"], tuple(found["path"].split("/")[1:]), frozenset(scopes))

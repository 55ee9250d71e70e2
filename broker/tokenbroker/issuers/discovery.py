"""Where the token endpoint is: authorization server metadata (RFC 8414), looked up once a day.

The document decides where a client secret is sent, so it is believed little: it must name the configured issuer
exactly (RFC 8414 §3.3: "MUST be identical"; not even a final slash may differ, because the name is also the audience
of assertions), and its token endpoint must be on the issuer's own scheme, host and port. An endpoint elsewhere is
a person's decision, made by writing `token_endpoint` in the configuration.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from tokenbroker.config.issuers import AUTHS
from tokenbroker.errors import EndpointElsewhere, IssuerError, IssuerMisconfigured, IssuerUnavailable
from tokenbroker.issuers.addresses import same_origin, secure
from tokenbroker.issuers.exchange import Attempt, strict_object, web_page
from tokenbroker.issuers.problems import is_redirect, redirected, refusal
from tokenbroker.scrub import scrub

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from urllib.parse import SplitResult

    from tokenbroker.config import IssuerConfig
    from tokenbroker.issuers.exchange import Reply
    from tokenbroker.ports import Clock

FOUND_FOR: Final = 24 * 3600.0  # seconds that a document is used
FAILED_FOR: Final = 5.0  # seconds that a failure is repeated without asking again …
SPARED_FOR: Final = 60.0  # … where nothing depends on it: the token endpoint is configured
SPARE_TIMEOUT: Final = 3.0  # seconds that a caller then waits for it

_OK: Final = 200
_PAGE_STATUSES: Final = frozenset({200, 401, 403})  # 404 is how an issuer says that a candidate is none


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Where an issuer is asked for what, and the issuer identifier that its endpoints belong to."""

    token: str
    issuer: str
    """The issuer identifier, or the token endpoint where none is known."""
    identified: bool = True
    """Whether `issuer` is an identifier."""
    mtls_token: str | None = None
    """The token endpoint for clients with a certificate (RFC 8705 §5); `None`: the same as for all."""
    revocation: str | None = None
    introspection: str | None = None
    jwks_uri: str | None = None
    mtls_revocation: str | None = None
    mtls_introspection: str | None = None
    introspection_elsewhere: str | None = None
    """An introspection endpoint on another host, which is named and not used."""
    auth_methods: tuple[str, ...] = ()
    """The methods by which clients authenticate, of those that we know; metadata may lie, so they are for hints."""

    def for_certificates(self) -> Endpoints:
        """Return where a client goes that shows a certificate (RFC 8705 §5)."""
        return replace(
            self,
            token=self.mtls_token or self.token,
            revocation=self.mtls_revocation or self.revocation,
            introspection=self.mtls_introspection or self.introspection,
        )


def configured(key: str, url: str, config: IssuerConfig) -> SplitResult:
    """Return a configured address split, after checking that a secret may be sent there (checked again at the edge).

    Raises `IssuerMisconfigured`.
    """
    parts = secure(url)
    if parts is None:
        raise IssuerMisconfigured(
            f"issuer `{config.name}`: {key} is not a plain https address (http: this machine alone)",
            hint=f"correct {key} in [issuers.{config.name}]",
        )
    return parts


def candidates(url: str) -> tuple[str, ...]:
    """Return where an issuer's metadata may be, in order: RFC 8414 §3.1, §5 and OpenID Connect Discovery §4."""
    parts = urlsplit(url)
    origin, path = f"{parts.scheme}://{parts.netloc}", parts.path.rstrip("/")
    return tuple(
        dict.fromkeys(
            (
                f"{origin}/.well-known/oauth-authorization-server{path}",
                f"{origin}/.well-known/openid-configuration{path}",
                f"{origin}{path}/.well-known/openid-configuration",
            )
        )
    )


def read(reply: Reply, url: str, attempt: Attempt, *, token_endpoint: str | None = None) -> Endpoints:
    """Return the endpoints that a metadata document of the issuer `url` names. Raises `IssuerError`.

    A `token_endpoint` that a person configured wins over the document's.
    """
    if reply.status != _OK:
        raise refusal(reply, attempt)
    if reply.unreadable is not None:
        raise _unusable(attempt, f"sent {reply.unreadable} in place of metadata")
    try:
        document = strict_object(reply.body)
    except (ValueError, TypeError):
        raise _unusable(attempt, "sent metadata that is no clear JSON object") from None
    issuer, endpoint = document.get("issuer"), token_endpoint or document.get("token_endpoint")
    if not isinstance(issuer, str) or not isinstance(endpoint, str):
        raise _unusable(attempt, "sent metadata without issuer or token_endpoint")
    if issuer != url:
        raise _other_issuer(issuer, url, attempt)
    if token_endpoint is None:
        _check_endpoint(endpoint, url, attempt)
    found = document.get("mtls_endpoint_aliases")
    aliases = found if isinstance(found, dict) else {}
    return Endpoints(
        token=endpoint,
        issuer=issuer,
        mtls_token=_near(aliases.get("token_endpoint"), url),
        revocation=_own(document.get("revocation_endpoint"), url),
        introspection=_own(document.get("introspection_endpoint"), url),
        jwks_uri=_address(document.get("jwks_uri")),
        mtls_revocation=_near(aliases.get("revocation_endpoint"), url),
        mtls_introspection=_near(aliases.get("introspection_endpoint"), url),
        introspection_elsewhere=_elsewhere(document.get("introspection_endpoint"), url),
        auth_methods=_methods(document.get("token_endpoint_auth_methods_supported")),
    )


def foreign(reply: Reply, attempt: Attempt) -> IssuerError | None:
    """Return the error for an answer that is probably not the issuer's: a redirect, or a page where none belongs."""
    if is_redirect(reply):
        return redirected(reply, attempt, "url")
    if reply.status not in _PAGE_STATUSES or not web_page(reply):
        return None
    status = "" if reply.status == _OK else f" ({reply.status})"
    return IssuerMisconfigured(
        f"{attempt.subject} answered with a web page{status} instead of its metadata, as captive portals and company "
        "proxies do",
        hint="sign in to the network if it asks for that; if nobody stands between, correct url in "
        f"[issuers.{attempt.issuer}], or set token_endpoint there",
    )


def _methods(value: object) -> tuple[str, ...]:
    """Return those that are ours: of what an issuer writes nothing else is shown."""
    named = value if isinstance(value, list) else []
    return tuple(auth for auth in AUTHS if auth != "none" and auth in named)


def _check_endpoint(endpoint: str, url: str, attempt: Attempt) -> None:
    parts = secure(endpoint)
    if parts is None:
        raise _unusable(attempt, "names a token endpoint that is not a plain https address")
    if not same_origin(parts, urlsplit(url)):
        elsewhere = EndpointElsewhere(
            f"{attempt.subject} names a token endpoint on another host: {scrub(endpoint, ())}",
            hint=f"if that is right, write it as token_endpoint in [issuers.{attempt.issuer}]",
        )
        elsewhere.endpoint = endpoint
        raise elsewhere


def _address(value: object) -> str | None:
    """Return an address to which no secret is sent, if it is one at all."""
    return value if isinstance(value, str) and secure(value) is not None else None


def _near(value: object, url: str) -> str | None:
    """Return an alias for clients with a certificate, which has a host or a port of its own by design (RFC 8705 §5).

    It must be the issuer's host, or one below it: tokens are sent there.
    """
    parts = secure(value) if isinstance(value, str) else None
    issuer = urlsplit(url)
    if parts is None or not isinstance(value, str) or parts.scheme not in {issuer.scheme, "https"}:
        return None
    host, home = parts.hostname or "", issuer.hostname or ""
    return value if host == home or host.endswith(f".{home}") else None


def _own(value: object, url: str) -> str | None:
    """Return an address on the issuer's own origin: credentials and tokens are sent there."""
    parts = secure(value) if isinstance(value, str) else None
    return value if parts is not None and isinstance(value, str) and same_origin(parts, urlsplit(url)) else None


def _elsewhere(value: object, url: str) -> str | None:
    return _address(value) if _own(value, url) is None else None


class Discovery:
    """Finds and remembers one issuer's token endpoint. Any number of callers cause one look-up."""

    def __init__(self, config: IssuerConfig, *, clock: Clock, get: Callable[[str, Attempt], Awaitable[Reply]]) -> None:
        """Look up with `get(url, attempt)`, which raises `IssuerError` for anything but an HTTP answer."""
        self._config = config
        self._clock = clock
        self._get = get
        self._known: Endpoints | IssuerError | None = None
        self._until = 0.0
        self._search: asyncio.Task[None] | None = None

    async def endpoints(self) -> Endpoints:
        """Return enough to ask for a token: what is configured, or else what is discovered. Raises `IssuerError`.

        A caller that is cancelled cancels nobody else's search.
        """
        config = self._config
        if config.token_endpoint is not None:
            configured("token_endpoint", config.token_endpoint, config)
            return self._completed(
                Endpoints(
                    token=config.token_endpoint,
                    issuer=config.url or config.token_endpoint,
                    identified=config.url is not None,
                )
            )
        found = await self._searched()
        if isinstance(found, Endpoints):
            return self._completed(found)
        raise _again(found)

    async def all_endpoints(self) -> Endpoints:
        """Return all that can be known, also where the token endpoint is configured. Raises `IssuerError`.

        With a configured token endpoint nothing depends on the metadata, so its absence is not an error.
        """
        enough = await self.endpoints()
        if self._config.token_endpoint is None or self._config.url is None:
            return enough
        found = await self._searched()
        return self._completed(found) if isinstance(found, Endpoints) else enough

    async def _searched(self) -> Endpoints | IssuerError | None:
        if self._known is None or self._clock.now().elapsed >= self._until:
            if self._search is None:
                self._search = asyncio.create_task(self._look_up(), name=f"discovery of {self._config.name}")
            await asyncio.wait([self._search])  # unlike awaiting it, this does not cancel it
        return self._known

    def _completed(self, found: Endpoints) -> Endpoints:
        """Let what a person configured win."""
        config = self._config
        return replace(
            found,
            revocation=config.revocation_endpoint or found.revocation,
            introspection=config.introspection_endpoint or found.introspection,
            jwks_uri=config.jwks_uri or found.jwks_uri,
            mtls_revocation=None if config.revocation_endpoint else found.mtls_revocation,
            mtls_introspection=None if config.introspection_endpoint else found.mtls_introspection,
        )

    async def close(self) -> None:
        """Stop a search that is under way. May be called twice."""
        if self._search is not None:
            search = self._search
            search.cancel()
            await asyncio.wait([search])

    async def _look_up(self) -> None:
        """Settle what is known. Issuer errors become knowledge, so that an abandoned search leaves no trace."""
        spare = self._config.token_endpoint is not None
        try:
            async with asyncio.timeout(min(self._config.timeout, SPARE_TIMEOUT) if spare else self._config.timeout):
                self._known = await self._ask_all()
        except IssuerError as error:
            self._known = _again(error)  # without its traceback
        except TimeoutError:
            self._known = IssuerUnavailable(f"issuer `{self._config.name}` did not answer discovery in time")
        finally:
            failed_for = SPARED_FOR if spare else FAILED_FOR
            lasts = FOUND_FOR if isinstance(self._known, Endpoints) else failed_for
            self._until = self._clock.now().elapsed + lasts
            self._search = None

    async def _ask_all(self) -> Endpoints:
        """Ask each candidate; a document that is refused does not end the search, a network that fails does."""
        config = self._config
        if config.url is None:
            raise IssuerMisconfigured(
                f"issuer `{config.name}` has neither url nor token_endpoint",
                hint=f"set url in [issuers.{config.name}]",
            )
        host = configured("url", config.url, config).netloc
        later: IssuerError | None = None
        refused: IssuerError | None = None
        between: IssuerError | None = None
        for address in candidates(config.url):
            attempt = Attempt(issuer=config.name, host=host, started=self._clock.now())
            reply = await self._get(address, attempt)
            if (other := foreign(reply, attempt)) is not None:
                between = between or other
                continue
            try:
                return read(reply, config.url, attempt, token_endpoint=config.token_endpoint)
            except IssuerUnavailable as error:
                later = error
            except IssuerError as error:
                refused = error if reply.status == _OK else refused
        nowhere = IssuerMisconfigured(
            f"issuer `{config.name}` has no metadata under its url (RFC 8414)",
            hint=f"correct url in [issuers.{config.name}], or set token_endpoint there",
        )
        raise later or refused or between or nowhere


def _again(known: IssuerError | None) -> IssuerError:
    """Return a fresh copy of an error, so that callers who share it do not grow one traceback."""
    if known is None:
        return IssuerUnavailable("discovery was stopped")
    return known.anew()


def _other_issuer(found: str, url: str, attempt: Attempt) -> IssuerError:
    slash_apart = found.rstrip("/") == url.rstrip("/")
    hint = f'write url = "{found}"' if slash_apart else "correct url, or set token_endpoint,"
    return IssuerMisconfigured(
        f"{attempt.subject} calls itself {scrub(found, ())}, configured is {url}",
        hint=f"{hint} in [issuers.{attempt.issuer}]",
    )


def _unusable(attempt: Attempt, what: str) -> IssuerError:
    return IssuerMisconfigured(
        f"{attempt.subject} {what}", hint=f"correct url in [issuers.{attempt.issuer}], or set token_endpoint there"
    )

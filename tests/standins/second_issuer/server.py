"""The server: ports, paths, faults and the record of what came in."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from dataclasses import replace
from email.utils import formatdate
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from uuid import uuid4

from aiohttp import web
from cryptography import x509

from tests.standins.second_issuer import afterwards, dpop, github, grants, limits, metadata, minting
from tests.standins.second_issuer.call import Call
from tests.standins.second_issuer.faces import FACES
from tests.standins.second_issuer.refusals import REFUSALS, Refused, Words
from tests.standins.second_issuer.state import Clock, Minted, Nonces, State, new_keys

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable

    from tests.standins.second_issuer.certificates import Authority
    from tests.standins.second_issuer.faces import Face
    from tests.standins.second_issuer.github import Installation
    from tests.standins.second_issuer.limits import Quota
    from tests.standins.second_issuer.minting import Grant
    from tests.standins.second_issuer.state import Client

    Behaviour = Callable[[web.Request], Awaitable[web.StreamResponse | None]]

NO_STORE = {"Cache-Control": "no-store", "Pragma": "no-cache"}
ENDPOINTS = {"jwks_uri": "/jwks", "revocation_endpoint": "/revoke", "introspection_endpoint": "/introspect"}


def reply(status: int, body: Any = "", headers: dict[str, str] | None = None) -> Behaviour:
    """Answer so instead: text as it is, anything else as JSON."""

    async def behave(_: web.Request) -> web.StreamResponse:
        return _text(status, body, headers or {}) if isinstance(body, str) else _json(status, body, headers or {})

    return behave


async def reset(request: web.Request) -> web.StreamResponse | None:
    """Hang up without an answer, once."""
    assert request.transport is not None
    request.transport.abort()
    return None


def _json(status: int, body: Any, headers: dict[str, str]) -> web.Response:
    return web.Response(status=status, body=json.dumps(body).encode(), headers=headers, content_type="application/json")


def _text(status: int, body: str, headers: dict[str, str]) -> web.Response:
    return web.Response(status=status, text=body, headers=headers)


class SecondIssuer:
    """An issuer that runs; made by `start`."""

    def __init__(self, face: Face, clients: Iterable[Client], authority: Authority | None) -> None:
        known = {client.id: client for client in clients}
        authorities = [authority.root.certificate] if authority else []
        nonces = Nonces(face.dpop_nonce), Nonces(face.resource_nonce)
        self.state = State(face, known, "", "", Clock(), new_keys(), *nonces, authorities=authorities)
        self.authority = authority
        self.requests: list[Call] = []
        """Everything that came in, at every path."""
        self.revoked: list[str] = []
        """What was asked to be revoked, whatever became of it."""
        self.refusals: list[Exception] = []
        """Why requests were refused: an answer says less than this, on purpose."""
        self.quota: Quota | None = None
        self.installations: dict[int, Installation] = {}
        self.metadata_changes: dict[str, Any] = {}
        """Members that the metadata has instead; None takes one away."""
        self.mtls_origin: str | None = None
        self._origin = ""
        self._scripts: dict[str, list[Behaviour]] = {}
        self._throttled: tuple[int, dict[str, str]] = (0, {})

    @classmethod
    @asynccontextmanager
    async def start(
        cls, face: str = "oidc", clients: Iterable[Client] = (), *, tls: Authority | None = None, **switches: Any
    ) -> AsyncIterator[SecondIssuer]:
        """Run an issuer with `face`, some fields of which may be changed by `switches`; https with `tls`."""
        issuer = cls(replace(FACES[face], **switches), clients, tls)
        runner = web.AppRunner(issuer._app(), access_log=None, shutdown_timeout=0)
        await runner.setup()
        try:
            await issuer._listen(runner)
            yield issuer
        finally:
            await runner.cleanup()

    @property
    def url(self) -> str:
        """The issuer's identifier."""
        return self.state.issuer

    @property
    def origin(self) -> str:
        return self._origin

    @property
    def token_endpoint(self) -> str:
        return self.state.token_endpoint

    @property
    def jwks_uri(self) -> str:
        return f"{self._origin}{ENDPOINTS['jwks_uri']}"

    @property
    def revocation_endpoint(self) -> str:
        return f"{self._origin}{ENDPOINTS['revocation_endpoint']}"

    @property
    def introspection_endpoint(self) -> str:
        return f"{self._origin}{ENDPOINTS['introspection_endpoint']}"

    @property
    def resource(self) -> str:
        """The protected resource."""
        return f"{self._origin}/resource"

    @property
    def clients(self) -> dict[str, Client]:
        return self.state.clients

    @property
    def minted(self) -> list[Minted]:
        return self.state.minted

    @property
    def clock(self) -> Clock:
        return self.state.clock

    @property
    def token_requests(self) -> list[Call]:
        """The requests to the token endpoint, or for an installation's token."""
        path = urlsplit(self.token_endpoint).path
        return [call for call in self.requests if call.path == path or github.PATH.fullmatch(call.path)]

    def switch(self, **switches: Any) -> None:
        """Change fields of the face while it runs; not those of addresses and ports."""
        self.state.face = replace(self.state.face, **switches)

    def rotate_keys(self, *, keep_old: bool = True) -> None:
        """Sign with new keys from now on; the old ones stay published with `keep_old`."""
        self.state.keys = [*(self.state.keys if keep_old else []), *new_keys()]

    def script(self, *behaviours: Behaviour, at: str = "token") -> None:
        """Answer the next requests so, each once. `at`: token, jwks, metadata, revoke, introspect, resource."""
        self._scripts.setdefault(at, []).extend(behaviours)

    def throttle(self, times: int = 1, **headers: str) -> None:
        """Refuse the next token requests as too many, in the face's manner; `Retry_After="7"` adds a header."""
        self._throttled = times, {name.replace("_", "-"): value for name, value in headers.items()}

    def subject_token(self, subject: str, **claims: Any) -> str:
        """Issue a JWT for `subject` that token exchange takes as subject or actor token."""
        now = int(self.clock.now())
        found = {"iss": self.url, "sub": subject, "iat": now, "exp": now + 300, **claims}
        minted = Minted(minting.sign(found, self.state, "JWT"), "", found, is_jwt=True)
        self.state.minted.append(minted)
        return minted.token

    def _app(self) -> web.Application:
        app = web.Application(client_max_size=1 << 16)
        app.router.add_route("*", "/{path:.*}", self._handle)
        return app

    async def _listen(self, runner: web.AppRunner) -> None:
        face, scheme, host = self.state.face, "http", "127.0.0.1"
        if self.authority is not None:
            scheme, host = "https", "localhost"
        port = await self._port(runner, self._context(ask=face.mtls == "same_port"))
        self._origin = f"{scheme}://{host}:{port}"
        if face.mtls == "alias":
            self.mtls_origin = f"{scheme}://{host}:{await self._port(runner, self._context(ask=True))}"
        self.state.issuer = self._origin + face.issuer_path
        self.state.token_endpoint = f"{scheme}://{face.token_host or host}:{port}{face.token_path}"

    def _context(self, *, ask: bool) -> ssl.SSLContext | None:
        registered = [one for client in self.clients.values() for one in client.certificates]
        return self.authority.server_context(registered, ask=ask) if self.authority else None

    @staticmethod
    async def _port(runner: web.AppRunner, context: ssl.SSLContext | None) -> int:
        taken = len(runner.addresses)
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
        return int(runner.addresses[taken][1])

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        call = await self._record(request)
        name, handler = self._route(call)
        behaviours = self._scripts.get(name, [])
        response = await behaviours.pop(0)(request) if behaviours else None
        if response is None:
            response = self._respond(name, handler, call)
        response.headers.setdefault("Date", formatdate(self.clock.now(), usegmt=True))
        return response

    async def _record(self, request: web.Request) -> Call:
        headers = [(name.lower(), value) for name, value in request.headers.items()]
        url = f"{request.scheme}://{request.host}{request.rel_url.raw_path}"
        secure = request.transport.get_extra_info("ssl_object") if request.transport else None
        der = secure.getpeercert(binary_form=True) if secure else None
        certificate = x509.load_der_x509_certificate(der) if der else None
        call = Call(request.method, request.path, url, headers, await request.read(), certificate)
        self.requests.append(call)
        return call

    def _route(self, call: Call) -> tuple[str, Callable[[Call], web.Response]]:
        face, token = self.state.face, urlsplit(self.token_endpoint)
        # An issuer whose token endpoint is on another host serves it there and nowhere else.
        elsewhere = face.token_host is not None and urlsplit(call.url).hostname != token.hostname
        routes: dict[tuple[str, str], tuple[str, Callable[[Call], web.Response]]] = {
            ("GET", ENDPOINTS["jwks_uri"]): ("jwks", lambda _: _json(200, metadata.jwks(self.state), {})),
            ("GET", "/resource"): ("resource", self._resource),
            **{("GET", path): ("metadata", self._metadata) for path in metadata.paths(self.state)},
        }
        if face.grants and not elsewhere:
            routes["POST", token.path] = ("token", self._token)
        if face.revocation:
            routes["POST", ENDPOINTS["revocation_endpoint"]] = ("revoke", self._revoke)
        if face.introspection != "off":
            routes["POST", ENDPOINTS["introspection_endpoint"]] = ("introspect", self._introspect)
        if face.limits == "github" and github.PATH.fullmatch(call.path):
            routes["POST", call.path] = ("token", self._installation_token)
        if face.limits == "github":
            routes["DELETE", github.REVOKE_PATH] = ("revoke", self._revoke_installation_token)
        known = {path for _, path in routes}
        missing = _text(405 if call.path in known else 404, "", {})
        return routes.get((call.method, call.path), ("", lambda _: missing))

    def _respond(self, name: str, handler: Callable[[Call], web.Response], call: Call) -> web.Response:
        try:
            return handler(call)
        except Refused as refused:
            self.refusals.append(refused)
            return self._refusal(refused, call)
        except github.Problem as problem:
            self.refusals.append(problem)
            return _json(problem.status, problem.body, limits.headers(self.quota, self.state, spent=False))
        except afterwards.Unauthorized as refused:
            self.refusals.append(refused)
            return _json(401, {}, refused.headers)

    def _refusal(self, refused: Refused, call: Call) -> web.Response:
        words = self.state.face.errors.get(refused.reason) or REFUSALS[refused.reason]
        headers = {**NO_STORE, **words.headers, **refused.headers}
        if words.status == 401 and call.header("authorization"):  # RFC 6749 §5.2
            headers["WWW-Authenticate"] = 'Basic realm="token"'
        if words.text is not None:
            return _text(words.status, words.text, headers)
        if words.body is not None:
            return _json(words.status, dict(words.body), headers)
        return _json(words.status, _error(words, refused), headers)

    def _limit(self) -> dict[str, str]:
        """Return the headers of a success, or refuse."""
        times, extra = self._throttled
        if times:
            self._throttled = times - 1, extra
        if times or (self.quota is not None and not self.quota.spend()):
            headers = {**limits.headers(self.quota, self.state, spent=True), **(extra if times else {})}
            refused = Refused("throttled", "quota")
            refused.headers.update(headers)
            raise refused
        return limits.headers(self.quota, self.state, spent=False)

    def _token(self, call: Call) -> web.Response:
        state, form = self.state, call.parameters()
        granted, more = grants.grant(call, form, state)
        confirmation, headers = self._confirmation(call, granted)
        headers |= self._limit()
        minted = minting.mint(granted, state, confirmation)
        token_type = "DPoP" if "jkt" in confirmation else state.face.token_type
        return _json(200, minting.answer(minted, granted, state, token_type) | more, NO_STORE | headers)

    def _confirmation(self, call: Call, granted: Grant) -> tuple[dict[str, str], dict[str, str]]:
        """Return `cnf` of the token to come, and headers."""
        state, client, found = self.state, granted.client, {}
        headers: dict[str, str] = {}
        if state.face.dpop == "on":
            jkt = dpop.check(call, state, state.token_nonces)
            if jkt is None and client.dpop_bound:
                raise Refused("missing_proof")
            if jkt is not None:
                found["jkt"], headers = jkt, state.token_nonces.after_success()
        if client.certificate_bound and call.thumbprint is None:
            raise Refused("malformed", "this client's tokens are bound to its certificate")
        if call.thumbprint is not None and (state.face.bind_certificates or client.certificate_bound):
            found["x5t#S256"] = call.thumbprint
        return found, headers

    def _metadata(self, _: Call) -> web.Response:
        face = self.state.face
        endpoints = {"token_endpoint": self.token_endpoint, "jwks_uri": self.jwks_uri}
        if face.revocation:
            endpoints["revocation_endpoint"] = self.revocation_endpoint
        if face.introspection != "off":
            endpoints["introspection_endpoint"] = self.introspection_endpoint
        found = metadata.document(self.state, endpoints, self.mtls_origin) | self.metadata_changes
        return _json(200, {name: value for name, value in found.items() if value is not None}, {})

    def _revoke(self, call: Call) -> web.Response:
        self.revoked.extend(value for name, value in call.form if name == "token")
        afterwards.revoke(call, self.state)
        return _text(200, "", NO_STORE)

    def _introspect(self, call: Call) -> web.Response:
        return _json(200, afterwards.introspect(call, self.state), NO_STORE)

    def _resource(self, call: Call) -> web.Response:
        body, headers = afterwards.resource(call, self.state)
        return _json(200, body, headers)

    def _installation_token(self, call: Call) -> web.Response:
        number = github.PATH.fullmatch(call.path)
        assert number is not None
        try:
            headers = self._limit()
        except Refused as refused:
            problem = github.Problem(403, f"API rate limit exceeded for installation ID {number[1]}.")
            return _json(problem.status, problem.body, refused.headers)
        return _json(201, github.create(call, int(number[1]), self.installations, self.state), headers)

    def _revoke_installation_token(self, call: Call) -> web.Response:
        self.revoked.append(github.bearer(call, ("bearer", "token")))
        github.revoke(call, self.state)
        return web.Response(status=204)


def _error(words: Words, refused: Refused) -> dict[str, Any]:
    """Return the body of RFC 6749 §5.2, with Entra's members where it has codes."""
    body: dict[str, Any] = {"error": words.error}
    if words.description or refused.detail:
        body["error_description"] = words.description or refused.detail
    if words.codes:
        trace, correlation = str(uuid4()), str(uuid4())
        body["error_description"] += f" Trace ID: {trace} Correlation ID: {correlation}"
        body |= {"error_codes": list(words.codes), "trace_id": trace, "correlation_id": correlation}
    return body

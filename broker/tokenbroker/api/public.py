"""The socket that programs ask: the OAuth token endpoint and what belongs to it.

Rules of this file:
1. No GET returns a token.
2. Only the user's own processes are heard: another uid is refused at connect, before a byte is read.
3. What is unknown in a request is ignored; what is known and wrong is refused.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Final

from tokenbroker.api import views
from tokenbroker.api.messages import Response
from tokenbroker.api.routes import Api, json_response, refused
from tokenbroker.broker import Served
from tokenbroker.errors import UsageError
from tokenbroker_client import proof, wire

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from tokenbroker.api.messages import Request
    from tokenbroker.api.routes import Route
    from tokenbroker.broker import Broker
    from tokenbroker.otp import OneTimePasswords
    from tokenbroker.ports import PeerInspector
    from tokenbroker.proofs import Proofs

FORM: Final = "application/x-www-form-urlencoded"
REMEMBERED: Final = 64  # request bodies, 16 KiB at most: a program asks in the same words again and again


class PublicApi(Api):
    """Handler of the public socket."""

    def __init__(
        self, broker: Broker, otp: OneTimePasswords, proofs: Proofs, inspector: PeerInspector, *, uid: int
    ) -> None:
        """Serve `broker`, `otp` and `proofs` to processes of `uid`."""
        routes: dict[str, Route] = {
            wire.TOKEN_PATH: ("POST", self._token),
            wire.REJECTED_PATH: ("POST", self._rejected),
            wire.PROOF_PATH: ("POST", self._proof),
            wire.OTP_PATH: ("POST", self._one_time_password),
            wire.PROFILES_PATH: ("GET", self._profiles),
            wire.ME_PATH: ("GET", self._me),
            wire.HEALTH_PATH: ("GET", lambda _: Response(200, b'{"status":"ok"}')),
        }
        super().__init__(routes, inspector, uid=uid)
        self._broker = broker
        self._otp = otp
        self._proofs = proofs
        self._decode = lru_cache(REMEMBERED)(wire.decode_request)

    def _token(self, request: Request) -> Response | Awaitable[Response]:
        kind = request.headers.get("content-type", FORM).partition(";")[0].strip().lower()
        if kind != FORM:
            raise UsageError("the request is not a form", hint=f"send it as {FORM} (RFC 6749 §4.4.2)")
        # A library may send a credential of its own, which is ignored here and must not be kept (RFC 6749 §2.3.1).
        theirs = b"client_secret" in request.body or b"client_assertion" in request.body
        decode = wire.decode_request if theirs else self._decode
        try:
            wanted = decode(request.body)
        except wire.WireError as error:
            raise refused(error) from None
        served = self._broker.request(wanted, request.connection.state)
        return _answer(served) if isinstance(served, Served) else _later(served)

    def _rejected(self, request: Request) -> Response:
        try:
            profile, fingerprint = wire.decode_rejected(request.body)
        except wire.WireError as error:
            raise refused(error) from None
        dropped = self._broker.rejected(profile, fingerprint, request.connection.state)
        return json_response({"dropped": dropped})

    def _proof(self, request: Request) -> Response:
        try:
            wanted = proof.decode_request(request.body)
        except wire.WireError as error:
            raise refused(error) from None
        made = self._proofs.make(wanted, request.connection.state)
        answer = proof.ProofAnswer(made.proof, fingerprint=made.fingerprint, thumbprint=made.thumbprint)
        return Response(200, proof.encode_answer(answer))

    async def _one_time_password(self, request: Request) -> Response:
        try:
            wanted = wire.decode_otp(request.body)
        except wire.WireError as error:
            raise refused(error) from None
        code = await self._otp.give(
            wanted.reference,
            request.connection.state,
            may_prompt=wanted.interaction != "never",
            lowered=wanted.agent_type == "autonomous",
            reason=wanted.reason,
        )
        return json_response({"otp": code.reveal()})

    def _profiles(self, request: Request) -> Response:
        return Response(200, wire.encode_profiles(views.profiles(self._broker, request.connection.state)))

    def _me(self, request: Request) -> Response:
        return json_response(views.peer(request.connection.state))


async def _later(served: Awaitable[Served]) -> Response:
    return _answer(await served)


def _answer(served: Served) -> Response:
    token, now = served.token, served.now
    remaining = token.remaining(now)
    answer = wire.TokenAnswer(
        access_token=token.value.reveal(),
        token_type=token.token_type,
        expires_in=int(remaining),
        scope=" ".join(token.scope),
        expires_at=int(now.wall + remaining),
        profile=served.key.profile,
        agent_type=served.agent_type,
        owner=served.owner,
        fingerprint=token.fingerprint,
        source=served.source,
        session=served.session,
    )
    return Response(200, wire.encode_token(answer))

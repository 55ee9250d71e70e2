"""GitHub Apps: not OAuth, but a signed JWT against an installation's token.

After GitHub's REST documentation ("Apps", "Rate limits") and messages quoted in public issues.
"""

from __future__ import annotations

import datetime as dt
import re
import secrets
import string
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tests.standins.second_issuer import assertions, jose
from tests.standins.second_issuer.state import Minted

if TYPE_CHECKING:
    from tests.standins.second_issuer.call import Call
    from tests.standins.second_issuer.state import Client, State

PATH = re.compile(r"/app/installations/(\d+)/access_tokens")
REVOKE_PATH = "/installation/token"
LEVELS = {"read": 1, "write": 2, "admin": 3}
LONGEST = 600
LIFETIME = 3600
DOCS = "https://docs.github.com/rest"


@dataclass
class Installation:
    """Where an app is installed; `app` is the client's id, and also `iss` of its JWT."""

    app: str
    permissions: dict[str, str] = field(default_factory=lambda: {"contents": "write", "metadata": "read"})
    repositories: list[str] = field(default_factory=lambda: ["one", "two"])
    selection: str = "all"
    suspended: bool = False


class Problem(Exception):
    """GitHub's error: a status and a message."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message

    @property
    def body(self) -> dict[str, str]:
        return {"message": self.message, "documentation_url": DOCS, "status": str(self.status)}


def bearer(call: Call, schemes: tuple[str, ...] = ("bearer",)) -> str:
    """Return the Authorization header's token."""
    scheme, _, token = (call.one("authorization") or "").partition(" ")
    if scheme.lower() not in schemes or not token:
        raise Problem(401, "Requires authentication")
    return token


def create(call: Call, number: int, installations: dict[int, Installation], state: State) -> dict[str, Any]:
    """Return the body of `201 Created`."""
    if not call.header("user-agent"):
        raise Problem(403, "Request forbidden by administrative rules. Please make sure your request has a User-Agent")
    app = _app(bearer(call), state)
    installation = installations.get(number)
    if installation is None or installation.app != app.id:
        raise Problem(404, "Not Found")
    if installation.suspended:
        raise Problem(403, "This installation has been suspended")
    asked = _asked(call.body)
    permissions = _permissions(asked.get("permissions"), installation)
    repositories = _repositories(asked.get("repositories"), installation)
    now = state.clock.now()
    token = "ghs_" + "".join(secrets.choice(string.ascii_letters + string.digits) for _ in range(36))
    claims = {"exp": now + LIFETIME, "iat": now, "installation": number, "permissions": permissions}
    state.minted.append(Minted(token, app.id, claims, is_jwt=False))
    body: dict[str, Any] = {
        "token": token,
        "expires_at": dt.datetime.fromtimestamp(int(now) + LIFETIME, dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "permissions": permissions,
        "repository_selection": installation.selection if repositories is None else "selected",
    }
    if repositories is not None:
        body["repositories"] = [{"id": 1 + index, "name": name} for index, name in enumerate(repositories)]
    return body


def revoke(call: Call, state: State) -> None:
    """End the token that the request is made with."""
    minted = state.active(bearer(call, ("bearer", "token")))
    if minted is None:
        raise Problem(401, "Bad credentials")
    minted.revoked = True


def _app(token: str, state: State) -> Client:
    try:
        jws = jose.parse(token)
        issuer = jws.claims.get("iss")
        app = state.clients.get(str(issuer)) if isinstance(issuer, str | int) else None
        if app is None or not app.enabled:
            raise Problem(404, "Integration not found")
        _signed_by(app, jws)
        _times(jws.claims, state.clock.now())
    except jose.Malformed as error:
        raise Problem(401, "A JSON web token could not be decoded") from error
    return app


def _signed_by(app: Client, jws: jose.Jws) -> None:
    problem = jose.Malformed("no key")  # GitHub wants no kid: any of the app's keys may have signed
    for jwk in app.keys:
        try:
            return jose.verify(jws, jose.from_jwk(jwk), ("RS256",))
        except jose.Malformed as error:
            problem = error
    raise problem


def _times(claims: dict[str, Any], now: float) -> None:
    iat, exp = assertions.moment(claims, "iat"), assertions.moment(claims, "exp")
    if iat is None or iat > now:
        raise Problem(
            401, "'Issued at' claim ('iat') must be an Integer representing the time that the assertion was issued"
        )
    if exp is None or exp <= now:
        raise Problem(
            401,
            "'Expiration time' claim ('exp') must be a numeric value representing the future time at which the "
            "assertion expires",
        )
    if exp - now > LONGEST:
        raise Problem(401, "'Expiration time' claim ('exp') is too far in the future")


def _asked(body: bytes) -> dict[str, Any]:
    if not body:
        return {}
    try:
        return jose.read_object(body)
    except jose.Malformed as error:
        raise Problem(400, "Problems parsing JSON") from error


def _permissions(asked: object, installation: Installation) -> dict[str, str]:
    if asked is None:
        return dict(installation.permissions)
    if not isinstance(asked, dict):
        raise Problem(422, "Invalid request.")
    for name, level in asked.items():
        if LEVELS.get(level, 9) > LEVELS.get(installation.permissions.get(name, ""), 0):
            raise Problem(422, "The permissions requested are not granted to this installation.")
    return {**asked, **({"metadata": "read"} if "metadata" in installation.permissions else {})}


def _repositories(asked: object, installation: Installation) -> list[str] | None:
    if asked is None:
        return None
    if not isinstance(asked, list) or not asked:
        raise Problem(422, "Invalid request.")
    if not set(asked) <= set(installation.repositories):
        raise Problem(
            422,
            "There is at least one repository that does not exist or is not accessible to the parent installation.",
        )
    return asked

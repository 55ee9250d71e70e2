"""`[clients.NAME]`: a table of TOML to a `ClientConfig`, which has what its grant and its authentication need.

Raises `Problem` placed relative to the table.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from tokenbroker.config import ClientConfig
from tokenbroker.config.fields import Problem, boolean, choice, either, expected, fields, inside, name_of, text
from tokenbroker.config.issuers import AUTHS, SELF_PROVING, default_auth, grant_type
from tokenbroker.config.values import agent_type, client_id, secret_reference, token_type
from tokenbroker.model import AgentType

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from tokenbroker.config import IssuerConfig

AUTH_NEEDS: Final[Mapping[str, tuple[str, ...]]] = {
    "client_secret_post": ("client_secret",),
    "client_secret_basic": ("client_secret",),
    "client_secret_jwt": ("client_secret",),
    "private_key_jwt": ("private_key",),
    "tls_client_auth": ("certificate", "private_key"),
    "self_signed_tls_client_auth": ("certificate", "private_key"),
    "none": (),
}
"""Client authentication method → the keys that it needs."""
GRANT_NEEDS: Final[Mapping[str, tuple[str, ...]]] = {
    "client_credentials": (),
    "jwt-bearer": ("private_key",),
    "token-exchange": (),
    "github-app": ("private_key", "installation"),
}
"""Grant → the keys that it needs beside those of the authentication."""
GRANT_KEYS: Final[Mapping[str, tuple[str, ...]]] = {
    "jwt-bearer": ("subject",),
    "token-exchange": (
        "subject_token",
        "subject_profile",
        "subject_token_type",
        "actor_token",
        "actor_profile",
        "actor_token_type",
        "requested_token_type",
    ),
    "github-app": ("installation",),
}
"""Grant → the keys that mean something to it alone."""

_CREDENTIALS: Final = ("client_secret", "private_key", "certificate", "key_id")
_INSTALLATION: Final = re.compile(r"[0-9]{1,20}")


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the rest of the document defines. The names are complete; an issuer with a fault of its own has no value."""

    backend: str | None
    autonomous_backend: str | None
    """That of `[vault.autonomous]`, or else the same as `backend`."""
    issuer_names: Collection[str]
    client_names: Collection[str]
    profile_names: Collection[str]
    issuers: Mapping[str, IssuerConfig]


def client(name: str, value: object, around: Surroundings) -> ClientConfig:
    """Parse `[clients.NAME]`, which must have what its authentication method and grant need, and nothing for others."""
    autonomous = isinstance(value, dict) and value.get("agent_type") == AgentType.AUTONOMOUS
    backend = around.autonomous_backend if autonomous else around.backend
    reference = secret_reference(backend)
    profile = name_of("a profile", around.profile_names, define="[profiles.NAME]")
    found = fields(
        value,
        {
            "issuer": name_of("an issuer", around.issuer_names, define="[issuers.NAME]"),
            "agent_type": agent_type,
            "owner": text,
            "client_id": client_id(backend),
            "client_secret": reference,
            "private_key": reference,
            "certificate": reference,
            "key_id": text,
            "auth": choice(*AUTHS),
            "basic_encoding": choice("rfc6749", "raw"),
            "grant": grant_type,
            "dpop": boolean,
            "subject": text,
            "subject_token": reference,
            "subject_profile": profile,
            "subject_token_type": token_type,
            "actor_token": reference,
            "actor_profile": profile,
            "actor_token_type": token_type,
            "requested_token_type": token_type,
            "installation": installation,
        },
        required=("issuer", "agent_type", "owner", "client_id"),
    )
    at_issuer = around.issuers.get(found["issuer"])
    if at_issuer is not None:
        _check_grant(found, at_issuer)
    return ClientConfig(name=name, **found)


def _check_grant(found: dict[str, Any], issuer: IssuerConfig) -> None:
    """Refuse a client that lacks what its grant and authentication need, or has what they have no use for."""
    grant = found.get("grant", issuer.grant)
    if "github-app" in {grant, issuer.grant} and grant != issuer.grant:
        with inside("grant"):
            raise Problem("all clients of an issuer speak GitHub's language, or none", hint='use preset = "github-app"')
    if "auth" not in found and grant != issuer.grant:
        found["auth"] = default_auth(grant, issuer.auth)
    auth = found.get("auth", issuer.auth)
    if auth == "none" and grant not in SELF_PROVING:
        with inside("auth" if "auth" in found else "grant"):
            raise Problem(f"grant `{grant}` needs a client that authenticates", hint="set another `auth`")
    if auth != "none" and grant == "github-app":
        with inside("auth"):
            raise Problem("an app of GitHub's authenticates by its key alone", hint="remove `auth`")
    if grant == "token-exchange":
        _check_exchange(found)
    _check_keys(found, auth, grant)
    signs = auth == "private_key_jwt" or grant == "jwt-bearer"
    if signs and issuer.assertion_header != "kid" and not found.keys() & {"certificate", "key_id"}:
        with inside("certificate"):
            raise Problem(
                f"required by assertion_header `{issuer.assertion_header}` of issuer `{issuer.name}`, and not there",
                hint="add `certificate` with the reference of the certificate, "
                "which is that of `private_key` where one PEM text holds both",
            )


def _check_keys(found: Mapping[str, Any], auth: str, grant: str) -> None:
    needed = dict.fromkeys(AUTH_NEEDS[auth], f"auth `{auth}`")
    needed |= dict.fromkeys(GRANT_NEEDS[grant], f"grant `{grant}`")
    for key in (key for key in needed if key not in found):
        with inside(key):
            raise Problem(f"required by {needed[key]}, and not there", hint=_instead(found, key, auth, grant))
    useful = {*needed, *GRANT_KEYS.get(grant, ())}
    if "private_key" in needed:
        useful |= {"key_id", "certificate"}  # of which the header x5t can be made
    useless = {key: (f"auth `{auth}`", f"remove `{key}`, or change `auth`") for key in _CREDENTIALS}
    for other, keys in GRANT_KEYS.items():
        useless |= {key: (f"grant `{grant}`", f'remove `{key}`, or set grant = "{other}"') for key in keys}
    for key in found:
        if key in useless and key not in useful:
            with inside(key):
                raise Problem(f"{useless[key][0]} has no use for it", hint=useless[key][1])


def _instead(found: Mapping[str, Any], key: str, auth: str, grant: str) -> str:
    """Say how a client that lacks `key` can do: by the method that fits what it has, or by adding the key."""
    fits = [auth for auth, keys in AUTH_NEEDS.items() if keys and found.keys() >= set(keys)]
    add = f"add the key `{key}`" + ("" if key == "installation" else " with a reference")
    if not fits or key not in {"client_secret", "private_key"} or key in GRANT_NEEDS[grant]:
        return add
    other = f'set auth = "{fits[-1] if "certificate" in found else fits[0]}" on the client'
    # No preset has this method, so somebody wrote it.
    return f"{add}, or {other}" if auth == "private_key_jwt" else other


def _check_exchange(found: Mapping[str, Any]) -> None:
    """Token exchange needs one subject, and may have one actor (RFC 8693 §2.1)."""
    for who in ("subject", "actor"):
        both = (f"{who}_token", f"{who}_profile")
        if all(key in found for key in both):
            with inside(both[1]):
                raise expected(f"either {either(tuple(f'`{key}`' for key in both))}", "both", hint="remove one of them")
    if "subject_token" not in found and "subject_profile" not in found:
        with inside("subject_profile"):
            raise Problem(
                "required by grant `token-exchange`, and not there",
                hint="name the profile whose token is exchanged, or set `subject_token` to a reference",
            )


def installation(value: object) -> str:
    """Parse the number of an installation, which people write with quotes or without."""
    number = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    if not isinstance(number, str) or not _INSTALLATION.fullmatch(number):
        raise expected(
            "the number of an installation",
            "another value",
            hint="it stands at the end of the address of the installation's settings at GitHub",
        )
    return number

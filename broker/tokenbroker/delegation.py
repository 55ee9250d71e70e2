"""Tokens that are exchanged for others (RFC 8693): whose tokens a client presents, and who acts for whom.

Pure. A client names the profiles whose tokens it presents; those have clients too, so that one token may depend on a
chain of others.
"""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

from tokenbroker import policy
from tokenbroker.errors import ClientBeneathRejected, CredentialRejected, IssuerMisconfigured, TokenMismatch
from tokenbroker.scrub import scrub

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tokenbroker.config import ClientConfig, Config
    from tokenbroker.errors import BrokerError
    from tokenbroker.model import Secret, TokenKey

_SHOWN = 100  # characters of a claim that reach a person


def presented(config: Config, client: ClientConfig) -> tuple[TokenKey, ...]:
    """Return the tokens of other profiles that `client` presents, each once: all of a profile's scopes.

    They are minted by the first client of that profile with the same `agent_type`. Raises `IssuerMisconfigured` when
    there is none, and when the profiles exchange each other's tokens in a circle.
    """
    for name in _profiles(client):
        if _key(config, client, name) is None:
            raise IssuerMisconfigured(
                f"client `{client.name}` exchanges the token of profile `{name}`, which has no {client.agent_type} "
                "client",
                hint=f"add a client with agent_type = {str(client.agent_type)!r} to [profiles.{name}] clients",
            )
    if any(key.client == client.name for key in lineage(config, client)):
        raise IssuerMisconfigured(
            f"client `{client.name}` exchanges a token that is made from its own",
            hint=f"correct subject_profile or actor_profile in [clients.{client.name}]",
        )
    return _keys(config, client)


def lineage(config: Config, client: ClientConfig) -> tuple[TokenKey, ...]:
    """Return every token that one of `client` depends on, at any depth, each once; what is not defined is left out."""
    found: dict[TokenKey, None] = {}
    ahead = list(_keys(config, client))
    while ahead:
        key = ahead.pop(0)
        if key not in found:
            found[key] = None
            ahead += _keys(config, config.clients[key.client])
    return tuple(found)


def credential(config: Config, client: str) -> object:
    """Return all of the configuration that decides whether an issuer takes the client's credential."""
    found = config.clients.get(client)
    return (found, config.issuers.get(found.issuer) if found else None)


def definition(config: Config, key: TokenKey) -> object:
    """Return all of the configuration that a cached token depends on."""
    client = config.clients.get(key.client)
    beneath = lineage(config, client) if client else ()
    return [
        (config.profiles.get(each.profile), client, config.issuers.get(client.issuer) if client else None)
        for each in (key, *beneath)
        for client in (config.clients.get(each.client),)
    ]


def not_had(error: BrokerError, inner: TokenKey, outer: TokenKey, wait: float | None) -> BrokerError:
    """Say that the token of `inner`, which `outer` exchanges, cannot be had because of `error`: same class, same hint.

    What an issuer said of the other client's credential is no verdict on this one's.
    """
    kind = ClientBeneathRejected if isinstance(error, CredentialRejected) else type(error)
    return kind(
        f"the token of profile `{inner.profile}`, which profile `{outer.profile}` exchanges, cannot be had: "
        f"{error.message}",
        hint=error.hint,
        retry_after=wait or error.retry_after,
    )


def check_actor(claims: Mapping[str, Any] | None, client: ClientConfig, client_id: str, actor: Secret | None) -> None:
    """Check that a token names who acts (`act`, RFC 8693 §4.1) when `actor` was presented to get it.

    It must name the client, or whom the actor's token is about where that can be read; an opaque one proves nothing.
    Raises `TokenMismatch` naming both.
    """
    if actor is None or claims is None:
        return
    payload = _payload(actor)
    known = [payload.get(name) for name in ("sub", "client_id", "azp")] if payload else []
    fit = sorted({client_id, *(name for name in known if isinstance(name, str))})
    act = claims.get("act")
    found = (act.get("sub") or act.get("client_id")) if isinstance(act, dict) else None
    if found in fit or (isinstance(found, str) and payload is None):
        return
    shown = "absent" if found is None else scrub(str(found), (actor,), _SHOWN)
    raise TokenMismatch(
        f"the token's claim act.sub is {shown}, for client `{client.name}` acts {' or '.join(fit)}",
        hint=f"let the issuer `{client.issuer}` name the actor in its tokens, or remove the actor from "
        f"[clients.{client.name}]",
    )


def _profiles(client: ClientConfig) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for name in (client.subject_profile, client.actor_profile) if name is not None))


def _keys(config: Config, client: ClientConfig) -> tuple[TokenKey, ...]:
    found = (_key(config, client, name) for name in _profiles(client))
    return tuple(key for key in found if key is not None)


def _key(config: Config, client: ClientConfig, name: str) -> TokenKey | None:
    profile = config.profiles.get(name)
    if profile is None:
        return None
    fit = (config.clients[each] for each in profile.clients)
    minter = next((each for each in fit if each.agent_type is client.agent_type), None)
    return None if minter is None else policy.key_for(profile, minter, None)


def _payload(token: Secret) -> dict[str, Any] | None:
    """Return a JWT's claims, unverified (its issuer is not ours to judge), or `None` for an opaque token."""
    parts = token.reveal().split(".")
    if len(parts) != 3:  # noqa: PLR2004  # header, payload, signature (RFC 7515 §3.1)
        return None
    try:
        payload = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (ValueError, RecursionError):
        return None
    return payload if isinstance(payload, dict) else None

"""What a token is for: scopes, audience and organization, by the face's rules."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from tests.standins.second_issuer.refusals import Refused

if TYPE_CHECKING:
    from tests.standins.second_issuer.call import Parameters
    from tests.standins.second_issuer.faces import Face
    from tests.standins.second_issuer.state import Client

SCOPE = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+(?: [\x21\x23-\x5b\x5d-\x7e]+)*")
"""RFC 6749 §3.3."""
PROJECT = re.compile(r"urn:zitadel:iam:org:project:id:(.+):aud")
DEFAULT = "/.default"


def asked_scopes(scope: str | None) -> tuple[str, ...]:
    """Return the scopes of a request; refused where they break the grammar."""
    if scope is None:
        return ()
    if not SCOPE.fullmatch(scope):
        raise Refused("bad_scope", "not a list of scopes")
    return tuple(dict.fromkeys(scope.split(" ")))


def scopes(client: Client, asked: tuple[str, ...], face: Face) -> tuple[str, ...]:
    """Return the scopes that are granted."""
    if not asked and face.scope != "optional":
        raise Refused("missing_scope")
    if face.scope == "default":
        if len(asked) != 1 or not asked[0].endswith(DEFAULT):
            raise Refused("bad_scope", " ".join(asked))
        return client.scopes
    if face.scope_must_have is not None and face.scope_must_have not in asked:
        raise Refused("bad_scope", f"{face.scope_must_have} is missing")
    if not asked:
        return client.scopes
    free = {scope for scope in asked if PROJECT.fullmatch(scope) or scope == face.scope_must_have}
    granted = tuple(scope for scope in asked if scope in client.scopes or scope in free)
    if len(granted) != len(asked) and face.unknown_scope == "refuse":
        raise Refused("bad_scope", f"not allowed: {', '.join(set(asked) - set(granted))}")
    return granted


def audience(client: Client, form: Parameters, asked: tuple[str, ...], face: Face) -> tuple[str, ...]:
    """Return what `aud` will be; empty where the face then gives an opaque token."""
    if face.target == "client":
        return (client.id,)
    if face.target == "scope":
        return _from_scope(client, asked, face)
    wanted = _wanted(form, face)
    allowed = client.audiences or (face.default_audience,)
    foreign = set(wanted) - set(allowed)
    if foreign:
        raise Refused("bad_target", f"not allowed: {', '.join(foreign)}")
    if wanted:
        return wanted
    return () if face.without_audience == "opaque" else allowed[:1]


def _wanted(form: Parameters, face: Face) -> tuple[str, ...]:
    audiences, resources = form.all("audience"), form.all("resource")
    for resource in resources:
        if "#" in resource or ":" not in resource:  # RFC 8707 §2: an absolute URI without a fragment
            raise Refused("bad_target", f"resource {resource}")
    match face.target:
        case "audience":
            wanted = audiences
        case "audiences":
            wanted = [one for value in audiences for one in value.split(" ")]
        case "resource":
            wanted = resources
        case _:
            wanted = [*audiences, *resources]
    if len(wanted) > 1 and face.target != "audiences":
        raise Refused("bad_target", "one target at a time")
    return tuple(wanted)


def _from_scope(client: Client, asked: tuple[str, ...], face: Face) -> tuple[str, ...]:
    if face.scope == "default":
        resource = asked[0].removesuffix(DEFAULT)
        if resource not in (client.audiences or (face.default_audience,)):
            raise Refused("bad_target", resource)
        return (resource,)
    projects = [match[1] for scope in asked if (match := PROJECT.fullmatch(scope))]
    return tuple(projects) or (client.id,)


def organization(client: Client, asked: str | None) -> str | None:
    """Return `org_id`: what was asked for, or the client's only one."""
    if asked is None:
        return client.organizations[0] if len(client.organizations) == 1 else None
    if asked not in client.organizations:
        raise Refused("bad_organization", asked)
    return asked

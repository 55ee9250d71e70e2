"""`[issuers.NAME]`: a table of TOML to an `IssuerConfig`, with its preset's defaults.

Raises `Problem` placed relative to the table.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, get_args

from tokenbroker.config import AssertionAlg, GrantType, IssuerConfig, RevokeOn
from tokenbroker.config.fields import (
    Problem,
    boolean,
    choice,
    expected,
    fields,
    inside,
    list_of,
    share,
    table_of,
    text,
)
from tokenbroker.config.presets import LONGEST_ASSERTION, PRESETS
from tokenbroker.config.values import (
    absolute_path,
    duration,
    duration_up_to,
    issuer_url,
    proxy_url,
    slashed_url,
    token_url,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tokenbroker.config.fields import Parser
    from tokenbroker.config.presets import Preset

GRANTS: Final = get_args(GrantType)
AUTHS: Final = (
    "client_secret_post",
    "client_secret_basic",
    "client_secret_jwt",
    "private_key_jwt",
    "tls_client_auth",
    "self_signed_tls_client_auth",
    "none",
)
"""The client authentication methods (OIDC Core §9, RFC 8705 §2)."""
SELF_PROVING: Final = ("jwt-bearer", "github-app")
"""Grants that prove by themselves who asks, so that a client need not authenticate."""
MAX_TIMEOUT: Final = "60s"  # nobody waits longer; a caller of ours does for 9 s
MAX_TTL: Final = "24h"  # for which a token is believed at most, whatever is said of it
MIN_ASSERTION_TTL: Final = 30.0  # seconds; 10 of them are given away to clocks that differ

_REVOKE_ON: Final = get_args(RevokeOn)
_GRANT_URNS: Final = {
    "urn:ietf:params:oauth:grant-type:jwt-bearer": "jwt-bearer",
    "urn:ietf:params:oauth:grant-type:token-exchange": "token-exchange",
}
_OWN_PARAMS: Final = {
    "grant_type": "set `grant` on the issuer or the client",
    "client_id": "set `client_id` on the client",
    "client_secret": "set `client_secret` on the client",
    "redirect_uri": "no grant that the broker uses has one",
    "scope": "set `scopes` on the profile",
    "audience": "set `audience` on the profile",
    "resource": "set `resource` on the profile",
    "assertion": 'set grant = "jwt-bearer" and `private_key` on the client',
    "subject_token": "set `subject_token` or `subject_profile` on the client",
    "subject_token_type": "set it on the client",
    "actor_token": "set `actor_token` or `actor_profile` on the client",
    "actor_token_type": "set it on the client",
    "requested_token_type": "set it on the client",
}
_OWN_PREFIX: Final = "client_"


def issuer(name: str, value: object) -> IssuerConfig:
    """Parse `[issuers.NAME]`, with its preset's defaults."""
    found = fields(value, _KEYS)
    preset = PRESETS[found.get("preset", "oidc")]
    _check_addresses(found, preset)
    if "url" in found:
        with inside("url"):
            url_of(preset)(found["url"])
    _check_assertion_ttl(found.get("assertion_ttl", preset.assertion_ttl), preset.longest_assertion)
    settings = {**preset.defaults(), **found, "claims": {**preset.claims, **found.get("claims", {})}}
    if "auth" not in found and settings["grant"] != preset.grant:
        settings["auth"] = default_auth(settings["grant"], preset.auth)
    config = IssuerConfig(name=name, **settings)
    if config.default_ttl > config.max_ttl:
        with inside("default_ttl" if "default_ttl" in found else "max_ttl"):
            raise expected("`default_ttl` to be at most `max_ttl`", "more")
    if config.grant == "github-app" and config.organization is not None:
        with inside("organization"):
            raise Problem(
                "GitHub has no use for it", hint="set `installation` on the client, which is one organization's"
            )
    if config.signature == "require" and config.url is None and config.jwks_uri is None:
        with inside("signature"):
            raise Problem("required, and there are no keys to check it with", hint="set `url`, or `jwks_uri`")
    return config


def default_auth(grant: str, usual: str) -> str:
    """Return how a client authenticates that uses `grant` and does not say how; `usual` is the issuer's way."""
    if grant in SELF_PROVING:
        return "none"
    return "client_secret_post" if usual == "none" else usual


def grant_type(value: object) -> str:
    """Parse a grant, by its short name or by the URN that is sent."""
    return str(choice(*GRANTS)(_GRANT_URNS.get(value, value) if isinstance(value, str) else value))


def own_parameter(name: str) -> str | None:
    """Return where a parameter is set that the broker sends itself; `None` for one that `extra_params` may have.

    The configuration cannot say them twice, or differently.
    """
    other = "set `auth` and what it needs on the client" if name.startswith(_OWN_PREFIX) else None
    return _OWN_PARAMS.get(name, other)


def extra_params(value: object) -> dict[str, str]:
    """Parse parameters that are sent beside the protocol's own."""
    found: dict[str, str] = table_of(text, "strings")(value)
    for name in found:
        with inside(name):
            if not name:
                raise expected("the name of a parameter", "an empty one")
            if (hint := own_parameter(name)) is not None:
                raise Problem("a parameter that the broker sends itself", hint=hint)
    return found


def url_of(preset: Preset) -> Parser:
    """Return the parser of the identifier that an issuer of this kind has."""
    return slashed_url if preset.url_ends_with_slash else issuer_url


def _check_addresses(found: dict[str, Any], preset: Preset) -> None:
    """Fill in the preset's own addresses when the table has none."""
    if "url" in found or "token_endpoint" in found:
        return
    if preset.url is None and preset.token_endpoint is None:
        raise expected("`url` or `token_endpoint`", "neither", hint=f'add url = "{preset.url_example}"')
    found |= {key: at for key, at in (("url", preset.url), ("token_endpoint", preset.token_endpoint)) if at}


def _check_assertion_ttl(seconds: float, longest: float) -> None:
    if not MIN_ASSERTION_TTL <= seconds <= longest:
        most = "1h" if longest == LONGEST_ASSERTION else f"{longest / 60:.0f}m"
        with inside("assertion_ttl"):
            raise expected(
                f"a duration between 30s and {most}", "a shorter one" if seconds < MIN_ASSERTION_TTL else "a longer one"
            )


def _revoke_on(value: object) -> tuple[str, ...]:
    return tuple(dict.fromkeys(list_of(choice(*_REVOKE_ON), f"any of {', '.join(_REVOKE_ON)}")(value)))


_KEYS: Final[Mapping[str, Parser]] = {
    "preset": choice(*PRESETS),
    "url": issuer_url,
    "token_endpoint": token_url,
    "revocation_endpoint": token_url,
    "introspection_endpoint": token_url,
    "jwks_uri": token_url,
    "assertion_subject": choice("client", "none"),
    "assertion_scope": boolean,
    "organization": text,
    "grant": grant_type,
    "auth": choice(*AUTHS),
    "basic_encoding": choice("rfc6749", "raw"),
    "dpop": boolean,
    "claims": lambda claims: fields(claims, {"owner": text, "agent_type": text, "org_id": text}),
    "extra_params": extra_params,
    "default_ttl": duration,
    "max_ttl": duration_up_to(MAX_TTL),
    "timeout": duration_up_to(MAX_TIMEOUT),
    "ca_file": absolute_path,
    "proxy": proxy_url,
    "granted_scopes": choice("exact", "subset", "ignore"),
    "absent_scope": choice("as_asked", "none"),
    "assertion_audience": text,
    "assertion_alg": choice(*get_args(AssertionAlg)),
    "assertion_header": choice("kid", "x5t", "x5t#S256"),
    "assertion_ttl": duration,
    "token_issuer": text,
    "signature": choice("auto", "require", "ignore"),
    "introspection": choice("auto", "require", "never"),
    "revoke_on": _revoke_on,
    "quota_floor": share,
}

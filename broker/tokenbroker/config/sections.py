"""The tables of the configuration, one function each: a table of TOML to one value of `config.py`.

What a table refers to is an argument. Each raises `Problem` placed relative to its table.
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Final

from tokenbroker.config import (
    ClientConfig,
    IssuerConfig,
    PeerPattern,
    ProfileConfig,
    RuleConfig,
    UnlockConfig,
    VaultConfig,
)
from tokenbroker.config.fields import (
    Problem,
    boolean,
    choice,
    did_you_mean,
    either,
    expected,
    fields,
    inside,
    kind,
    list_of,
    name_of,
    not_empty,
    shown,
    table_of,
    text,
    unknown_key,
)
from tokenbroker.config.presets import PRESETS, UNAVAILABLE
from tokenbroker.config.values import (
    absolute_path,
    client_id,
    credential,
    duration,
    duration_or_never,
    issuer_url,
    otp_pattern,
    proxy_url,
    resource,
    scope,
    secret_reference,
    service_url,
    token_url,
)
from tokenbroker.model import AgentType

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from tokenbroker.config.fields import Parser

VAULT_KEYS: Final[Mapping[str, Mapping[str, Parser]]] = {
    "op": {"account": text, "op": absolute_path, "prompt_timeout": duration},
    "service-account": {"credential": credential, "op": absolute_path, "timeout": duration},
    "connect": {"url": service_url, "credential": credential, "ca_file": absolute_path, "timeout": duration},
    "sdk": {"account": text, "prompt_timeout": duration},
    "keyring": {"prompt_timeout": duration},
    "dev": {},
}
"""Backend → the keys that mean something to it."""
VAULT_NEEDS: Final = {"service-account": ("credential",), "connect": ("url", "credential"), "sdk": ("account",)}
BACKENDS: Final = tuple(backend for backend in VAULT_KEYS if backend != "dev")
PROMPTLESS: Final = ("service-account", "connect")
"""Backends that never ask a person, so that autonomous programs can use them at any time."""
SECRET_KEY: Final = {
    "client_secret_post": "client_secret",
    "client_secret_basic": "client_secret",
    "private_key_jwt": "private_key",
}
"""The client authentication methods of this version (OIDC Core §9), each with the key that it needs."""
LATER_AUTHS: Final = ("tls_client_auth", "self_signed_tls_client_auth", "client_secret_jwt", "none")

# Sent by the broker itself, so that the configuration cannot say them twice, or differently.
_OWN_PARAMS: Final = {
    "grant_type": "the broker speaks client_credentials alone",
    "client_id": "set `client_id` on the client",
    "client_secret": "set `client_secret` on the client",
    "redirect_uri": "the client credentials grant has none",
    "scope": "set `scopes` on the profile",
    "audience": "set `audience` on the profile",
    "resource": "set `resource` on the profile",
}


def vault(value: object, *, allow_dev: bool) -> tuple[VaultConfig, VaultConfig | None]:
    """Parse `[vault]` and, within it, `[vault.autonomous]`."""
    own = {key: item for key, item in value.items() if key != "autonomous"} if isinstance(value, dict) else value
    person = _vault(own, BACKENDS, allow_dev=allow_dev, also={"autonomous"})
    if not isinstance(value, dict) or "autonomous" not in value:
        return person, None
    with inside("autonomous"):
        return person, _vault(value["autonomous"], PROMPTLESS, allow_dev=allow_dev)


def _vault(value: object, backends: tuple[str, ...], *, allow_dev: bool, also: Collection[str] = ()) -> VaultConfig:
    """Parse one vault: which of `backends` it is decides which keys it has."""
    if not isinstance(value, dict):
        raise expected("a table", kind(value))
    with inside("backend"):
        backend = _backend(value.get("backend", backends[0]), backends, allow_dev=allow_dev)
    known: dict[str, Parser] = {"backend": str, **VAULT_KEYS[backend]}
    for key in value:
        if key not in known and any(key in keys for keys in VAULT_KEYS.values()):
            with inside(key):
                raise Problem(f"backend `{backend}` has no such key; it has {either(known)}", hint="remove the line")
        if key not in known:
            with inside(key):
                raise unknown_key(key, [*known, *also])
    return VaultConfig(**fields({"backend": backend, **value}, known, required=VAULT_NEEDS.get(backend, ())))


def _backend(found: object, backends: tuple[str, ...], *, allow_dev: bool) -> str:
    if found == "dev" and not allow_dev:
        raise Problem("backend `dev` works only with `broker serve --dev`", hint="run `broker serve --dev`")
    if found in BACKENDS and found not in backends:
        raise Problem(
            f"backend `{found}` may ask a person, and autonomous programs have none near them",
            hint=f"use {either(backends)}",
        )
    return str(choice(*backends, *(["dev"] if allow_dev else []))(found))


def unlock(value: object) -> UnlockConfig:
    """Parse `[unlock]`."""
    lock = choice("keep", "lock")
    known = {
        "max_age": duration_or_never,
        "idle": duration_or_never,
        "on_sleep": lock,
        "on_screen_lock": lock,
        "on_vault_lock": lock,
        "tokens_on_lock": choice("drop", "keep"),
        "announce": boolean,
    }
    return UnlockConfig(**fields(value, known))


def issuer(name: str, value: object) -> IssuerConfig:
    """Parse `[issuers.NAME]`, with its preset's defaults."""
    found = fields(
        value,
        {
            "preset": _preset,
            "url": issuer_url,
            "token_endpoint": token_url,
            "organization": text,
            "auth": _auth,
            "basic_encoding": choice("rfc6749", "raw"),
            "claims": lambda claims: fields(claims, {"owner": text, "agent_type": text}),
            "extra_params": _extra_params,
            "default_ttl": duration,
            "max_ttl": duration,
            "timeout": duration,
            "ca_file": absolute_path,
            "proxy": proxy_url,
            "granted_scopes": choice("exact", "subset", "ignore"),
            "assertion_audience": text,
            "assertion_alg": choice("RS256", "PS256", "ES256"),
            "assertion_header": choice("kid", "x5t", "x5t#S256"),
        },
    )
    if "url" not in found and "token_endpoint" not in found:
        raise expected("`url` or `token_endpoint`", "neither", hint='add url = "https://…", the issuer\'s address')
    preset = PRESETS[found.get("preset", "oidc")]
    config = IssuerConfig(name=name, **{**preset.defaults(), **found})
    if config.default_ttl > config.max_ttl:
        with inside("default_ttl" if "default_ttl" in found else "max_ttl"):
            raise expected("`default_ttl` to be at most `max_ttl`", "more")
    return config


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
    """Parse `[clients.NAME]`, which must have what its authentication method needs, and nothing for another."""
    autonomous = isinstance(value, dict) and value.get("agent_type") == AgentType.AUTONOMOUS
    backend = around.autonomous_backend if autonomous else around.backend
    reference = secret_reference(backend)
    found = fields(
        value,
        {
            "issuer": name_of("an issuer", around.issuer_names, define="[issuers.NAME]"),
            "agent_type": _agent_type,
            "owner": text,
            "client_id": client_id(backend),
            "client_secret": reference,
            "private_key": reference,
            "key_id": text,
            "auth": _auth,
            "basic_encoding": choice("rfc6749", "raw"),
        },
        required=("issuer", "agent_type", "owner", "client_id"),
    )
    at_issuer = around.issuers.get(found["issuer"])
    auth = found.get("auth") or (at_issuer.auth if at_issuer is not None else None)
    if auth is not None:
        _check_secrets(found, auth)
    return ClientConfig(name=name, **found)


def profile(name: str, value: object, around: Surroundings, clients: Mapping[str, ClientConfig]) -> ProfileConfig:
    """Parse `[profiles.NAME]`; the presets of its clients' issuers are satisfied."""
    found = fields(
        value,
        {
            "clients": not_empty(
                list_of(name_of("a client", around.client_names, define="[clients.NAME]"), "client names"),
                "client names",
            ),
            "audience": text,
            "resource": resource,
            "scopes": list_of(scope, "strings"),
            "organization": text,
            "extra_params": _extra_params,
        },
        required=("clients",),
    )
    config = ProfileConfig(name=name, **{**found, "scopes": tuple(sorted(set(found.get("scopes", ()))))})
    for client_name in config.clients:
        minter = clients.get(client_name)
        at_issuer = around.issuers.get(minter.issuer) if minter is not None else None
        if at_issuer is not None:
            _check_preset(config, at_issuer.preset)
    return config


def rule(value: object, profile_names: Collection[str], line: int) -> RuleConfig:
    """Parse one of `[[rules]]`, which stands at `line`."""

    def pattern(glob: object) -> str:
        wanted = text(glob)
        if wanted in profile_names or any(fnmatchcase(name, wanted) for name in profile_names):
            return wanted
        hint = did_you_mean(wanted, profile_names) or "define it as [profiles.NAME], or remove the rule"
        raise expected("the name of a profile or a glob that matches one", shown(wanted), hint=hint)

    known = {
        "profile": pattern,
        "otp": otp_pattern,
        "peer": lambda peer: PeerPattern(**fields(peer, {"exe": _exe, "agent_type": _agent_type})),
        "decide": choice("allow", "ask", "deny"),
        "treat_as": _agent_type,
    }
    for_otp = isinstance(value, dict) and "otp" in value
    found = fields(value, known, required=("decide",) if for_otp else ("profile", "decide"))
    if for_otp and "profile" in found:
        with inside("otp"):
            raise expected("either `profile` or `otp` in one rule", "both", hint="write two rules")
    return RuleConfig(**{"profile": None, **found}, line=line)


def _preset(value: object) -> str:
    if isinstance(value, str) and value in UNAVAILABLE:
        raise Problem(
            f"preset `{value}` needs {UNAVAILABLE[value]}, which this version does not have yet",
            hint=f"this version has {', '.join(PRESETS)}",
        )
    return str(choice(*PRESETS)(value))


def _auth(value: object) -> str:
    if value in LATER_AUTHS:
        raise Problem(f"this version does not have `{value}` yet; it has {either(SECRET_KEY)}")
    return str(choice(*SECRET_KEY)(value))


def _agent_type(value: object) -> AgentType:
    return AgentType(choice(*AgentType)(value))


def _exe(value: object) -> str:
    exe = text(value)
    if exe[0] not in "/*?[":
        raise expected(
            "an absolute path or a glob over one",
            "a relative path, which matches nothing",
            hint="begin it with `/` or `*/`",
        )
    return exe


def _extra_params(value: object) -> dict[str, str]:
    found: dict[str, str] = table_of(text, "strings")(value)
    for name in found:
        with inside(name):
            if not name:
                raise expected("the name of a parameter", "an empty one")
            if name in _OWN_PARAMS or name.startswith("client_assertion"):
                hint = _OWN_PARAMS.get(name, 'set auth = "private_key_jwt" and `private_key` on the client')
                raise Problem("a parameter that the broker sends itself", hint=hint)
    return found


def _check_secrets(found: Mapping[str, Any], auth: str) -> None:
    needed = SECRET_KEY[auth]
    if needed not in found:
        other = next((method for method, key in SECRET_KEY.items() if key in found), None)
        with inside(needed):
            raise Problem(
                f"required by auth `{auth}`, and not there",
                hint=f'set auth = "{other}" on the client' if other else f"add the key `{needed}` with a reference",
            )
    for key in ("client_secret", "private_key", "key_id"):
        if key in found and key != needed and not (key == "key_id" and needed == "private_key"):
            with inside(key):
                raise Problem(f"auth `{auth}` has no use for it", hint=f"remove `{key}`, or change `auth`")


def _check_preset(config: ProfileConfig, name: str) -> None:
    preset = PRESETS[name]
    if preset.audience_required and config.audience is None:
        with inside("audience"):
            raise Problem(f"required by preset `{name}`, and not there", hint="add the API's identifier as `audience`")
    needed, suffix = preset.scope_needed, preset.scope_suffix
    with inside("scopes"):
        if preset.scope_required and not config.scopes:
            raise Problem(f"required by preset `{name}`, and not there", hint="add at least one scope as `scopes`")
        if needed is not None and needed not in config.scopes:
            raise expected(f"scope `{needed}`, which preset `{name}` requires", "others", hint=f"add `{needed}`")
        if suffix is not None and not (len(config.scopes) == 1 and config.scopes[0].endswith(suffix)):
            raise expected(f"one scope that ends with `{suffix}`, as preset `{name}` requires", "others")

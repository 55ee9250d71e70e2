"""`[profiles.NAME]`: a table of TOML to a `ProfileConfig` that satisfies the presets of its clients' issuers.

Raises `Problem` placed relative to the table.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokenbroker.config import ProfileConfig
from tokenbroker.config.fields import Problem, expected, fields, inside, list_of, name_of, not_empty, text
from tokenbroker.config.issuers import extra_params
from tokenbroker.config.presets import PRESETS
from tokenbroker.config.values import permission, resource, scope

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tokenbroker.config import ClientConfig, IssuerConfig
    from tokenbroker.config.clients import Surroundings


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
            "extra_params": extra_params,
            "repositories": list_of(text, "names"),
        },
        required=("clients",),
    )
    config = ProfileConfig(name=name, **{**found, "scopes": tuple(sorted(set(found.get("scopes", ()))))})
    for client_name in config.clients:
        minter = clients.get(client_name)
        at_issuer = around.issuers.get(minter.issuer) if minter is not None else None
        if at_issuer is not None:
            _check_issuer(config, at_issuer)
    return config


def check_cycles(profiles: Mapping[str, ProfileConfig], clients: Mapping[str, ClientConfig]) -> None:
    """Refuse a profile whose token is made of its own token, by whatever detour."""
    for name in profiles:
        _follow(name, (), profiles, clients)


def _follow(
    name: str, path: tuple[str, ...], profiles: Mapping[str, ProfileConfig], clients: Mapping[str, ClientConfig]
) -> None:
    if name in path:
        with inside("profiles", path[0]):
            raise Problem(
                f"its token would be exchanged for itself: {' → '.join((*path, name))}",
                hint="correct `subject_profile` or `actor_profile` of one of their clients",
            )
    for client in (clients[each] for each in profiles[name].clients if each in clients):
        for inner in (client.subject_profile, client.actor_profile):
            if inner is not None and inner in profiles:
                _follow(inner, (*path, name), profiles, clients)


def _check_issuer(config: ProfileConfig, issuer: IssuerConfig) -> None:
    if config.repositories and issuer.grant != "github-app":
        with inside("repositories"):
            raise Problem(f"issuer `{issuer.name}` has no repositories", hint="remove the line")
    if issuer.grant == "github-app":
        for index, each in enumerate(config.scopes):
            with inside("scopes", index):
                permission(each)
    _check_preset(config, issuer.preset)


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

"""Answers to the text of a first configuration. Pure."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Final

from tokenbroker.cli.questions import ANY, method_of
from tokenbroker.config.issuers import SELF_PROVING
from tokenbroker.config.presets import PRESETS

if TYPE_CHECKING:
    from collections.abc import Mapping

_BARE_KEY: Final = re.compile(r"[A-Za-z0-9_-]+")  # TOML 1.0, keys

_HEAD: Final = """\
# The configuration of tokenbroker. It holds references to secrets, never secrets.
# After a change: `broker doctor` checks it, `broker reload` makes a running broker take it over.
version = 1
"""
_VAULT: Final = "Where secrets are kept: `op` is 1Password, opened with one prompt."
_VAULT_KEYS: Final = {"backend": "backend", "account": "account", "url": "vault_url", "credential": "credential"}
_ISSUER: Final = "The OAuth authorization server that mints the tokens."
_CLIENT: Final = "The OAuth client. For programs of the other agent_type, add another client to the profile."
_CLIENT_KEYS: Final = ("client_id", "installation", "client_secret", "certificate", "private_key", "key_id")
_PROFILE: Final = "What a token is for; programs ask for it by this name, and never get more scopes than these."
_RULE: Final = "Who may have it. The first rule that matches decides (allow, ask, deny); without one: denied."


def render(answers: Mapping[str, str]) -> str:
    """Write the configuration that the answers describe; what was left empty, or goes without saying, is left out."""
    profile = answers["profile"]
    peer = "" if answers["program"] == ANY else f"peer = {{ exe = {_quoted(answers['program'])} }}\n"
    return "\n".join([
        _HEAD,
        _table("vault", _VAULT, {key: answers.get(name, "") for key, name in _VAULT_KEYS.items()}),
        _issuer(answers),
        _client(answers),
        _table(
            f"profiles.{profile if _BARE_KEY.fullmatch(profile) else _quoted(profile)}",
            _PROFILE,
            {
                "clients": ["main"],
                "audience": answers.get("audience", ""),
                "resource": answers.get("resource", ""),
                "scopes": answers["scopes"].split(),
                "repositories": answers.get("repositories", "").split(),
            },
        ),
        f'# {_RULE}\n[[rules]]\nprofile = {_quoted(profile)}\n{peer}decide = "allow"\n',
    ])  # fmt: skip


def _issuer(answers: Mapping[str, str]) -> str:
    preset = PRESETS[answers["preset"]]
    about = _ISSUER if answers["preset"] == "oidc" else f"{_ISSUER}\n# {preset.about}."
    values = {name: answers.get(name, "") for name in ("preset", "url", "token_endpoint", "organization")}
    if values["url"] == preset.url:
        values["url"] = ""
    return _table("issuers.main", about, values)


def _client(answers: Mapping[str, str]) -> str:
    preset, method = PRESETS[answers["preset"]], method_of(answers)
    values = {"issuer": "main", "agent_type": answers["agent_type"], "owner": answers["owner"]}
    if method in SELF_PROVING and method != preset.grant:
        values["grant"] = method
    elif method not in SELF_PROVING and method != preset.auth:
        values["auth"] = method
    values |= {name: answers.get(name, "") for name in _CLIENT_KEYS}
    return _table("clients.main", _CLIENT, values)


def _table(name: str, comment: str, values: Mapping[str, str] | Mapping[str, str | list[str]]) -> str:
    lines = [f"{key} = {_quoted(value)}" for key, value in values.items() if value]
    return "\n".join([f"# {comment}", f"[{name}]", *lines, ""])


def _quoted(value: str | list[str]) -> str:
    """Write a TOML string or list of strings; for printable text JSON's form is TOML's (TOML 1.0, basic strings)."""
    return json.dumps(value, ensure_ascii=False)

"""Which adapter speaks to an issuer: the token endpoint's for all of OAuth 2.0, and GitHub's own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokenbroker.issuers.github_app import GitHubApp
from tokenbroker.issuers.token_endpoint import TokenEndpoint

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tokenbroker.config import IssuerConfig
    from tokenbroker.ports import Clock, Issuer


def build_issuer(config: IssuerConfig, *, clock: Clock, env: Mapping[str, str]) -> Issuer:
    """Return the adapter for `config`; `env` gives `HTTPS_PROXY` and `NO_PROXY`. Nothing is opened yet."""
    kind = GitHubApp if config.grant == "github-app" else TokenEndpoint
    return kind(config, clock=clock, env=env)

"""The configuration as values. Text becomes these in `text.py`; nothing here reads a file.

Units: durations are seconds; `None` means "without limit" for a duration and "not set" elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from tokenbroker.model import AgentType, SecretRef

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

HOUR = 3600.0

Decision = Literal["allow", "ask", "deny"]
OnEvent = Literal["keep", "lock"]
GrantType = Literal["client_credentials", "jwt-bearer", "token-exchange", "github-app"]
RevokeOn = Literal["revoke", "lock", "shutdown"]
AssertionAlg = Literal["RS256", "PS256", "ES256", "HS256", "HS384", "HS512"]


@dataclass(frozen=True, slots=True)
class VaultConfig:
    """`[vault]` and `[vault.autonomous]`: where secrets are kept."""

    backend: str = "op"
    account: str | None = None
    """`op`, `sdk`: sign-in address, account id or, for `sdk`, the account's name in the app."""
    op: str | None = None
    """`op`, `service-account`: absolute path of the `op` program; `None`: PATH, then the usual places."""
    prompt_timeout: float = 70.0
    """Seconds that one call may take which a person may have to answer; 1Password itself gives up after 60."""
    credential: str | None = None
    """`service-account`, `connect`: where the access token is: `keyring://S/U`, `systemd://NAME` or `fd://N`."""
    url: str | None = None
    """`connect`: address of the Connect server; https, or http on loopback."""
    ca_file: str | None = None
    """`connect`: PEM file of the authorities to trust for the server, instead of the system's."""
    timeout: float = 30.0
    """`service-account`, `connect`: seconds that one call may take, which nobody has to answer."""


@dataclass(frozen=True, slots=True)
class UnlockConfig:
    """`[unlock]`: how long an unlock lasts."""

    max_age: float | None = 12 * HOUR
    idle: float | None = None
    on_sleep: OnEvent = "keep"
    on_screen_lock: OnEvent = "keep"
    on_vault_lock: OnEvent = "lock"
    tokens_on_lock: Literal["drop", "keep"] = "drop"
    """What becomes of the tokens when one of these events locks; a person who locks always drops them."""
    announce: bool = True
    """Whether a note on the screen says for whom, and why, the vault is about to ask."""


@dataclass(frozen=True, slots=True)
class IssuerConfig:
    """`[issuers.NAME]`: one OAuth authorization server."""

    name: str
    preset: str = "oidc"
    url: str | None = None
    """The issuer identifier, from which the token endpoint is discovered (RFC 8414)."""
    token_endpoint: str | None = None
    """The token endpoint, used verbatim; `None`: discovered."""
    revocation_endpoint: str | None = None
    """RFC 7009; `None`: discovered."""
    introspection_endpoint: str | None = None
    """RFC 7662; `None`: discovered."""
    jwks_uri: str | None = None
    """The issuer's public keys (RFC 7517); `None`: discovered."""
    grant: GrantType = "client_credentials"
    auth: str = "client_secret_post"
    basic_encoding: Literal["rfc6749", "raw"] = "rfc6749"
    dpop: bool = False
    """Whether tokens are bound to a key of the broker's (RFC 9449)."""
    organization: str | None = None
    extra_params: Mapping[str, str] = field(default_factory=dict)
    claims: Mapping[str, str] = field(default_factory=dict)
    """Where this issuer puts `owner`, `agent_type`, `org_id`: our name → claim name."""
    default_ttl: float = 300.0
    """Lifetime assumed when the issuer gives none that can be used."""
    max_ttl: float = 24 * HOUR
    timeout: float = 8.0
    """Seconds for one request; less than the 9 that a caller waits, so that it is told why there is no answer."""
    ca_file: str | None = None
    """PEM file of the authorities to trust for this issuer, instead of the system's."""
    proxy: str | None = None
    assertion_audience: str = "issuer"
    """`aud` of an assertion: `issuer`, `token_endpoint`, or the value itself."""
    assertion_alg: AssertionAlg | None = None
    """Signature of an assertion; `None`: ES256 for a P-256 key, RS256 for an RSA key, HS256 for a client secret."""
    assertion_header: Literal["kid", "x5t", "x5t#S256"] = "kid"
    """Under which header an assertion carries the client's `key_id`."""
    assertion_ttl: float = 60.0
    """Seconds between `iat` and `exp` of an assertion."""
    assertion_subject: Literal["client", "none"] = "client"
    """`jwt-bearer`: `sub` of the assertion when the client has no `subject`: its own id, or none (Google)."""
    assertion_scope: bool = False
    """`jwt-bearer`: whether the scopes stand in the assertion (Google) instead of beside it."""
    granted_scopes: Literal["exact", "subset", "ignore"] = "exact"
    """What to do when fewer scopes were granted than asked: `exact` refuses, `subset` serves what there is."""
    absent_scope: Literal["as_asked", "none"] = "as_asked"
    """What was granted when neither the answer nor the JWT in it says: RFC 6749 §5.1's reading, or nothing."""
    token_issuer: str | None = None
    """The `iss` that tokens must have: the value itself, or `any`; `None`: the issuer identifier."""
    signature: Literal["auto", "require", "ignore"] = "auto"
    """Whether a JWT's signature is checked against the issuer's keys: where that can be done, always, never."""
    introspection: Literal["auto", "require", "never"] = "auto"
    """Whether the issuer is asked what an opaque token holds: where it offers that, always, never."""
    revoke_on: tuple[RevokeOn, ...] = ("revoke",)
    """When tokens are revoked at the issuer (RFC 7009): at `broker revoke`, at each lock, when the daemon ends."""
    quota_floor: float = 0.1
    """The share of an issuer's quota below which renewals wait until the last moment."""


@dataclass(frozen=True, slots=True)
class ClientConfig:
    """`[clients.NAME]`: an OAuth client; the only place where secret references stand."""

    name: str
    issuer: str
    agent_type: AgentType
    owner: str
    client_id: str | SecretRef
    """A literal or a reference."""
    client_secret: SecretRef | None = None
    private_key: SecretRef | None = None
    """The key that signs assertions (RFC 7523) or belongs to the certificate (RFC 8705)."""
    certificate: SecretRef | None = None
    """PEM, the client's own certificate first, for `tls_client_auth` and `self_signed_tls_client_auth`."""
    key_id: str | None = None
    auth: str | None = None
    """Overrides the issuer's."""
    basic_encoding: Literal["rfc6749", "raw"] | None = None
    grant: GrantType | None = None
    """Overrides the issuer's."""
    dpop: bool | None = None
    """Overrides the issuer's."""
    subject: str | None = None
    """`jwt-bearer`: on whose behalf, when not its own."""
    subject_token: SecretRef | None = None
    """`token-exchange`: a token kept in the vault, for whose subject a token is asked (RFC 8693 §2.1)."""
    subject_profile: str | None = None
    """`token-exchange`: the profile whose token is the subject's, instead of `subject_token`."""
    subject_token_type: str = "access_token"  # noqa: S105  # a name of RFC 8693 §3
    actor_token: SecretRef | None = None
    """`token-exchange`: a token kept in the vault, of who acts for the subject."""
    actor_profile: str | None = None
    """`token-exchange`: the profile whose token is the actor's, instead of `actor_token`."""
    actor_token_type: str = "access_token"  # noqa: S105  # a name of RFC 8693 §3
    requested_token_type: str | None = None
    installation: str | None = None
    """`github-app`: the number of the installation whose tokens it mints."""

    def refs(self) -> Iterator[SecretRef]:
        """Yield the references that must be read before this client can authenticate."""
        if isinstance(self.client_id, SecretRef):
            yield self.client_id
        for ref in (self.client_secret, self.private_key, self.certificate, self.subject_token, self.actor_token):
            if ref is not None:
                yield ref


@dataclass(frozen=True, slots=True)
class ProfileConfig:
    """`[profiles.NAME]`: what a token is for, and which clients may mint it."""

    name: str
    clients: tuple[str, ...]
    audience: str | None = None
    resource: str | None = None
    scopes: tuple[str, ...] = ()
    """Sorted, without repeats."""
    organization: str | None = None
    extra_params: Mapping[str, str] = field(default_factory=dict)
    repositories: tuple[str, ...] = ()
    """`github-app`: names of the repositories that its tokens are confined to."""


@dataclass(frozen=True, slots=True)
class PeerPattern:
    """`peer = { … }` of a rule; what is absent matches anything."""

    exe: str | None = None
    """A glob over the whole path; `*` matches `/` too."""
    agent_type: AgentType | None = None


@dataclass(frozen=True, slots=True)
class RuleConfig:
    """`[[rules]]`: one line of policy, for profiles or for one-time passwords."""

    profile: str | None
    """A name or a glob; `None` in a rule for one-time passwords."""
    decide: Decision
    peer: PeerPattern = PeerPattern()
    treat_as: AgentType | None = None
    line: int | None = None
    """Where it stands in the file, so that a denial can name it."""
    otp: str | None = None
    """A secret reference or a glob over one: whose one-time passwords `broker otp` may give."""


@dataclass(frozen=True, slots=True)
class Config:
    """The whole file, checked: every name that is used is defined."""

    path: Path | None = None
    vault: VaultConfig = VaultConfig()
    unlock: UnlockConfig = UnlockConfig()
    issuers: Mapping[str, IssuerConfig] = field(default_factory=dict)
    clients: Mapping[str, ClientConfig] = field(default_factory=dict)
    profiles: Mapping[str, ProfileConfig] = field(default_factory=dict)
    rules: tuple[RuleConfig, ...] = ()
    autonomous_vault: VaultConfig | None = None
    """`[vault.autonomous]`: where the secrets of autonomous clients are, when not in the person's vault."""

    def refs(self, *, autonomous: bool | None = None) -> tuple[SecretRef, ...]:
        """Return every secret reference in the file once, in order of appearance.

        `autonomous` chooses those of `[vault.autonomous]`, or those of `[vault]`.
        """
        chosen = (c for c in self.clients.values() if autonomous in {None, self.is_autonomous(c)})
        return tuple(dict.fromkeys(ref for client in chosen for ref in client.refs()))

    def is_autonomous(self, client: ClientConfig) -> bool:
        """Tell whether the secrets of `client` are in `[vault.autonomous]`."""
        return self.autonomous_vault is not None and client.agent_type is AgentType.AUTONOMOUS

"""May this peer have this profile, and by which client: a pure decision with its reason.

Rules of this file:
1. The first rule whose profile and peer patterns match decides; nothing matches: deny.
2. What a peer says of itself can only lower it (`interactive` → `autonomous`); what is unknown counts as autonomous.
3. A decision never depends on time or on the state of a token, so it may be remembered for as long as the
   configuration is the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from tokenbroker.errors import Denied, NoClient, ScopeExceedsProfile, UnknownProfile
from tokenbroker.model import AgentType, TokenKey
from tokenbroker.suggest import nearest

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tokenbroker.config import ClientConfig, Config, ProfileConfig, RuleConfig
    from tokenbroker.model import Peer


@dataclass(frozen=True, slots=True)
class Allow:
    """The peer may have the profile, minted by `client`."""

    client: ClientConfig
    agent_type: AgentType
    rule: RuleConfig


@dataclass(frozen=True, slots=True)
class Ask:
    """A person is to be asked first; if the answer is yes, `allow` applies."""

    allow: Allow


@dataclass(frozen=True, slots=True)
class OtpAllow:
    """The peer may have the one-time password, once a person said yes if `ask`."""

    agent_type: AgentType
    ask: bool


def agent_type_of(peer: Peer, *, lowered: bool = False) -> AgentType:
    """Return what the peer counts as before any rule: the evidence, lowered if the peer asked for that."""
    if lowered or peer.agent_type is None:
        return AgentType.AUTONOMOUS
    return peer.agent_type


def decide(config: Config, profile: ProfileConfig, peer: Peer, *, lowered: bool = False) -> Allow | Ask:
    """Decide by the first rule that matches.

    Raises `Denied` naming the rule, or that there was none, and `NoClient` when the profile has no client for what
    the peer counts as.
    """
    agent_type = agent_type_of(peer, lowered=lowered)
    evident = agent_type_of(peer)
    rule = next(
        (
            rule
            for rule in config.rules
            if _matches(rule, profile.name, peer, agent_type)
            # Lowering itself is no way around a rule that denies what the peer is, or that asks a person first.
            or (rule.decide != "allow" and _matches(rule, profile.name, peer, evident))
        ),
        None,
    )
    if rule is None or rule.decide == "deny":
        raise _denial(
            config, rule, peer, agent_type, key=f'profile = "{profile.name}"', what=f"profile `{profile.name}`"
        )
    if rule.treat_as is not None and not lowered:
        agent_type = rule.treat_as
    client = next((c for c in (config.clients[n] for n in profile.clients) if c.agent_type is agent_type), None)
    if client is None:
        otherwise = rule.treat_as or evident
        raise _no_client(config, rule, profile, peer, agent_type, lowered=lowered and otherwise is not agent_type)
    allow = Allow(client=client, agent_type=agent_type, rule=rule)
    return Ask(allow) if rule.decide == "ask" else allow


def decide_otp(config: Config, ref: str, peer: Peer, *, lowered: bool = False) -> OtpAllow:
    """Decide whether the peer may have one-time passwords of `ref`, by the first rule of that kind that matches.

    Names are compared without regard to case, as 1Password does. Raises `Denied`.
    """
    agent_type, evident = agent_type_of(peer, lowered=lowered), agent_type_of(peer)

    def matches(rule: RuleConfig, counts_as: AgentType) -> bool:
        fits = rule.otp is not None and fnmatchcase(ref.casefold(), rule.otp.casefold())
        return fits and _fits_peer(rule, peer, counts_as)

    rule = next(
        (r for r in config.rules if matches(r, agent_type) or (r.decide != "allow" and matches(r, evident))), None
    )
    if rule is None or rule.decide == "deny":
        raise _denial(config, rule, peer, agent_type, key=f'otp = "{ref}"', what=f"one-time passwords of {ref}")
    if rule.treat_as is not None and not lowered:
        agent_type = rule.treat_as
    return OtpAllow(agent_type, ask=rule.decide == "ask")


def find_profile(
    config: Config, *, name: str | None, audience: str | None = None, resource: str | None = None
) -> ProfileConfig:
    """Find the profile that a request means, by name or by what its token is for.

    Raises `UnknownProfile`, with the nearest name where there is one.
    """
    if name is not None:
        profile = config.profiles.get(name)
        if profile is None:
            raise UnknownProfile(f"unknown profile `{name}`", hint=_did_you_mean(name, config.profiles))
        target = audience if audience is not None else resource
        if target is not None and target not in {profile.audience, profile.resource}:
            raise UnknownProfile(
                f"profile `{name}` is not for {target}", hint="list the profiles with `broker-token --list`"
            )
        return profile
    target, word = (audience, "audience") if audience is not None else (resource, "resource")
    if target is None:
        raise UnknownProfile(
            "the request names no profile, audience or resource", hint="list the profiles with `broker-token --list`"
        )
    # An OAuth library knows one of the two words; what the token is for is the same thing.
    fitting = [p for p in config.profiles.values() if target in {p.audience, p.resource}]
    if not fitting:
        raise UnknownProfile(f"no profile has {word} {target}", hint="list them with `broker-token --list`")
    if len(fitting) > 1:
        names = ", ".join(f"`{p.name}`" for p in fitting)
        raise UnknownProfile(f"{word} {target} fits more than one profile: {names}", hint="name one with `profile`")
    return fitting[0]


def key_for(profile: ProfileConfig, client: ClientConfig, scopes: Iterable[str] | None) -> TokenKey:
    """Return the cache key of a request; `scopes` of `None` means all of the profile's.

    Raises `ScopeExceedsProfile`: a request may ask for less than the profile has, never for more.
    """
    wanted = profile.scopes if scopes is None else tuple(sorted(set(scopes)))
    extra = [scope for scope in wanted if scope not in profile.scopes]
    if extra:
        has = " ".join(profile.scopes) or "no scopes"
        raise ScopeExceedsProfile(
            f"profile `{profile.name}` does not include scope {extra[0]}; it has {has}",
            hint=f"ask for less, or add it to [profiles.{profile.name}] in the configuration",
        )
    return TokenKey(profile.name, client.name, wanted, audience=profile.audience, resource=profile.resource)


def _matches(rule: RuleConfig, profile: str, peer: Peer, agent_type: AgentType) -> bool:
    fits = rule.profile is not None and fnmatchcase(profile, rule.profile)
    return fits and _fits_peer(rule, peer, agent_type)


def _fits_peer(rule: RuleConfig, peer: Peer, agent_type: AgentType) -> bool:
    pattern = rule.peer
    return (pattern.agent_type is None or pattern.agent_type is agent_type) and (
        pattern.exe is None or (peer.exe is not None and fnmatchcase(peer.exe, pattern.exe))
    )


def _no_client(
    config: Config, rule: RuleConfig, profile: ProfileConfig, peer: Peer, agent_type: AgentType, *, lowered: bool
) -> NoClient:
    add = f'add a client with agent_type = "{agent_type}" to [profiles.{profile.name}] in {_file(config)}'
    if lowered:
        why, hint = "it asked to be treated as one", f"{add}, or ask without `--as autonomous`"
    elif rule.treat_as is agent_type:
        why, hint = "a rule treats it as one", f"{add}, or correct treat_as on the rule"
    else:
        why, hint = peer.evidence or "nothing shows that a person is near it", f"{add}, or set treat_as on a rule"
    return NoClient(
        f"profile `{profile.name}` has no client for {agent_type} programs, which {peer.named()} is: {why}", hint=hint
    )


def _denial(
    config: Config, rule: RuleConfig | None, peer: Peer, agent_type: AgentType, *, key: str, what: str
) -> Denied:
    if rule is None:
        return Denied(
            f"no rule allows {what} to {peer.named()}, which counts as {agent_type}",
            hint=f"add a [[rules]] entry with {key} to {_file(config)}, then `broker reload`",
        )
    where = f"{_file(config)} line {rule.line}" if rule.line else _file(config)
    return Denied(f"a rule denies {what} to {peer.named()}", hint=f"see the rule in {where}, then `broker reload`")


def _did_you_mean(name: str, known: Iterable[str]) -> str:
    found = nearest(name, known)
    listing = "`broker-token --list`"
    return f"did you mean `{found}`? list them with {listing}" if found else f"list the profiles with {listing}"


def _file(config: Config) -> str:
    return str(config.path) if config.path is not None else "the configuration"

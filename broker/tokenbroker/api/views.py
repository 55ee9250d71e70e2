"""The broker's state as JSON values. Pure, and the one place to look for what leaves the daemon besides tokens.

Rules of this file:
1. No secret, no token: fingerprints only. Times are epoch seconds.
2. Looking never changes anything and never prompts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tokenbroker import lifecycle, policy
from tokenbroker.errors import Denied
from tokenbroker_client.wire import ProfileInfo

if TYPE_CHECKING:
    from tokenbroker.allowance import Standing
    from tokenbroker.broker import Broker
    from tokenbroker.cache import Entry
    from tokenbroker.control import Lock
    from tokenbroker.errors import BrokerError
    from tokenbroker.model import Instant, Peer
    from tokenbroker.revocations import Report
    from tokenbroker.sessions import Session
    from tokenbroker.trials import Trial
    from tokenbroker.unlock import Unlock

Json = dict[str, Any]

UNTRIED = lifecycle.Slot()  # asked for, and denied or locked before anything was fetched: there is nothing to show


def status(broker: Broker, now: Instant) -> Json:
    """Return vaults, issuers and tokens, for `broker status`."""
    return {
        "vault": vault(broker, now),
        "autonomous_vault": autonomous_vault(broker, now),
        "issuers": issuers(broker, now),
        "profiles": len(broker.config.profiles),
        "sessions": len(broker.sessions),
        "tokens": [token(broker, entry, now) for entry in broker.cache if entry.slot != UNTRIED],
    }


def issuers(broker: Broker, now: Instant) -> list[Json]:
    """Return the issuers, what each last said of its quotas, and why one is left alone for a while."""
    minting = broker.cache.exchange.minting
    standings, alone = minting.allowance.standing(now), minting.breaker.open()
    return [
        {
            "name": i.name,
            "preset": i.preset,
            "url": i.url,
            "token_endpoint": i.token_endpoint,
            "left_alone": error(alone.get(i.name)),
            "quotas": [quota(one, now) for one in standings if one.holder.issuer == i.name],
        }
        for i in broker.config.issuers.values()
    ]


def quota(standing: Standing, now: Instant) -> Json:
    """Return what an issuer said of an allowance, and when."""
    holder, said = standing.holder, standing.quota
    shared = said.holder == "organization"
    return {
        "client": None if shared else holder.client,
        "organization": holder.organization if shared else None,
        "bucket": said.bucket,
        "limit": said.limit,
        "remaining": said.remaining,
        "as_of": now.wall - max(0.0, now.elapsed - standing.as_of.elapsed),
        "resets_at": now.wall + standing.resets_in(now),
    }


def vault(broker: Broker, now: Instant) -> Json:
    """Return the state of the person's vault."""
    return _unlock(broker, broker.unlocks.person, now, autonomous=False)


def autonomous_vault(broker: Broker, now: Instant) -> Json | None:
    """Return the state of the vault that autonomous clients have of their own; `None` when they have none."""
    unlock = broker.unlocks.autonomous
    return None if unlock is None else _unlock(broker, unlock, now, autonomous=True)


def _unlock(broker: Broker, unlock: Unlock, now: Instant, *, autonomous: bool) -> Json:
    report = unlock.report()
    max_age = broker.config.unlock.max_age
    since = report.since
    age = None if since is None else max(now.elapsed - since.elapsed, now.wall - since.wall)
    return {
        "state": str(report.state),
        "backend": report.backend,
        "unlocked_at": None if age is None else now.wall - age,
        "ends_at": None if age is None or max_age is None else now.wall - age + max_age,
        "secrets": report.secrets,
        "references": len(broker.config.refs(autonomous=autonomous)),
        "failures": {ref: error(problem) for ref, problem in report.failures.items()},
        "last_error": error(report.last_error),
        "retry_in": report.pause or None,
        "asked_by": [
            {"program": a.program, "pid": a.pid, "wants": a.wants, "claimed_reason": a.reason} for a in report.askers
        ],
        "limits": [
            {
                "type": one.type,
                "action": one.action,
                "limit": one.limit,
                "used": one.used,
                "resets_at": None if one.resets_in is None else now.wall + one.resets_in,
                "estimated": one.estimated,
            }
            for one in report.limits
        ],
    }


def last_lock(lock: Lock | None, now: Instant) -> Json | None:
    """Return the last lock and what it forgot."""
    if lock is None:
        return None
    return {"reason": lock.reason, "at": now.wall - (now.elapsed - lock.at.elapsed), "forgot": forgot(lock)}


def forgot(lock: Lock) -> Json:
    """Return what a lock forgot."""
    return {"tokens": lock.tokens, "secrets": lock.secrets, "pending": lock.pending}


def at_issuers(report: Report | None) -> Json | None:
    """Return what the issuers made of tokens that were to be revoked; `None` when none was asked."""
    if report is None:
        return None
    return {
        "revoked": report.revoked,
        "unsupported": report.unsupported,
        "failed": report.failed,
        "valid_until": report.valid_until,
        "problems": list(report.problems),
    }


def token(broker: Broker, entry: Entry, now: Instant) -> Json:
    """Return one place of the cache."""
    key, slot = entry.key, entry.slot
    client = broker.config.clients.get(key.client)
    held = slot.token
    live = held is not None and held.remaining(now) > 0
    return {
        "profile": key.profile,
        "client": key.client,
        "agent_type": str(client.agent_type) if client else None,
        "owner": client.owner if client else None,
        "audience": key.audience if key.audience is not None else key.resource,
        "scope": " ".join(held.scope if held else key.scopes),
        "state": str(lifecycle.state(held, now)),
        "expires_at": held.validity.expires_at(now) if held and live else None,
        "fingerprint": held.fingerprint if held and live else None,
        "source": _source(entry, live=live),
        "checked": str(held.checked) if held and live else None,
        "bound_to": held.bound_to if held and live else None,
        "remarks": list(held.remarks) if held and live else [],
        "fetching": slot.fetching,
        "last_error": error(slot.failure.error) if slot.failure else None,
        "retry_in": lifecycle.retry_after(slot, now),
    }


def trial(broker: Broker, tried: Trial, now: Instant) -> Json:
    """Return what came of trying one client; not the token."""
    return {"client": tried.client, "token": token(broker, tried.entry, now), "problem": error(tried.problem)}


def session(found: Session, now: Instant) -> Json:
    """Return one session and what it holds."""
    return {
        "id": found.id,
        "pid": found.pid,
        "exe": found.exe,
        "agent_type": str(found.agent_type),
        "tty": found.tty,
        "evidence": found.evidence,
        "started_at": found.started_at,
        "last_seen": now.wall - max(0.0, now.elapsed - found.last_seen.elapsed),
        "ended_at": found.ended_at,
        "revoked": found.revoked,
        "tokens": [
            {
                "profile": held.key.profile,
                "audience": held.key.audience if held.key.audience is not None else held.key.resource,
                "scope": " ".join(held.scope),
                "expires_at": held.validity.expires_at(now),
                "fingerprint": held.fingerprint,
                "served": held.served,
            }
            for held in found.holdings.values()
        ],
    }


def peer(who: Peer) -> Json:
    """Return how the broker sees a peer, for `GET /v1/me`."""
    return {
        "uid": who.uid,
        "gid": who.gid,
        "pid": who.pid,
        "exe": who.exe,
        "tty": who.tty,
        "agent_type": str(policy.agent_type_of(who)),
        "evidence": who.evidence or "nothing to judge by, which counts as autonomous",
        "session_root": {"pid": who.root_pid, "exe": who.root_exe},
    }


def profiles(broker: Broker, who: Peer) -> tuple[ProfileInfo, ...]:
    """Return the profiles, and what the rules say of each for this peer."""
    listed = []
    for profile in broker.config.profiles.values():
        try:
            decision = "ask" if isinstance(broker.decision(profile.name, who), policy.Ask) else "allow"
        except Denied:
            decision = "deny"
        listed.append(
            ProfileInfo(
                profile=profile.name,
                audience=profile.audience,
                resource=profile.resource,
                scopes=profile.scopes,
                agent_types=tuple(sorted({str(broker.config.clients[name].agent_type) for name in profile.clients})),
                decision=decision,
            )
        )
    return tuple(listed)


def error(problem: BrokerError | None) -> Json | None:
    """Return an error's code, message and hint."""
    if problem is None:
        return None
    return {"code": problem.code, "message": problem.message, "hint": problem.hint}


def _source(entry: Entry, *, live: bool) -> str | None:
    """Say where a token served now would come from."""
    if not live:
        return None
    return "cache" if entry.slot.failure is None else "stale"

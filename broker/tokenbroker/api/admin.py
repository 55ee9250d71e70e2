"""The socket that the person at the machine uses: looking, locking, revoking. A sandbox is given the other one alone.

Rules of this file:
1. GET looks and changes nothing; POST acts. Neither ever returns a secret or a token.
2. Only `POST /v1/unlock` and `POST /v1/op-experiment` may cause a prompt: a person is there who asked for it.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from tokenbroker.api import views
from tokenbroker.api.messages import Response, Stream
from tokenbroker.api.routes import Api, json_object, json_response
from tokenbroker.errors import UsageError
from tokenbroker.trials import try_clients

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from tokenbroker.api.messages import Request
    from tokenbroker.api.routes import Route
    from tokenbroker.broker import Broker
    from tokenbroker.control import Control
    from tokenbroker.events import Events
    from tokenbroker.ports import Clock, PeerInspector

Answer = Response | Stream

METRICS_TYPE: Final = "text/plain; version=0.0.4"  # Prometheus exposition format


class AdminApi(Api):
    """Handler of the admin socket."""

    def __init__(
        self,
        broker: Broker,
        inspector: PeerInspector,
        events: Events,
        clock: Clock,
        *,
        uid: int,
        control: Control,
        about: Callable[[], dict[str, Any]],
        reload: Callable[[], None],
        experiment: Callable[[Mapping[str, Any]], Awaitable[dict[str, Any]]],
    ) -> None:
        """Serve `broker` to processes of `uid`.

        `about` describes the daemon; `reload` raises `ConfigError`; `experiment` makes calls of `op` for
        `broker doctor op` and says how they went, or raises `BrokerError`.
        """
        routes: dict[str, Route] = {
            "/v1/status": ("GET", self._status),
            "/v1/sessions": ("GET", self._sessions),
            "/v1/events": ("GET", self._watch),
            "/v1/unlock": ("POST", self._unlock),
            "/v1/lock": ("POST", self._lock),
            "/v1/revoke": ("POST", self._revoke),
            "/v1/reload": ("POST", self._reloaded),
            "/v1/try": ("POST", self._tried),
            "/v1/op-experiment": ("POST", self._experimented),
            "/metrics": ("GET", self._metrics),
            "/healthz": ("GET", lambda _: Response(200, b'{"status":"ok"}')),
        }
        super().__init__(routes, inspector, uid=uid)
        self._broker = broker
        self._events = events
        self._clock = clock
        self._about = about
        self._control = control
        self._reload = reload
        self._experiment = experiment

    def _status(self, _request: Request) -> Response:
        now = self._clock.now()
        last_lock = views.last_lock(self._control.last_lock, now)
        return json_response({**self._about(), **views.status(self._broker, now), "last_lock": last_lock})

    def _sessions(self, _request: Request) -> Response:
        now = self._clock.now()
        return json_response({"sessions": [views.session(s, now) for s in self._broker.sessions.list(now)]})

    async def _watch(self, _request: Request) -> Stream:
        return Stream("text/event-stream", self._events.watch())

    async def _unlock(self, _request: Request) -> Response:
        await self._control.unlock()
        now = self._clock.now()
        return json_response(
            {**views.vault(self._broker, now), "autonomous_vault": views.autonomous_vault(self._broker, now)}
        )

    def _lock(self, _request: Request) -> Response:
        lock = self._control.lock("asked by a person")
        return json_response({"forgot": views.forgot(lock)})

    async def _revoke(self, request: Request) -> Response:
        """Revoke, and wait for what the issuers say: that is bounded."""
        body = json_object(request)
        session, profile, everything = body.get("session"), body.get("profile"), body.get("all")
        if isinstance(session, str) and profile is None and everything is None:
            revoked = self._control.revoke_session(session)
            if revoked is None:
                raise UsageError(f"there is no session {session[:20]!a}", hint="list them with `broker sessions`")
            named: dict[str, str | None] = {"session": session}
        elif (isinstance(profile, str) and session is None and everything is None) or (
            everything is True and session is None and profile is None
        ):
            revoked = self._control.revoke_profile(profile)
            named = {"profile": profile}
        else:
            raise UsageError("the request needs one of `session`, `profile` and `all`")
        report = None if revoked.at_issuers is None else await asyncio.shield(revoked.at_issuers)
        return json_response({"revoked": {**named, "tokens": revoked.tokens, "at_issuers": views.at_issuers(report)}})

    def _reloaded(self, _request: Request) -> Response:
        self._reload()
        return json_response({"profiles": len(self._broker.config.profiles)})

    async def _tried(self, _request: Request) -> Response:
        tried = await try_clients(self._broker, self._clock)
        now = self._clock.now()
        return json_response({"tried": [views.trial(self._broker, one, now) for one in tried]})

    async def _experimented(self, request: Request) -> Response:
        return json_response(await self._experiment(json_object(request)))

    def _metrics(self, _request: Request) -> Response:
        now = self._clock.now()
        live = sum(1 for entry in self._broker.cache if entry.slot.token and entry.slot.token.remaining(now) > 0)
        unlocked = int(views.vault(self._broker, now)["state"] == "unlocked")
        lines = [
            "# TYPE tokenbroker_tokens gauge",
            f"tokenbroker_tokens {live}",
            "# TYPE tokenbroker_sessions gauge",
            f"tokenbroker_sessions {len(self._broker.sessions)}",
            "# TYPE tokenbroker_unlocked gauge",
            f"tokenbroker_unlocked {unlocked}",
            "# TYPE tokenbroker_events_total counter",
            *(f'tokenbroker_events_total{{event="{name}"}} {n}' for name, n in sorted(self._events.counts.items())),
            "",
        ]
        return Response(200, "\n".join(lines).encode(), METRICS_TYPE)

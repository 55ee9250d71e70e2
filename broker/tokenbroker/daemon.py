"""The daemon: the one place that builds adapters and puts the parts together, and the order of its life.

Rules of this file:
1. Signals and the admin socket both end here: a reload is one function, a stop is one event.
2. A wrong configuration never costs the running one, nor a token.
3. The slow imports (aiohttp) happen in a thread after the sockets answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import random
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from tokenbroker import __version__
from tokenbroker.api.admin import AdminApi
from tokenbroker.api.http import HttpServer
from tokenbroker.api.public import PublicApi
from tokenbroker.broker import Broker
from tokenbroker.cache import TokenCache
from tokenbroker.config import Config
from tokenbroker.config import text as config_text
from tokenbroker.control import Control
from tokenbroker.custody import Custody
from tokenbroker.desk import Desk
from tokenbroker.errors import ConfigError, Fault, whereabouts
from tokenbroker.events import Events
from tokenbroker.exchange import Exchange
from tokenbroker.issuers.connections import warm
from tokenbroker.issuers.factory import build_issuer
from tokenbroker.model import DesktopEvent
from tokenbroker.otp import OneTimePasswords
from tokenbroker.peers import inspector_for
from tokenbroker.proofs import Proofs
from tokenbroker.sessions import Sessions
from tokenbroker.system import activation, sockets
from tokenbroker.system.clock import SystemClock
from tokenbroker.system.desktop import announcer, desktop_events
from tokenbroker.system.notify import Notifier, watchdog_interval
from tokenbroker.vaults.factory import VaultFactory

if TYPE_CHECKING:
    import socket
    from collections.abc import Coroutine, Iterable, Mapping
    from pathlib import Path

    from tokenbroker.model import Instant, Peer
    from tokenbroker.paths import Surroundings
    from tokenbroker.ports import DesktopEvents, Issuer, Vault
    from tokenbroker.vaults.op.experiment import ServiceProbe

logger = logging.getLogger(__name__)

DRAIN: Final = 5.0  # seconds that requests in flight have to finish when the daemon ends
LAST_WORDS: Final = 1.0  # seconds more, for the answers to those that could not finish
HOUSEKEEPING: Final = 30.0  # seconds between two rounds


@dataclass(frozen=True, slots=True)
class Options:
    """What `broker serve` was told."""

    config_path: Path | None
    """`None`: development parts, given as `config` and `vault`."""
    socket: str | None = None
    config: Config | None = None
    vault: Vault | None = None
    hardening: Mapping[str, str] | None = None
    """What `harden` said of each measure; `None`: nothing was hardened."""


class NobodyToAsk:
    """The `Approver` of this release: rules that say `ask` deny, until a person can be asked."""

    async def ask(self, peer: Peer, profile: str, reason: str | None) -> bool:  # noqa: ARG002  # the port's signature
        """Say no."""
        return False


class Daemon:
    """All parts of one running broker."""

    def __init__(self, options: Options, here: Surroundings) -> None:
        """Read the configuration and build everything that needs no event loop. Raises `ConfigError`."""
        self._options = options
        self._here = here
        self._environ = dict(here.environ)
        self._activated = activation.activated_sockets(self._environ, pid=os.getpid(), platform=here.platform)
        self._config_error: ConfigError | None = None
        config = options.config or self._first_config()
        self.clock = SystemClock()
        self._announcer = announcer(here.platform, self._environ)
        self.events = Events(lambda: self.clock.now().wall)
        self.inspector = inspector_for(here.platform)
        self._issuers: dict[str, Issuer] = {}
        self._fault: Fault | None = None
        self._retiring: set[asyncio.Task[None]] = set()
        """What closes the issuers and vaults of earlier configurations; kept, or the loop may forget it half done."""
        self._following: asyncio.Task[None] | None = None
        self._probe: ServiceProbe | None = None
        self._started: Instant = self.clock.now()
        self._stop = asyncio.Event()
        self.ready = asyncio.Event()
        """Set once the sockets answer."""
        self._custody = Custody(
            config,
            VaultFactory(
                self._environ, here.home, uid=here.uid, clock=self.clock, state_folder=here.state_folder()
            ).build,
            given=options.vault,
            present=lambda: self.broker.config,
            clock=self.clock,
            audit=self.events,
            announcer=self._announcer,
        )
        self.unlocks = self._custody.unlocks
        self._approver = NobodyToAsk()
        self.broker = self._build_broker(config)
        self.control = Control(self.broker, self.events, self.clock)
        self.control.on_lock = self._end_experiment
        self.unlocks.person.on_vault_locked = self._vault_locked
        self.desk = Desk(self.control, self.events, connect=self._desktop_events)
        self._public, self._admin = self._build_apis()

    def _build_broker(self, config: Config) -> Broker:
        broker = Broker(
            config,
            unlocks=self.unlocks,
            cache=TokenCache(
                self._exchange(config), audit=self.events, clock=self.clock, random=random.SystemRandom().random
            ),
            sessions=Sessions(self.inspector),
            inspector=self.inspector,
            approver=self._approver,
            audit=self.events,
            clock=self.clock,
        )
        broker.unusable = self._config_error
        return broker

    def _build_apis(self) -> tuple[PublicApi, AdminApi]:
        otp = OneTimePasswords(
            self.broker, inspector=self.inspector, approver=self._approver, audit=self.events, clock=self.clock
        )
        admin = AdminApi(
            self.broker,
            self.inspector,
            self.events,
            self.clock,
            uid=self._here.uid,
            control=self.control,
            about=self._about,
            reload=self.reload,
            experiment=self._experiment,
        )
        proofs = Proofs(self.broker, inspector=self.inspector, audit=self.events, clock=self.clock)
        return PublicApi(self.broker, otp, proofs, self.inspector, uid=self._here.uid), admin

    def _desktop_events(self) -> DesktopEvents:
        secret_service = self.broker.config.vault.backend == "keyring"
        return desktop_events(self._here.platform, self._environ, self._here.uid, secret_service=secret_service)

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT. Raises `SocketRefused` and `AlreadyListening`."""
        notifier = Notifier.from_environ(self._environ)
        beat = watchdog_interval(self._environ, pid=os.getpid())
        public = HttpServer(self._public, on_connect=self._public.connected)
        admin = HttpServer(self._admin, on_connect=self._admin.connected)
        with contextlib.ExitStack() as cleanup:
            listening = self._listen(cleanup)
            await public.serve(listening["broker"])
            await admin.serve(listening["admin"])
            self._on_signals(notifier)
            logger.info("Listening version=%s pid=%d", __version__, os.getpid())
            notifier.ready(self._condition())
            self.ready.set()
            background = [
                asyncio.create_task(self.broker.cache.run(), name="renewals"),
                asyncio.create_task(self._housekeeping(notifier, beat), name="housekeeping"),
                asyncio.create_task(_warm(), name="warm"),
            ]
            self._follow_desk()
            for task in background[:2]:  # without `warm` an exchange is slower, and says itself what is wrong
                task.add_done_callback(self._ended)
            await self._stop.wait()
            notifier.stopping()
            logger.info("Stopping")
            draining = asyncio.gather(public.drain(DRAIN + LAST_WORDS), admin.drain(DRAIN + LAST_WORDS))
            await asyncio.wait({draining}, timeout=DRAIN)
            await self.broker.stop()  # who waits for a person or an issuer even now is told
            await draining
            await _end(background)
            self._end_experiment()
            if self._following is not None:
                await _end([self._following])
            await self.desk.close()
            await self._announcer.close()
            await asyncio.gather(*self._retiring, return_exceptions=True)
            await _close(self._issuers.values())
        if self._fault is not None:
            raise self._fault

    def stop(self) -> None:
        """End `run` in good order."""
        self._stop.set()

    def reload(self) -> None:
        """Take over the configuration file as it is now. Raises `ConfigError`; then the old one stays."""
        if self._options.config_path is None:
            raise ConfigError(
                "development parts have no configuration to read", hint="start `broker serve` without --dev"
            )
        try:
            config = config_text.load(self._options.config_path)
            retired = self._custody.change(config, self.control)
        except ConfigError as error:
            self._config_error = error
            self.events.record("reload refused", {"why": error.message})
            raise
        before = list(self._issuers.values())
        self._end_experiment()
        if retired is not None:
            self._later(retired.close(), "close a vault")
        self.broker.configure(config, self._exchange(config))
        self._config_error = self.broker.unusable = None
        self._retire(before)
        self._follow_desk()
        self.events.record("reloaded", {"profiles": len(config.profiles)})

    def _ended(self, task: asyncio.Task[None]) -> None:
        """Stop, to be started anew, when a part that never ends has: tokens would turn stale, and nobody be told."""
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.critical("Part of the daemon ended by a fault part=%s: %s", task.get_name(), whereabouts(error))
            self._fault = Fault("the broker has a fault; its log has the details", hint="see the log of the daemon")
            self.stop()

    def _retire(self, issuers: list[Issuer]) -> None:
        """Close the issuers of the configuration before, once the flights that began with them have ended."""
        flights = {entry.flight for entry in self.broker.cache if entry.flight is not None}

        async def retire() -> None:
            if flights:
                await asyncio.wait(flights)
            await self.broker.revocations.finish()
            await _close(issuers)

        self._later(retire(), "retire issuers")

    def _later(self, work: Coroutine[None, None, None], name: str) -> None:
        closing = asyncio.create_task(work, name=name)
        self._retiring.add(closing)
        closing.add_done_callback(self._retiring.discard)

    def _first_config(self) -> Config:
        """Read the configuration. Raises `ConfigError`, unless systemd or launchd started us because somebody asked.

        Then to end would leave the caller waiting, and be started again for it without end. So the caller is told, and
        the daemon waits for the file to be mended and a reload.
        """
        path = self._options.config_path
        try:
            return config_text.load(_must(path))
        except ConfigError as error:
            if not self._activated:
                raise
            logger.error("Configuration refused why=%s", error.message)  # noqa: TRY400  # no trace: the message says all
            self._config_error = error
            return Config(path=path)

    def _vault_locked(self) -> None:
        self.control.happened(DesktopEvent.VAULT_LOCK)

    def _follow_desk(self) -> None:
        """Follow what the configuration asks for, one change after the other; nobody waits for a bus."""
        before = self._following

        async def follow() -> None:
            if before is not None:
                await before
            await self.desk.follow(self.broker.config)

        self._following = asyncio.create_task(follow(), name="follow the desk")

    async def _experiment(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Call `op` for `broker doctor op`, which wants to know how that goes in a service."""
        from tokenbroker.vaults.op.experiment import ServiceProbe  # noqa: PLC0415  # for a person who asks

        config = self.broker.config.vault
        if config.backend != "op":
            raise ConfigError(f"[vault] backend is `{config.backend}`, and only `op` asks through the app")
        if self._probe is None:
            self._probe = ServiceProbe(
                config, environ=self._environ, home=self._here.home, clock=lambda: self.clock.now().elapsed
            )
        return await self._probe.answer(body)

    def _end_experiment(self) -> None:
        probe, self._probe = self._probe, None
        if probe is not None:
            self._later(probe.close(), "end an experiment")

    def _exchange(self, config: Config) -> Exchange:
        self._issuers = {
            name: build_issuer(issuer, clock=self.clock, env=self._environ) for name, issuer in config.issuers.items()
        }
        return Exchange(
            config,
            self._issuers,
            unlocks=self.unlocks,
            audit=self.events,
            clock=self.clock,
            random=random.SystemRandom().random,
        )

    def _listen(self, cleanup: contextlib.ExitStack) -> Mapping[str, socket.socket]:
        """Take the sockets that systemd or launchd made, else make them."""
        given = dict(self._activated)
        places = {
            "broker": self._here.socket(self._options.socket),
            "admin": self._here.admin_socket(self._options.socket),
        }
        for name, path in places.items():
            if name not in given:
                bound = sockets.listen(path, uid=self._here.uid, platform=self._here.platform)
                cleanup.callback(bound.close)
                given[name] = bound.sock
        return given

    def _on_signals(self, notifier: Notifier) -> None:
        def hang_up() -> None:
            notifier.reloading()
            with contextlib.suppress(ConfigError):  # recorded, and shown by `broker status`
                self.reload()
            notifier.ready(self._condition())

        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        loop.add_signal_handler(signal.SIGHUP, hang_up)

    async def _housekeeping(self, notifier: Notifier, beat: float | None) -> None:
        """Feed the watchdog from the loop that serves, end unlocks that are too old, forget ended sessions."""
        while True:
            notifier.watchdog()
            if self.unlocks.expire():
                self.events.record("unlock ended", {"reason": "age or idleness"})
            self.broker.sessions.sweep(self.clock.now())
            await self.clock.sleep(min(beat or HOUSEKEEPING, HOUSEKEEPING))

    def _condition(self) -> str:
        """Say in one line how the daemon is, for `systemctl --user status`."""
        if self._config_error is None:
            return "serving"
        if self.broker.unusable is None:
            return "serving; the new configuration was refused"
        return "answering that the configuration is wrong: see `broker status`"

    def _about(self) -> dict[str, Any]:
        error = self._config_error
        return {
            "version": __version__,
            "pid": os.getpid(),
            "started_at": self._started.wall,
            "config": str(self._options.config_path) if self._options.config_path else None,
            "config_error": {"code": error.code, "message": error.message, "hint": error.hint} if error else None,
            "desk": self.desk.describe(self.broker.config),
            "hardening": dict(self._options.hardening or {}),
        }


async def _warm() -> None:
    """Import what the first exchange needs; then spare the collector what lives as long as the process: long pauses."""
    await asyncio.to_thread(warm)
    gc.collect()
    gc.freeze()


def _must(path: Path | None) -> Path:
    if path is None:
        raise ConfigError("no configuration was given", hint="write one with `broker init`")
    return path


async def _end(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _close(issuers: Iterable[Issuer]) -> None:
    for issuer in issuers:
        await issuer.close()

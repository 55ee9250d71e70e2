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
from tokenbroker.errors import ConfigError, Fault, whereabouts
from tokenbroker.events import Events
from tokenbroker.exchange import Exchange
from tokenbroker.issuers.token_endpoint import TokenEndpoint, warm
from tokenbroker.peers import inspector_for
from tokenbroker.sessions import Sessions
from tokenbroker.system import activation, sockets
from tokenbroker.system.clock import SystemClock
from tokenbroker.system.notify import Notifier, watchdog_interval
from tokenbroker.unlock import Unlock

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from tokenbroker.model import Instant, Peer, SecretRef
    from tokenbroker.paths import Surroundings
    from tokenbroker.ports import Issuer, Vault

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
        vault = options.vault or build_vault(config, here)
        self.clock = SystemClock()
        self.events = Events(lambda: self.clock.now().wall)
        self.inspector = inspector_for(here.platform)
        self._issuers: dict[str, Issuer] = {}
        self._fault: Fault | None = None
        self._retiring: set[asyncio.Task[None]] = set()
        """What closes the issuers of earlier configurations; kept, or the loop may forget it half done."""
        self._started: Instant = self.clock.now()
        self._stop = asyncio.Event()
        self.ready = asyncio.Event()
        """Set once the sockets answer."""
        self.unlock = Unlock(vault, config.unlock, self.clock, refs=self._refs, audit=self.events)
        self.broker = Broker(
            config,
            unlock=self.unlock,
            cache=TokenCache(
                self._exchange(config), audit=self.events, clock=self.clock, random=random.SystemRandom().random
            ),
            sessions=Sessions(self.inspector),
            inspector=self.inspector,
            approver=NobodyToAsk(),
            audit=self.events,
            clock=self.clock,
        )
        self.broker.unusable = self._config_error
        _warn(config)
        self._public = PublicApi(self.broker, self.inspector, uid=here.uid)
        self._admin = AdminApi(
            self.broker,
            self.inspector,
            self.events,
            self.clock,
            uid=here.uid,
            about=self._about,
            reload=self.reload,
        )

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
        except ConfigError as error:
            self._config_error = error
            self.events.record("reload refused", {"why": error.message})
            raise
        before = list(self._issuers.values())
        if config.vault != self.broker.config.vault:
            vault = build_vault(config, self._here)
            self.broker.lock("the vault is another one now")
            self.unlock.replace(vault)
        self.unlock.configure(config.unlock)
        self.broker.configure(config, self._exchange(config))
        self._config_error = self.broker.unusable = None
        self._retire(before)
        _warn(config)
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
            await _close(issuers)

        closing = asyncio.create_task(retire(), name="retire issuers")
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

    def _refs(self) -> tuple[SecretRef, ...]:
        return self.broker.config.refs()

    def _exchange(self, config: Config) -> Exchange:
        self._issuers = {
            name: TokenEndpoint(issuer, clock=self.clock, env=self._environ) for name, issuer in config.issuers.items()
        }
        return Exchange(
            config,
            self._issuers,
            unlock=self.unlock,
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
            if self.unlock.expire():
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
            "hardening": dict(self._options.hardening or {}),
        }


def _warn(config: Config) -> None:
    """Say what the configuration asks for and this version does not do."""
    if config.unlock.on_sleep == "lock":
        logger.warning("Locking on sleep is not in this version, and on_sleep has no effect")


def build_vault(config: Config, here: Surroundings) -> Vault:
    """Return the adapter for `[vault] backend`."""
    match config.vault.backend:
        case "op":
            from tokenbroker.vaults.op import OpVault  # noqa: PLC0415  # one backend is loaded, not all

            return OpVault(config.vault, environ=here.environ, home=here.home)
        case "keyring":
            from tokenbroker.vaults.keyring import KeyringVault  # noqa: PLC0415  # as above

            return KeyringVault()
        case other:  # `dev` is built by `serve --dev` alone; the parser refuses everything else
            raise ConfigError(f"vault backend `{other}` cannot be used here", hint="use `op` or `keyring`")


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

"""Which adapter is behind `[vault] backend`. One is loaded, not all."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from tokenbroker.errors import BrokerError, ConfigError
from tokenbroker.vaults.credential.sources import CredentialSources

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from pathlib import Path

    from tokenbroker.config import VaultConfig
    from tokenbroker.model import Secret
    from tokenbroker.ports import Clock, Vault


logger = logging.getLogger(__name__)


class VaultFactory:
    """Makes vaults; keeps what can be read only once, for the vaults of later configurations."""

    def __init__(
        self, environ: Mapping[str, str], home: Path, *, uid: int, clock: Clock, state_folder: Path | None = None
    ) -> None:
        """`environ` and `home` are the daemon's own; in `state_folder` is what `broker doctor op` found out."""
        self._environ = environ
        self._home = home
        self._state_folder = state_folder
        self._clock = clock
        self._credentials = CredentialSources(environ, uid=uid)

    def build(self, config: VaultConfig) -> Vault:  # one per backend
        """Return the adapter for `config`. Raises `ConfigError` for what the parser would have refused."""
        environ, home = self._environ, self._home
        match config.backend:
            case "op":
                return self._op(config)
            case "service-account":
                from tokenbroker.vaults.op.service_account import ServiceAccountVault  # noqa: PLC0415

                return ServiceAccountVault(
                    config, environ=environ, home=home, credential=self._credential(config), clock=self._clock
                )
            case "connect":
                from tokenbroker.vaults.connect.vault import ConnectVault  # noqa: PLC0415

                return ConnectVault(config, credential=self._credential(config))
            case "sdk":
                from tokenbroker.vaults.sdk.vault import SdkVault  # noqa: PLC0415

                return SdkVault(config, environ=environ, home=home, clock=self._clock)
            case "keyring":
                from tokenbroker.vaults.keyring import KeyringVault  # noqa: PLC0415

                return KeyringVault(timeout=config.prompt_timeout)
            case other:  # `dev` is built by `serve --dev` alone; the parser refuses everything else
                raise ConfigError(f"vault backend `{other}` cannot be used here", hint="use `op` or `keyring`")

    def _op(self, config: VaultConfig) -> Vault:
        """Return the adapter for the app, which runs `op` as was found to be right on this machine."""
        from tokenbroker.vaults.op.app import OpVault  # noqa: PLC0415  # as the module says
        from tokenbroker.vaults.op.grants_file import NAME, load_grants  # noqa: PLC0415
        from tokenbroker.vaults.op.runner import OpRunner  # noqa: PLC0415

        folder, now = self._state_folder, self._clock.now().wall
        grants = load_grants(folder / NAME, op_version=None, now=now) if folder is not None else None
        return OpVault(
            config,
            environ=self._environ,
            home=self._home,
            clock=self._clock,
            runner=OpRunner(terminal=grants is None or grants.mode == "terminal"),
            calls_prompt=grants is not None and grants.calls_prompt,
        )

    def _credential(self, config: VaultConfig) -> Callable[[], Awaitable[Secret]]:
        if config.credential is None:
            raise ConfigError(f"backend `{config.backend}` needs `credential`", hint="add it to the vault's table")
        try:
            return self._credentials.source(config.credential)
        except BrokerError as error:
            logger.warning("Credential of a vault is out of reach backend=%s why=%s", config.backend, error.message)
            return _unreadable(error.anew())


def _unreadable(error: BrokerError) -> Callable[[], Awaitable[Secret]]:
    """Tell whoever needs it: a daemon that does not start tells nobody, and the other vault may be well."""

    async def read() -> Secret:
        raise error.anew()

    return read

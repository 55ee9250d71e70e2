"""A user with every kind of vault, and everything that happens to them in one run: what `test_leaks` looks into.

`WholeRun(…)` makes the user; its methods are the acts of the run, in order. What the commands show is kept in `shown`,
what must not be seen is told to `search`.
"""

from __future__ import annotations

import shlex
import socket
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.e2e.rig import API, BIN, OWNER, Rig, dev_client, finished, wait_until
from tests.e2e.secret_forms import Search, lines, parts
from tests.e2e.standard import CRON_SECRET, SCOPES, SECRET, configuration, register
from tests.standins.connect_server import TOKEN as CONNECT_TOKEN
from tests.standins.connect_server import ConnectServer, status, text
from tests.standins.fault_issuer import FaultIssuer, answer, error
from tests.standins.op_things import Field, service_account_token
from tests.standins.sdk_app import SdkApp
from tokenbroker.dev.issuer import DevIssuer

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from tests.e2e.rig import Background, Daemon, Ran, Running
    from tests.standins.fault_issuer import Received
    from tokenbroker.dev.authorization import DevClient

HERE = Path(__file__).parent
ROTATED = "r0tated+%/& =distinctive-interactive"
SDK_SECRET = "s3cr+t%/& =distinctive-of-the-sdk"
CONNECT_SECRET = "s3cr+t%/& =distinctive-of-connect"
SEED = "JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP"
SERVICE_TOKEN = service_account_token("whole-run")
SIGNED_TOKEN = "opaque-token-for-a-signed-assertion"
HIDDEN_TOKEN = "opaque-token-that-comes-beside-an-error"
OTP = "op://Agents/github/one-time password"
KEY = ec.generate_private_key(ec.SECP256R1())
PEM = KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
TABLES = """\
[issuers.{name}]
token_endpoint = "{endpoint}"

[clients.{name}]
issuer = "{name}"
agent_type = "interactive"
owner = "{owner}"
client_id = "op://Agents/m2m/username"
{credential}

[profiles.{name}]
clients = ["{name}"]
audience = "{audience}"
"""
SIGNED = 'auth = "private_key_jwt"\nprivate_key = "op://Agents/signing/private key"'
SECRET_AT = 'client_secret = "op://Agents/{}"'
RULES = """
[[rules]]
profile = "*"
decide = "allow"
treat_as = "interactive"

[[rules]]
otp = "op://Agents/github/*"
decide = "allow"
treat_as = "interactive"
"""
APP = 'backend = "op"\naccount = "my.1password.com"'
SDK = 'backend = "sdk"\naccount = "Example"'
SERVICE_ACCOUNT = '[vault.autonomous]\nbackend = "service-account"\ncredential = "{}"\n'
CONNECT = '[vault.autonomous]\nbackend = "connect"\ncredential = "systemd://connect"\nurl = "{}"\n'
UNANSWERED: Final = 0.5  # seconds until a hung prompt is ended


class RecordingIssuer(DevIssuer):
    """Keeps every token that it gives out, also those that nobody is served."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.minted: list[str] = []

    def mint(self, client: DevClient, audience: str, scope: str) -> dict[str, Any]:
        """Make a token and keep it."""
        body = super().mint(client, audience, scope)
        self.minted.append(body["access_token"])
        return body


class Stream:
    """What the event stream says, from its start to its end."""

    def __init__(self, rig: Rig) -> None:
        self._end = socket.socket(socket.AF_UNIX)
        self._end.connect(str(rig.admin))
        self._end.sendall(b"GET /v1/events HTTP/1.1\r\nHost: broker\r\n\r\n")
        self._data = bytearray()
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        try:
            while chunk := self._end.recv(65536):
                self._data += chunk
        except ConnectionError:  # the daemon was killed
            pass
        finally:
            self._end.close()

    def so_far(self) -> bytes:
        """Return what has come."""
        return bytes(self._data)

    def all(self) -> bytes:
        """Wait for the stream's end, which is the daemon's."""
        self._thread.join(20)
        return self.so_far()


async def echo(received: Received, writer: asyncio.StreamWriter) -> None:
    """Say in an error what the client sent, as careless issuers do."""
    sent = dict(received.form).get("client_secret", "nothing")
    await error("invalid_request", 400, error_description=f"bad client_secret {sent}, sorry")(received, writer)


class WholeRun:
    """The user, their vaults, their issuers, and what they saw."""

    def __init__(self, rig: Rig, beside: Background) -> None:
        """Fill every vault, start the issuers, write the first configuration."""
        self.rig = rig
        self.beside = beside
        self.shown: dict[str, bytes] = {}
        """What commands and answers said, by where."""
        self.codes: set[str] = set()
        issuer = beside.enter(RecordingIssuer.start())
        assert isinstance(issuer, RecordingIssuer)
        self.issuer = issuer
        self.faults = {
            "echo": FaultIssuer(echo),
            "chatty": FaultIssuer(answer({"access_token": HIDDEN_TOKEN, "error": "invalid_client"}, 401)),
            "web": FaultIssuer(answer(f"<html>{SECRET}</html>", content_type="text/html")),
            "signed": FaultIssuer(answer({"access_token": SIGNED_TOKEN, "token_type": "Bearer", "expires_in": 300})),
        }
        self.temporary, self.cores, self.credentials = (self._folder(name) for name in ("tmp", "cores", "credentials"))
        self.app = SdkApp(rig.folder / "app")
        self.connect = ConnectServer()
        beside.enter(self.connect)
        for fault in self.faults.values():
            beside.enter(fault)
        self._fill()

    def _folder(self, name: str) -> Path:
        path = self.rig.folder / name
        path.mkdir(mode=0o700)
        return path

    @property
    def meant(self) -> list[Path]:
        """The places where secrets are meant to be: the stand-ins' own memory, what systemd hands over.

        And the user's configuration, into which one act writes a secret by mistake.
        """
        return [self.rig.folder / "op", self.app.folder, self.credentials, self.rig.config]

    def _fill(self) -> None:
        rig = self.rig
        self.item = rig.op.add_item("Agents", "m2m", {"username": "id-interactive", "credential": SECRET})
        rig.op.add_item("Agents", "m2m-cron", {"username": "id-autonomous", "credential": CRON_SECRET})
        rig.op.add_item("Agents", "signing", {"private key": PEM})
        rig.op.add_item("Agents", "github", {"one-time password": Field(SEED, "OTP")})
        rig.op.person("approve", delay=5)
        self.app.keep({
            "op://Agents/m2m/username": "id-sdk", "op://Agents/m2m/credential": SDK_SECRET,
            "op://Agents/signing/private key": PEM, f"{OTP}?attribute=otp": "735193",
        })  # fmt: skip
        self.connect.add_item(
            self.connect.add_vault("Agents"), "m2m-cron", {"username": "id-connect", "credential": CONNECT_SECRET}
        )
        for name, token in (("op", SERVICE_TOKEN), ("connect", CONNECT_TOKEN)):
            (self.credentials / name).write_text(token)
            (self.credentials / name).chmod(0o400)
        grants = {API: SCOPES, f"{API}/write": SCOPES}
        register(self.issuer)
        self.issuer.register(dev_client("id-sdk", SDK_SECRET, "interactive", grants))
        self.issuer.register(dev_client("id-connect", CONNECT_SECRET, "autonomous", grants))

    def configure(self, vault: str, autonomous: str, *, patience: float = 20.0, wrong: bool = False) -> None:
        """Write config.toml with these two vaults, and if told so with references that lead nowhere."""
        tables = [autonomous]
        for name, fault in self.faults.items():
            credential = SIGNED if name == "signed" else SECRET_AT.format("m2m/credential")
            tables.append(self._table(name, fault.url, credential))
        for name, place in (("no-item", "nothing/credential"), ("no-field", "m2m/nothing")) if wrong else ():
            tables.append(self._table(name, self.faults["web"].url, SECRET_AT.format(place)))
        whole = configuration(self.issuer.url, *tables, rules=RULES)
        self.rig.configure(whole.replace(APP, f"{vault}\nprompt_timeout = {patience}"))

    def _table(self, name: str, endpoint: str, credential: str) -> str:
        return TABLES.format(name=name, endpoint=endpoint, credential=credential, owner=OWNER, audience=API)

    def command(self) -> tuple[str | Path, ...]:
        """What starts the daemon: with cores of any size, in a folder for them, beside the stand-in of the app."""
        words = [sys.executable, str(HERE / "serve_beside_app.py"), str(self.app.library)]
        return ("sh", "-c", f'ulimit -c "$(ulimit -Hc)"; cd {shlex.quote(str(self.cores))}; exec "$@"', "sh", *words)

    def serve(self, descriptor: int | None = None, *, ordinary: tuple[str, ...] = ()) -> Daemon:
        """Start the daemon, at its most talkative; `ordinary` takes it the rights that root has."""
        return self.rig.serve(
            "--log-level", "debug",
            command=(*ordinary, *self.command()), pass_fds=() if descriptor is None else (descriptor,),
            CREDENTIALS_DIRECTORY=str(self.credentials), TMPDIR=str(self.temporary),
        )  # fmt: skip

    def reload(self, vault: str, autonomous: str, *, patience: float = 20.0, wrong: bool = False) -> None:
        """Have the daemon take over another configuration."""
        self.configure(vault, autonomous, patience=patience, wrong=wrong)
        assert self.rig.ask("POST", "/v1/reload", admin=True)[0] == 200

    # what a user does

    def keep(self, name: str, ran: Ran, *, printed: str = "") -> None:
        """Keep what a command showed, except for what it is there to print."""
        assert ran.out.count(printed) >= 1
        self.shown[f"{len(self.shown)} {name} exit {ran.code}"] = (ran.out.replace(printed, "", 1) + ran.err).encode()

    def broker(self, *commands: str, code: int = 0) -> None:
        """Run `broker` with each of these words at once; each is to end with `code`."""
        for words, running in [(words, self.rig.start(BIN / "broker", *words.split())) for words in commands]:
            ran = finished(running)
            assert ran.code == code, (words, ran)
            self.keep(f"broker {words}", ran)

    def tokens(self, *calls: str) -> None:
        """Have these tokens, all at once, with `broker-token`."""
        for words, running in self._begun(calls):
            ran = finished(running)
            self.keep(f"broker-token {words}", ran, printed=ran.token)
            assert ran.token in {*self.issuer.minted, SIGNED_TOKEN}

    def no_tokens(self, *calls: str, code: int | None = None, meanwhile: Callable[[], None] | None = None) -> None:
        """Fail to have these tokens; `meanwhile` is done when they have been asked for."""
        begun = self._begun(calls)
        if meanwhile is not None:
            meanwhile()
        for words, running in begun:
            ran = finished(running)
            assert (ran.out, ran.code in {1, 4, 5, 75}) == ("", True), ran
            assert code in {None, ran.code}, ran
            self.keep(f"broker-token {words}", ran)

    def _begun(self, calls: tuple[str, ...]) -> list[tuple[str, Running]]:
        return [(words, self.rig.start(BIN / "broker-token", *words.split())) for words in calls]

    def otp(self, *words: str) -> None:
        """Have a one-time password."""
        ran = self.rig.broker("otp", OTP, *words)
        code = ran.out.strip()
        assert (ran.code, ran.err, code.isdigit()) == (0, "", True), ran
        self.codes.add(code)
        self.keep("broker otp", ran, printed=code)

    def look(self, name: str) -> None:
        """See all that can be seen without being served."""
        for path in ("/v1/status", "/v1/sessions", "/metrics", "/healthz"):
            self.shown[f"{name} admin {path}"] = self.rig.ask("GET", path, admin=True)[1].encode()
        for path in ("/v1/profiles", "/v1/me", "/healthz", "/token", "/rejected"):
            self.shown[f"{name} public {path}"] = self.rig.ask("GET", path)[1].encode()

    # the acts

    def trouble_with_op(self, place: str) -> None:
        """Errors whose text holds secrets; a prompt that is dismissed, and one that hangs and is ended."""
        op, autonomous = self.rig.op, SERVICE_ACCOUNT.format(place)
        self.no_tokens("search --no-prompt", code=5)
        op.fault("error", command="inject", by="sa", text=f"{SERVICE_TOKEN} is odd, as is {CRON_SECRET}")
        self.no_tokens("search --as autonomous")
        op.person("dismiss")
        self.no_tokens("search", code=4)
        op.person("approve")
        op.fault("error", command="inject", by="app", text=f"could not use {SECRET}: {PEM}")
        self.broker("unlock", code=1)
        op.fault("truncated", command="inject", by="app")
        self.broker("unlock", code=1)
        self.reload(APP, autonomous, patience=UNANSWERED)
        op.mend()
        op.lock_app()
        op.person("hang")
        self.broker("unlock", code=5)
        op.person("approve")
        self.configure(APP, autonomous)
        self.broker("reload")

    def work(self) -> None:
        """Unlock and fetch tokens, the while `op` says on stderr what it should not; look; have passwords."""
        self.rig.op.fault("warning", command="inject", text=f"you have {SECRET}, and {CRON_SECRET}", times=2)
        self.broker("unlock")
        self.issuer.lifetime = 4  # of a token that is renewed in two seconds
        self.tokens("write --min-ttl 1")
        self.issuer.lifetime = 300
        self.tokens("search", "search --as autonomous", "write --scope search:write", "signed")
        self.otp()
        self.otp("--as", "autonomous")
        self.look("unlocked")
        self.broker("status", "status --json", "sessions --json")

    def wrong_places(self, place: str) -> None:
        """Issuers that echo what they got, and references that lead nowhere."""
        self.reload(APP, SERVICE_ACCOUNT.format(place), wrong=True)
        self.no_tokens("echo", "chatty", "web", "no-item", "no-field", "nobody")
        self.rig.ask("POST", "/token", b"grant_type=client_credentials&profile=search&scope=%E2%82%AC")

    def rotation(self) -> None:
        """Have a secret refused that was changed in the vault, and one that was not."""
        rig, grants = self.rig, {API: SCOPES, f"{API}/write": SCOPES}
        self.issuer.register(dev_client("id-interactive", ROTATED, "interactive", grants))
        rig.op.set_field(self.item, "credential", ROTATED)
        self.tokens("search --rejected")
        self.issuer.register(dev_client("id-interactive", "known to nobody", "interactive", grants))
        self.no_tokens("search --rejected")
        self.issuer.register(dev_client("id-interactive", ROTATED, "interactive", grants))
        self.broker("unlock", code=1)

    def mistake(self, daemon: Daemon) -> None:
        """Write a secret into the configuration, where a reference should be."""
        good = self.rig.config.read_text()
        self.rig.configure(good.replace("op://Agents/m2m/credential", SECRET))
        daemon.hang_up()
        wait_until(lambda: self.rig.status()["config_error"] is not None)
        self.broker("reload", "doctor", code=1)
        self.rig.configure(good)

    def another_pair(self) -> None:
        """Let the app be asked by its SDK, and a Connect server for cron: with trouble, and without."""
        app, connect = self.app, CONNECT.format(self.connect.url)
        app.set(chatter=1)
        app.person("hang")
        self.reload(SDK, connect)
        self.no_tokens("search", code=5, meanwhile=self._lock_at_the_prompt)
        assert app.story() == ["prompt hang"]
        app.person("dismiss")
        self.no_tokens("search", code=4)
        app.person("approve")
        app.fail("invoke", f"could not use {SDK_SECRET}: {PEM}")
        self.connect.fail(status(500, f"{CONNECT_TOKEN} is odd, as is {CONNECT_SECRET}"), times=1)
        self.no_tokens("search --as autonomous")
        self.connect.fail(text(f"<html>{CONNECT_SECRET}".encode()), times=1)
        self.broker("unlock", code=1)
        app.set(invoke_error=None)
        self.broker("unlock")
        self.broker("doctor --read", code=1)
        self.tokens("search", "search --as autonomous", "signed")
        self.otp()
        self.look("another pair")

    def _lock_at_the_prompt(self) -> None:
        self.app.wait_for("prompt hang")
        self.broker("lock")

    def crash(self, daemon: Daemon, number: int) -> None:
        """End the daemon as a fault of its own would, the vault unlocked and tokens in memory."""
        assert self.rig.status()["vault"]["state"] == "unlocked"
        daemon.kill(number)
        assert daemon.process.returncode == -number

    def all_secrets(self) -> Search:
        """Return the search for everything that was secret in this run."""
        search = Search()
        kept = {
            "client secret": SECRET, "rotated client secret": ROTATED, "autonomous client secret": CRON_SECRET,
            "client secret of the SDK": SDK_SECRET, "client secret of Connect": CONNECT_SECRET, "TOTP seed": SEED,
        }  # fmt: skip
        for name, secret in kept.items():
            search.secret(name, [secret])
        number = KEY.private_numbers().private_value.to_bytes(32, "big")
        search.secret("private key", [*lines(PEM), PEM, number.hex()])
        tokens = {"service account token": SERVICE_TOKEN, "Connect token": CONNECT_TOKEN, "hidden token": HIDDEN_TOKEN}
        for name, token in (tokens | {"token for an assertion": SIGNED_TOKEN}).items():
            search.secret(name, parts(token))
        for token in self.issuer.minted:
            search.secret("access token", parts(token))
        for request in (one for one in self.faults["signed"].requests if one.method == "POST"):
            search.secret("client assertion", parts(dict(request.form)["client_assertion"]))
        for code in self.codes:
            search.code(code)
        return search

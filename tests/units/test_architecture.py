"""The picture in docs/architecture.md, enforced: who may import whom, who may touch time, chance and secrets."""

from __future__ import annotations

import ast
import subprocess
import sys
from dataclasses import dataclass
from functools import cache, cached_property, wraps
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).parents[2]
SOURCES = {"tokenbroker": ROOT / "broker", "tokenbroker_client": ROOT / "client"}

# Top-level modules of the broker by layer; a package such as `vaults` is a layer of its own.
TOP_LEVEL = {
    "values": {"model", "errors", "suggest"},
    "pure": {"allowance", "backoff", "claims", "delegation", "lifecycle", "policy", "ports", "scrub"},
    "core": {
        "access", "breaker", "broker", "cache", "control", "cooldown", "custody", "events", "exchange", "memory",
        "minting", "otp", "proofs", "revocations", "sessions", "trials", "unlock", "unlocks",
    },
    "paths": {"paths"},
    "trust": {"trust"},
    "daemon": {"daemon", "desk"},
}  # fmt: skip
LOWER = {"values", "config", "pure"}
MAY_IMPORT = {
    "values": {"values"},
    "config": {"values", "config"},
    "pure": LOWER,
    "core": LOWER | {"core"},
    "paths": {"values", "paths"},
    "trust": set(),
    "vaults": LOWER | {"vaults", "trust"},
    "issuers": LOWER | {"issuers", "trust"},
    "peers": LOWER | {"peers"},
    "system": LOWER | {"system"},
    "api": LOWER | {"core", "api"},
    "daemon": LOWER | {"core", "paths", "api", "vaults", "issuers", "peers", "system", "daemon"},
    "dev": LOWER | {"core", "paths", "vaults", "daemon", "dev"},
}  # `cli` is on top and may import anything
SHARED_WITH_CLIENT = {"wire", "proof", "paths", "environment", "errors", "transport"}

# Modules that say of themselves that they are pure: they get no clock, no chance, no kernel.
PURE = [
    "tokenbroker.model", "tokenbroker.errors", "tokenbroker.suggest", "tokenbroker.claims", "tokenbroker.config",
    "tokenbroker.config.fields", "tokenbroker.config.sections", "tokenbroker.config.values", "tokenbroker.lifecycle",
    "tokenbroker.policy", "tokenbroker.config.toml_lines", "tokenbroker.api.messages", "tokenbroker.api.reader",
    "tokenbroker.api.views", "tokenbroker.issuers.addresses", "tokenbroker.config.presets",
    "tokenbroker.issuers.compact", "tokenbroker.issuers.introspection",
    "tokenbroker.issuers.assertions", "tokenbroker.issuers.keyfiles", "tokenbroker.issuers.keys",
    "tokenbroker.issuers.problems", "tokenbroker.issuers.quotas", "tokenbroker.issuers.said", "tokenbroker.allowance",
    "tokenbroker.issuers.hints",
    "tokenbroker.backoff", "tokenbroker.breaker", "tokenbroker.scrub",
    "tokenbroker.issuers.response", "tokenbroker.issuers.github_answers",
    "tokenbroker.delegation", "tokenbroker.peers.evidence",
    "tokenbroker.vaults.connect.answers", "tokenbroker.vaults.json_answer",
    "tokenbroker.vaults.op.errors", "tokenbroker.vaults.op.item", "tokenbroker.vaults.op.reference",
    "tokenbroker.vaults.op.grants", "tokenbroker.vaults.op.scrub",
    "tokenbroker.vaults.op.limits", "tokenbroker.vaults.op.service_errors", "tokenbroker.vaults.op.template",
    "tokenbroker.vaults.sdk.errors",
    "tokenbroker.dev.verifier.checks", "tokenbroker.dev.verifier.jose", "tokenbroker.dev.verifier.refusal",
    "tokenbroker.dev.verifier.routes",
    "tokenbroker_client.wire", "tokenbroker_client.proof", "tokenbroker_client.formats",
    "tokenbroker_client.http1", "tokenbroker_client.calls", "tokenbroker_client.errors",
]  # fmt: skip
IMPURE = {
    "asyncio", "os", "pathlib", "random", "secrets", "select", "selectors", "shutil", "signal", "socket", "subprocess",
    "sys", "tempfile", "threading", "time", "logging",
}  # fmt: skip

# Where the outside comes in. `dev` is a world of its own and `cli` reads what it shows.
READS_ENVIRON = {
    "tokenbroker.paths",
    "tokenbroker.system.hardening",  # takes away what the ssl module would obey
    "tokenbroker_client.environment",
}
READS_CLOCK = {
    "tokenbroker.system.clock",
    "tokenbroker.peers.procfs",  # when the machine was started, to date a process
    "tokenbroker.system.notify",  # systemd wants the moment at which a reload began
    "tokenbroker.vaults.op.terminal",  # a program of its own
    "tokenbroker.vaults.credential.descriptor",  # for how long a descriptor is read, in a thread
    "tokenbroker_client.transport",
}
DRAWS_RANDOM = {
    "tokenbroker.daemon",
    "tokenbroker.sessions",  # ids
    "tokenbroker.api.http",  # correlation ids
    "tokenbroker.issuers.token_endpoint",  # jti of an assertion
    "tokenbroker.issuers.github_app",  # likewise
    "tokenbroker.vaults.op.reader",  # the template's separator
}
REVEALS = {
    "tokenbroker.api.public",  # the token, to the peer
    "tokenbroker.minting",  # a client id that is kept as a secret
    "tokenbroker.issuers.authentication",  # the credential, to the issuer
    "tokenbroker.issuers.certificate",  # the client's certificate and key, to OpenSSL
    "tokenbroker.issuers.keys",  # the key, to be parsed, and the secret that signs
    "tokenbroker.issuers.dpop",  # the token, to be hashed into a proof
    "tokenbroker.scrub",  # to strike it from what an issuer says
    "tokenbroker.issuers.inspection",  # the token, to check its signature
    "tokenbroker.issuers.grants",  # the assertion, or the token that is exchanged, to the issuer
    "tokenbroker.issuers.github_app",  # the app's JWT, or the token that is revoked, to GitHub
    "tokenbroker.issuers.token_endpoint",  # the token, to the endpoints that revoke it or tell what it holds
    "tokenbroker.delegation",  # whom an actor's token is about
    "tokenbroker.vaults.connect.api",  # the access token, to the Connect server
    "tokenbroker.vaults.op.service_account",  # its token, to `op`
}
CLOCKS = {"time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns", "clock_gettime"}
MUTATORS = {"append", "add", "update", "setdefault", "pop", "popitem", "clear", "extend", "insert", "remove", "discard"}

# Third-party packages that a file of the daemon may import when it is loaded; all others are imported where used.
EAGER = {
    "tokenbroker.api.reader": {"httptools"},
    "tokenbroker.issuers.transport": {"aiohttp", "yarl"},
    "tokenbroker.vaults.connect.api": {"anyio", "httpx", "onepasswordconnectsdk"},
}
MAX_LINES = 400
MAX_FUNCTION = 60


@dataclass(frozen=True)
class Module:
    """One file of the project."""

    name: str
    path: Path
    tree: ast.Module

    @property
    def layer(self) -> str:
        package, *rest = self.name.split(".")
        if package == "tokenbroker_client":
            return "client"
        if not rest:
            return "values"  # tokenbroker itself: its version
        return next((layer for layer, names in TOP_LEVEL.items() if rest[0] in names), rest[0])

    @cached_property
    def nodes(self) -> list[ast.AST]:
        """Every node of the file."""
        return list(ast.walk(self.tree))

    def imports(self, *, eager: bool = False) -> set[str]:
        """Return the full names of imported modules; `eager`: only those that loading the file loads."""
        found: set[str] = set()
        for node in self._eager() if eager else self.nodes:
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                below = {f"{node.module}.{alias.name}" for alias in node.names} & modules().keys()
                found |= below or {node.module}
        return found

    def _eager(self) -> Iterator[ast.stmt]:
        for node in self.tree.body:
            if not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"):
                yield node

    def attributes(self) -> set[str]:
        """Return every `name.attribute` that stands in the file."""
        return {
            f"{node.value.id}.{node.attr}"
            for node in self.nodes
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
        }


@cache
def modules() -> dict[str, Module]:
    """Parse every file of both packages."""
    found: dict[str, Module] = {}
    for package, root in SOURCES.items():
        for path in sorted((root / package).rglob("*.py")):
            name = ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
            found[name] = Module(name, path, ast.parse(path.read_text(), filename=str(path)))
    return found


def of_each_module(claim: Callable[[Module], None]) -> Callable[[], None]:
    """Make one test of a claim about a module, which names every module that breaks it."""

    @wraps(claim)
    def test() -> None:
        broken = {}
        for name, module in modules().items():
            try:
                claim(module)
            except AssertionError as error:
                broken[name] = str(error)
        assert broken == {}

    del test.__wrapped__  # pytest would take its argument for a fixture
    return test


def ours(names: set[str], package: str) -> set[str]:
    return {name for name in names if name == package or name.startswith(f"{package}.")}


def test_there_is_something_to_check() -> None:
    """A moved folder would pass everything."""
    assert len(modules()) > 80


@of_each_module
def test_arrows_point_down(module: Module) -> None:
    """No file imports from a layer above its own, not even for its types."""
    if module.layer in {"cli", "client"}:
        return
    assert module.layer in MAY_IMPORT, "a new file: give it a layer here and in docs/architecture.md"
    for imported in ours(module.imports(), "tokenbroker"):
        assert modules()[imported].layer in MAY_IMPORT[module.layer], f"{module.name} imports {imported}"


@of_each_module
def test_the_two_packages_meet_in_six_modules(module: Module) -> None:
    """The client never imports the broker; the broker imports what both sides must agree on, and no more."""
    if module.layer == "client":
        assert not ours(module.imports(), "tokenbroker")
        return
    shared = {f"tokenbroker_client.{name}" for name in SHARED_WITH_CLIENT}
    assert ours(module.imports(), "tokenbroker_client") <= shared


@of_each_module
def test_the_client_needs_the_standard_library_alone(module: Module) -> None:
    """Other people's libraries are named for types only, or found by name when a program has them."""
    if module.layer == "client":
        outside = {name.partition(".")[0] for name in module.imports(eager=True)}
        assert outside - sys.stdlib_module_names <= {"tokenbroker_client"}


@of_each_module
def test_heavy_libraries_are_imported_where_they_are_used(module: Module) -> None:
    """Loading a file of the daemon loads no third-party package, but for the two files that are about one."""
    if module.layer in {"client", "dev"}:
        return
    outside = {name.partition(".")[0] for name in module.imports(eager=True)} - sys.stdlib_module_names
    assert outside - {"tokenbroker", "tokenbroker_client"} <= EAGER.get(module.name, set())


def loaded(code: str) -> set[str]:
    """Run `code` in a new interpreter and return the modules that it loaded."""
    done = subprocess.run(
        [sys.executable, "-I", "-c", f"{code}\nimport sys\nprint(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    return set(done.stdout.split())


def test_the_daemon_starts_without_the_slow_imports() -> None:
    """They happen in a thread once the sockets answer, or never."""
    heavy = {"aiohttp", "authlib", "cryptography", "joserfc", "jwt", "keyring", "platformdirs"}
    assert not loaded("import tokenbroker.daemon") & heavy


def test_looking_does_not_load_the_daemon() -> None:
    """`broker status` is run by scripts and status bars."""
    assert not loaded("import tokenbroker.cli.looking") & {"asyncio", "tokenbroker.daemon", "tokenbroker.broker"}


@of_each_module
def test_pure_files_touch_nothing(module: Module) -> None:
    """What is called pure gets time, chance, environment and files as arguments."""
    if module.name in PURE:
        assert not {one.partition(".")[0] for one in module.imports(eager=True)} & IMPURE


def test_what_is_called_pure_is_there() -> None:
    """A renamed file would be free of the claim."""
    assert set(PURE) - modules().keys() == set()


@of_each_module
def test_the_outside_comes_in_at_its_edges(module: Module) -> None:
    """Environment, clocks, chance and the revealing of secrets are each confined to the files named above."""
    if module.layer == "dev":
        return
    found = module.attributes()
    if {"os.environ", "os.getenv", "os.environb"} & found:
        assert module.name in READS_ENVIRON
    if {f"time.{clock}" for clock in CLOCKS} & found and module.layer != "cli":
        assert module.name in READS_CLOCK
    if {"random", "secrets"} & module.imports():
        assert module.name in DRAWS_RANDOM
    calls = (node.func for node in module.nodes if isinstance(node, ast.Call))
    if any(isinstance(function, ast.Attribute) and function.attr == "reveal" for function in calls):
        assert module.name in REVEALS


@of_each_module
def test_there_is_no_global_state(module: Module) -> None:
    """No `global`, and nobody changes a list, dict or set that belongs to a module."""
    held = {
        target.id
        for node in module.tree.body
        if isinstance(node, ast.Assign | ast.AnnAssign)
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        if isinstance(target, ast.Name)
    }
    for node in module.nodes:
        assert not isinstance(node, ast.Global)
        if isinstance(node, ast.Subscript) and not isinstance(node.ctx, ast.Load) and isinstance(node.value, ast.Name):
            assert node.value.id not in held, f"line {node.lineno}"
        function = node.func if isinstance(node, ast.Call) else None
        if isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name) and function.attr in MUTATORS:
            assert function.value.id not in held, f"line {function.lineno}"


@of_each_module
def test_files_and_functions_stay_short(module: Module) -> None:
    """A file can be read in one sitting, a function on one screen."""
    assert len(module.path.read_text().splitlines()) < MAX_LINES
    for node in module.nodes:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert (node.end_lineno or 0) - node.lineno < MAX_FUNCTION, node.name


def test_modules_are_not_imported_in_a_circle() -> None:
    """The order in which files are loaded never matters."""
    graph = {name: module.imports(eager=True) & set(modules()) for name, module in modules().items()}
    done: set[str] = set()

    def visit(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, " -> ".join((*way, name))
        if name not in done:
            for imported in graph[name]:
                visit(imported, (*way, name))
            done.add(name)

    for name in graph:
        visit(name, ())

"""Who counts as near a person, and under whom a session is booked: tables, no processes."""

from __future__ import annotations

import pytest

from tokenbroker.model import AgentType
from tokenbroker.peers.evidence import NOTHING, Role, judge, role_of, service_of
from tokenbroker.peers.process import MAX_ANCESTORS, Process, describe, is_helper, lineage, printable, session_root

USER, ROOT = 1000, 0
INIT = Process(1, 0, "systemd", "/usr/lib/systemd/systemd", ROOT)
MANAGER = Process(900, 1, "systemd", "/usr/lib/systemd/systemd", USER)
LAUNCHD = Process(1, 0, "launchd", "/sbin/launchd", ROOT)


def proc(pid: int, name: str, *, exe: str | None = None, tty: str | None = None, uid: int | None = USER) -> Process:
    return Process(pid, 0, name, exe or f"/usr/bin/{name}", uid, float(pid), 1e9 + pid, tty)


ASKER = proc(50, "python3")
AT_TERMINAL = proc(50, "python3", tty="pts/3")
BASH = proc(40, "bash", tty="pts/3")

SESSION = "0::/user.slice/user-1000.slice/session-3.scope\n"
TAB = "0::/user.slice/user-1000.slice/user@1000.service/app.slice/vte-spawn-1.scope\n"
TIMER = "0::/user.slice/user-1000.slice/user@1000.service/app.slice/nightly.service\n"


@pytest.mark.parametrize(
    ("process", "ancestors", "cgroup", "evidence"),
    [
        pytest.param(AT_TERMINAL, [BASH, MANAGER, INIT], TAB, "terminal pts/3", id="a terminal's tab"),
        pytest.param(
            AT_TERMINAL, [BASH, proc(9, "code"), MANAGER, INIT], SESSION, "terminal pts/3", id="a terminal in an IDE"
        ),
        pytest.param(AT_TERMINAL, [], None, "terminal pts/3", id="a terminal, its parents hidden"),
        pytest.param(
            AT_TERMINAL,
            [BASH, proc(8, "tmux: server"), MANAGER, INIT],
            SESSION,
            "terminal pts/3",
            id="a tmux server that was reparented",
        ),
        pytest.param(
            AT_TERMINAL,
            [BASH, proc(8, "tmux: server"), MANAGER, INIT],
            TIMER,
            "terminal pts/3",
            id="a tmux server that is a service",
        ),
        pytest.param(
            AT_TERMINAL, [BASH, MANAGER, INIT], TIMER, "terminal pts/3", id="systemd-run --pty: the service has it"
        ),
        pytest.param(
            AT_TERMINAL,
            [BASH, proc(7, "sshd-session", uid=ROOT), proc(6, "sshd", uid=ROOT), INIT],
            "0::/system.slice/ssh.service\n",
            "terminal pts/3",
            id="ssh without a scope of its own",
        ),
        pytest.param(
            proc(50, "python3", tty="ttys003"),
            [proc(40, "zsh", tty="ttys003"), proc(7, "sshd", uid=ROOT), LAUNCHD],
            None,
            "terminal ttys003",
            id="ssh into a Mac",
        ),
        pytest.param(
            proc(50, "python3", tty="ttys003"),
            [proc(40, "zsh", tty="ttys003"), proc(7, "dtach"), LAUNCHD],
            None,
            "terminal ttys003",
            id="an unknown terminal program on a Mac",
        ),
        pytest.param(ASKER, [proc(7, "code"), INIT], None, "program of an IDE: code (pid 7)", id="an IDE"),
        pytest.param(proc(7, "code"), [INIT], None, "program of an IDE: code (pid 7)", id="the IDE itself"),
        pytest.param(
            ASKER,
            [proc(8, "claude"), proc(7, "code"), INIT],
            None,
            "program of an agent: claude (pid 8)",
            id="the nearest one is named",
        ),
        pytest.param(
            ASKER,
            [proc(8, "claude"), proc(7, "code"), MANAGER, INIT],
            TIMER,
            "program of an agent: claude (pid 8)",
            id="an IDE that is a service",
        ),
        pytest.param(
            ASKER,
            [proc(7, "node", exe="/home/me/.vscode-server/bin/node"), INIT],
            SESSION,
            "program of an IDE: node (pid 7)",
            id="an IDE's remote server",
        ),
        pytest.param(
            ASKER,
            [proc(7, "Electron", exe="/Applications/Visual Studio Code.app/Contents/MacOS/Electron"), LAUNCHD],
            None,
            "program of an IDE: Electron (pid 7)",
            id="an IDE on a Mac",
        ),
        pytest.param(
            ASKER,
            [proc(8, "codex"), proc(7, "iTermServer-3.5", exe="/Users/me/Library/x/iTerm2/iTermServer-3.5"), LAUNCHD],
            None,
            "program of an agent: codex (pid 8)",
            id="an agent in a Mac's terminal",
        ),
        pytest.param(
            ASKER,
            [proc(8, "claude"), proc(7, "Something", exe="/Applications/Something.app/Contents/MacOS/x"), LAUNCHD],
            None,
            "program of an agent: claude (pid 8)",
            id="an agent in an unknown Mac app",
        ),
        pytest.param(
            ASKER,
            [proc(7, "claude"), MANAGER, INIT],
            "0::/user.slice/user-1000.slice/user@1000.service/app.slice/app-claude@1.service\n",
            "program of an agent: claude (pid 7)",
            id="an agent that the desktop started",
        ),
    ],
)
def test_interactive(process: Process, ancestors: list[Process], cgroup: str | None, evidence: str) -> None:
    assert judge(process, ancestors, cgroup) == (AgentType.INTERACTIVE, evidence)


@pytest.mark.parametrize(
    ("process", "ancestors", "cgroup", "evidence"),
    [
        pytest.param(ASKER, [proc(40, "bash"), INIT], SESSION, NOTHING, id="nothing is known"),
        pytest.param(ASKER, [], None, NOTHING, id="nothing can be read"),
        pytest.param(
            ASKER, [proc(3, "cron", uid=ROOT), INIT], None, "started by cron (pid 3)", id="cron, another user's"
        ),
        pytest.param(
            AT_TERMINAL,
            [BASH, proc(39, "script"), proc(3, "cron", uid=ROOT), INIT],
            SESSION,
            "started by cron (pid 3)",
            id="cron's own pseudo-terminal",
        ),
        pytest.param(
            ASKER,
            [proc(8, "claude"), proc(3, "crond", exe="/bin/busybox", uid=ROOT), INIT],
            SESSION,
            "started by crond (pid 3)",
            id="an agent that cron runs",
        ),
        pytest.param(
            ASKER, [proc(1, "cron", uid=ROOT)], None, "started by cron (pid 1)", id="cron as a container's init"
        ),
        pytest.param(
            AT_TERMINAL,
            [BASH, proc(3, "Runner.Worker"), INIT],
            SESSION,
            "started by Runner.Worker (pid 3)",
            id="a CI step with a pseudo-terminal",
        ),
        pytest.param(
            ASKER,
            [proc(3, "gitlab-runner-h", exe="/x/gitlab-runner-helper"), INIT],
            None,
            "started by gitlab-runner-h (pid 3)",
            id="a name that the kernel shortened",
        ),
        pytest.param(
            ASKER,
            [proc(3, "gitlab-runner-h")._replace(exe=None), INIT],
            None,
            "started by gitlab-runner-h (pid 3)",
            id="a shortened name alone",
        ),
        pytest.param(
            ASKER,
            [proc(7, "claude"), MANAGER, INIT],
            TIMER,
            "run by the service nightly.service",
            id="an agent in a timer",
        ),
        pytest.param(
            AT_TERMINAL,
            [BASH, proc(39, "script"), proc(38, "sh"), MANAGER, INIT],
            TIMER,
            "run by the service nightly.service",
            id="a timer's own pseudo-terminal",
        ),
        pytest.param(
            ASKER,
            [proc(7, "sshd", uid=ROOT), INIT],
            "0::/system.slice/ssh.service\n",
            "run by the service ssh.service",
            id="a command over ssh without a terminal",
        ),
        pytest.param(
            ASKER, [proc(7, "claude"), LAUNCHD], None, "run by launchd: claude (pid 7)", id="an agent that launchd runs"
        ),
    ],
)
def test_autonomous(process: Process, ancestors: list[Process], cgroup: str | None, evidence: str) -> None:
    assert judge(process, ancestors, cgroup) == (AgentType.AUTONOMOUS, evidence)


@pytest.mark.parametrize(
    ("name", "exe", "role"),
    [
        pytest.param("MainThread", "/usr/share/code/code", Role.IDE, id="by the program file"),
        pytest.param("claude", "/home/me/.local/share/claude/versions/2.0.5", Role.AGENT, id="by the kernel's name"),
        pytest.param("codex", "/home/me/.vscode-server/x/codex", Role.AGENT, id="an agent in an IDE's folder"),
        pytest.param("java", "/opt/idea/jbr/bin/java", None, id="a folder of another name says nothing"),
        pytest.param("Cursor", "/Applications/Cursor.app/Contents/MacOS/Cursor", Role.IDE, id="in any case of letters"),
        pytest.param("encode", "/usr/bin/encode", None, id="a part of a name is not the name"),
        pytest.param("gnome-terminal-", None, Role.TERMINAL, id="a name of 15 bytes is a shortened one"),
        pytest.param("gnome-term", None, None, id="a shorter one is another program"),
    ],
)
def test_role(name: str, exe: str | None, role: Role | None) -> None:
    assert role_of(Process(5, 1, name, exe)) is role


@pytest.mark.parametrize(
    ("cgroup", "unit"),
    [
        pytest.param(TIMER, "nightly.service", id="a user's service"),
        pytest.param("0::/system.slice/cron.service\n", "cron.service", id="the system's service"),
        pytest.param(
            "9:name=systemd:/system.slice/cron.service\n8:pids:/x.service\n0::/\n",
            "cron.service",
            id="cgroup version 1",
        ),
        pytest.param(
            "0::/user.slice/user@1000.service/app.slice/x.service/payload\n", "x.service", id="a delegated part of one"
        ),
        pytest.param(SESSION, None, id="a login"),
        pytest.param(TAB, None, id="a terminal's tab"),
        pytest.param("0::/system.slice/docker-1f.scope\n", None, id="a container"),
        pytest.param("0::/user.slice/user-1000.slice/user@1000.service/init.scope\n", None, id="the manager"),
        pytest.param("0::/user.slice/user@1000.service/app.slice/app-kate@1.service\n", None, id="a desktop app"),
        pytest.param("0::/user.slice/user@1000.service/app.slice/dbus-:1.2-x@0.service\n", None, id="a D-Bus service"),
        pytest.param("0::/user.slice/user@1000.service/session.slice/plasma.service\n", None, id="the desktop itself"),
        pytest.param("0::/user.slice/user@1000.service\n", None, id="no part of it"),
        pytest.param("0::/\n", None, id="the root"),
        pytest.param("", None, id="nothing"),
        pytest.param("nonsense", None, id="nonsense"),
    ],
)
def test_service_of(cgroup: str, unit: str | None) -> None:
    assert service_of(cgroup) == unit


def tree(*processes: Process) -> dict[int, Process]:
    return {process.pid: process for process in processes}


def test_the_ancestors_are_walked_to_pid_1() -> None:
    child, parent, init = Process(9, 5, "c", start_time=3.0), Process(5, 1, "b", start_time=2.0), INIT
    assert lineage(child, tree(parent, init).get) == (parent, init)


def test_a_parent_of_the_same_tick_is_a_parent() -> None:
    """Start times are counted in hundredths of a second."""
    child, parent = Process(9, 5, "c", start_time=3.0), Process(5, 0, "b", start_time=3.0)
    assert lineage(child, tree(parent).get) == (parent,)


def test_a_parent_younger_than_its_child_is_another_process() -> None:
    """The parent ended and its pid was reused between two looks."""
    child, parent = Process(9, 5, "c", start_time=3.0), Process(5, 1, "cron", start_time=4.0)
    assert lineage(child, tree(parent, INIT).get) == ()


def test_a_process_without_a_known_start_does_not_end_the_walk() -> None:
    """On macOS another user's process has none."""
    child, login, shell = Process(9, 5, "c", start_time=3.0), Process(5, 4, "login"), Process(4, 0, "x", start_time=9.0)
    assert lineage(child, tree(login, shell).get) == (login, shell)


def test_a_loop_ends() -> None:
    """Two looks at a changing table can show one."""
    a, b, c = Process(9, 5, "a"), Process(5, 6, "b"), Process(6, 5, "c")
    assert lineage(a, tree(a, b, c).get) == (b, c)


def test_a_chain_is_bounded() -> None:
    endless = {pid: Process(pid, pid + 1, "x") for pid in range(2, 1000)}
    assert len(lineage(endless[2], endless.get)) == MAX_ANCESTORS


@pytest.mark.parametrize(
    ("arguments", "verdict"),
    [
        pytest.param(["broker-token", "search"], True, id="by name"),
        pytest.param(["python3", "-I", "-S", "/opt/bin/broker-token", "search"], True, id="by its interpreter"),
        pytest.param(["python3", "-I", "-S", "-u", "broker-token"], False, id="an argument of something else"),
        pytest.param(["grep", "broker-tokens"], False, id="another name"),
        pytest.param([""], False, id="nothing"),
    ],
)
def test_is_helper(arguments: list[str], verdict: bool) -> None:  # noqa: FBT001  # a parameter of the table
    assert is_helper(arguments) is verdict


HELPER = proc(60, "broker-token")._replace(session=40)


@pytest.mark.parametrize(
    ("ancestors", "root"),
    [
        pytest.param([proc(50, "make"), BASH, proc(30, "konsole"), MANAGER, INIT], 40, id="the session leader"),
        pytest.param([proc(50, "make"), proc(45, "sh"), MANAGER, INIT], 45, id="no leader among them: the outermost"),
        pytest.param([BASH, proc(30, "claude"), MANAGER, INIT], 30, id="an agent, though its shell leads a session"),
        pytest.param(
            [proc(50, "sh"), proc(40, "su", uid=ROOT), INIT], 50, id="never another user's, though it leads the session"
        ),
        pytest.param([MANAGER, INIT], 60, id="nobody above it: itself"),
        pytest.param([], 60, id="nothing can be read: itself"),
        pytest.param([proc(1, "bash")], 60, id="never pid 1"),
    ],
)
def test_session_root(ancestors: list[Process], root: int) -> None:
    assert session_root(HELPER, ancestors).pid == root


def test_only_the_helper_is_booked_under_its_caller() -> None:
    """Evidence and identity stay the peer's own in either case."""
    helper = describe(USER, 100, HELPER, [BASH], arguments=["broker-token"])
    other = describe(USER, 100, HELPER, [BASH], arguments=["other"])
    assert (helper.pid, helper.root_pid, helper.root_exe, helper.root_started_at) == (60, 40, "/usr/bin/bash", 1e9 + 40)
    assert (other.pid, other.root_pid) == (60, 60)
    assert (helper.uid, helper.gid, helper.exe, helper.evidence) == (other.uid, other.gid, other.exe, other.evidence)


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        pytest.param("/opt/größe".encode(), "/opt/größe", id="text stays"),
        pytest.param(b"a\nb\x1b[2J", "a\\nb\\x1b[2J", id="no new line, no escape sequence"),
        pytest.param(b"/opt/\xff", "/opt/\\xff", id="bytes that are no text"),
        pytest.param("a\u202eb".encode(), "a\\u202eb", id="nothing that turns the line around"),
    ],
)
def test_printable(raw: bytes, text: str) -> None:
    assert printable(raw) == text

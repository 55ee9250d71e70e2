"""The watcher finds what it is there to find: whatever leaks is planted here once, and must be reported."""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING
from urllib.parse import quote, quote_plus

import pytest

from tests.e2e.rig import wait_until
from tests.e2e.secret_forms import Search, forms
from tests.e2e.watcher import Watcher

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

SECRET = "pl4nted+%/& secret"
WAIT = "print(flush=True); sys.stdin.read()"  # until the test has seen enough
LEAKS = {
    "argument": ("pass", [SECRET], {}, "argv of "),
    "argument of a grandchild": (
        f"import subprocess as s; s.Popen([sys.executable, '-c', 'import time; time.sleep(.1)', {SECRET!r}])",
        [], {}, "argv of ",
    ),
    "environment, as in a URL": ("pass", [], {"HARMLESS": f"http://h/?q={quote_plus(SECRET)}"}, "environ of "),
    "file for a moment": ("open('x', 'w').write(sys.argv[1][::-1]); import time; time.sleep(.05); os.remove('x')",
                          [SECRET[::-1]], {}, "file of "),
    "name of a file": ("open(sys.argv[1][::-1], 'w')", ["pl4nted+% secret"[::-1]], {}, "name of "),
    "file that was removed and is open": ("f = open('x', 'w+'); f.write(sys.argv[1][::-1]); f.flush(); os.remove('x')",
                                          [SECRET[::-1]], {}, "(deleted)"),
    "file that was removed and is mapped": (
        "import mmap; f = open('x', 'wb+'); f.write(sys.argv[1][::-1].encode()); f.flush(); "  # noqa: ISC004
        "m = mmap.mmap(f.fileno(), 0); f.close(); os.remove('x')",
        [SECRET[::-1]], {}, "(deleted)",
    ),
    "memory that is a file": ("f = os.memfd_create('x'); os.write(f, sys.argv[1][::-1].encode())",
                              [SECRET[::-1]], {}, "memfd:x"),
    "file outside of the folders": ("f = open('../elsewhere', 'w+'); f.write(sys.argv[1][::-1]); f.flush()",
                                    [SECRET[::-1]], {}, "elsewhere"),
}  # fmt: skip


@pytest.mark.parametrize("leak", LEAKS)
def test_each_planted_leak_is_reported(tmp_path: Path, leak: str) -> None:
    code, arguments, environ, where = LEAKS[leak]
    if leak.endswith("mapped") and os.geteuid():
        pytest.skip("only root may open what another process has mapped and removed")
    search = Search()
    search.secret("the secret", [SECRET])
    search.secret("the name", ["pl4nted+% secret"])
    (tmp_path / "watched").mkdir()
    with Watcher([tmp_path / "watched"]) as watch:
        child = subprocess.Popen(
            [sys.executable, "-Ic", f"import os, sys; {code}; {WAIT}", *arguments],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environ, cwd=tmp_path / "watched",
        )  # fmt: skip
        assert child.stdout is not None
        child.stdout.readline()
        since = watch.looks
        wait_until(lambda: watch.looks > since + 20)
        child.communicate()
    found = search.in_sights(watch.sights)
    assert any(where in one for one in found), found  # a slow machine shows a file also before it is removed


def test_a_clean_child_is_seen_and_not_reported(tmp_path: Path) -> None:
    search = Search()
    search.secret("the secret", [SECRET])
    with Watcher([tmp_path]) as watch:
        child = subprocess.Popen([sys.executable, "-Ic", "import time; time.sleep(.05)", SECRET[1:]])
        child.wait()
    assert child.pid in watch.pids
    assert search.in_sights(watch.sights) == set()


def test_what_is_meant_to_hold_secrets_is_left_alone(tmp_path: Path) -> None:
    """And nothing beside it."""
    search = Search()
    search.secret("the secret", [SECRET])
    for name in ("meant", "meant-not"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(SECRET)
    with Watcher([tmp_path], but=[tmp_path / "meant"]) as watch:
        wait_until(lambda: watch.looks > 1)
    assert search.in_sights(watch.sights) == {f"the secret in file of {tmp_path}/meant-not/file"}


@pytest.mark.parametrize(
    "write",
    [
        pytest.param(lambda s: s, id="plain"),
        pytest.param(lambda s: s.encode().hex(), id="hexadecimal"),
        pytest.param(lambda s: json.dumps({"a": s}), id="JSON"),
        pytest.param(lambda s: re.sub(r"%..", lambda code: code[0].lower(), quote(s)), id="small per cents"),
        pytest.param(lambda s: base64.b64encode(s.encode()).decode(), id="base64"),
        pytest.param(lambda s: base64.b64encode(b"x" + s.encode() + b"y").decode(), id="base64, second byte"),
        pytest.param(lambda s: base64.urlsafe_b64encode(b"xx" + s.encode() + b"y").decode(), id="base64, third byte"),
    ],
)
def test_every_form_of_a_secret_is_found(write: Callable[[str], str]) -> None:
    secret = f"{SECRET}\n'ü"
    written = write(secret).encode()
    assert any(form in written for form in forms(secret))


def test_one_time_passwords_are_found_where_they_stand_alone() -> None:
    search = Search()
    search.code("123456")
    assert search.in_text(b"otp=123456\n")
    assert not search.in_text(b"at 1123456 or 0.1234567 or 123456.5")

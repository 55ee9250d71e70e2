"""Where keys stand, checked by hand and against `tomllib`."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenbroker.config.toml_lines import Path, TomlLines

DOCUMENT = '''\
# a comment with [brackets] and key = "value"
version = 1

[vault] # [not.this]
backend = "op"

[clients.mine]
owner = """
[clients.other]
owner = "not here" \\""" still inside
"""
agent_type = "interactive"

[clients."a.b"]
issuer = 'its'
"quoted \\u0041" = 1

[profiles]
search.scopes = [ # a list
    "a]", '[b', # "c"
    "d",
]
search.audience = "x"
inline = { exe = "/a#b", deep = { er = [1, 2] }, agent_type = "x" }

[[rules]]
profile = "search"
  [rules.peer]
  exe = "/usr/bin/*"

[[rules]]
[[rules.nested]]
[[rules.nested]]
key = 1979-05-27 07:32:00
'''


@pytest.mark.parametrize(
    ("path", "line"),
    [
        pytest.param((), 1, id="the root is line 1"),
        pytest.param(("version",), 2, id="a key at the root"),
        pytest.param(("vault",), 4, id="a table is where its header is"),
        pytest.param(("vault", "backend"), 5, id="a key in a table"),
        pytest.param(("clients",), 7, id="an implied table is where it is first implied"),
        pytest.param(("clients", "mine", "agent_type"), 12, id="a multi-line string hides what looks like TOML"),
        pytest.param(("clients", "other"), 7, id="what is inside a string is no key"),
        pytest.param(("clients", "a.b"), 14, id="a quoted key with a dot is one key"),
        pytest.param(("clients", "a.b", "quoted A"), 16, id="escapes in quoted keys are decoded"),
        pytest.param(("profiles", "search"), 19, id="a dotted key implies its tables"),
        pytest.param(("profiles", "search", "scopes", 1), 20, id="brackets in strings do not count"),
        pytest.param(("profiles", "search", "scopes", 2), 21, id="an element of a list of several lines"),
        pytest.param(("profiles", "search", "audience"), 23, id="the key after a list of several lines"),
        pytest.param(("profiles", "inline", "deep", "er", 1), 24, id="an inline table is on its own line"),
        pytest.param(("rules", 0, "peer", "exe"), 29, id="a sub-table belongs to the latest element"),
        pytest.param(("rules", 1), 31, id="the second element of an array of tables"),
        pytest.param(("rules", 1, "nested", 1, "key"), 34, id="arrays of tables nest"),
        pytest.param(("rules", 0, "absent"), 26, id="an absent key falls back to its table"),
        pytest.param(("absent", "absent"), 1, id="an absent table falls back to the root"),
    ],
)
def test_line(path: Path, line: int) -> None:
    """Every key has the line on which a person sees it."""
    tomllib.loads(DOCUMENT)
    assert line == TomlLines(DOCUMENT).line(path)


def test_windows_line_ends_count_once() -> None:
    """A file with CRLF has the same lines as one with LF."""
    lines = TomlLines(DOCUMENT.replace("\n", "\r\n"))
    assert 34 == lines.line(("rules", 1, "nested", 1, "key"))
    assert 12 == lines.line(("clients", "mine", "agent_type"))


def test_nesting_does_not_exhaust_the_stack() -> None:
    """Twenty thousand open brackets are read like any other text."""
    assert 2 == TomlLines("a = " + "[" * 20_000 + "]" * 20_000 + "\nb = 1").line(("b",))


_NAMES = st.sampled_from(["a", "b", "c", "d-e", '"q.r"', "'[s]'", '"\\u0041"'])
_SCALARS = st.sampled_from(
    [
        "1",
        "-2.5e3",
        "true",
        '"x"',
        "'y'",
        '"[#"',
        '"\\""',
        "1979-05-27 07:32:00",
        '"""a\n[b]\n""q"""""',
        "'''\nk = 1\n'''",
    ]
)
_VALUES = st.recursive(
    _SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda items: "[\n" + ", # ]\n".join(items) + "\n]"),
        st.lists(inner, max_size=3).map(lambda items: "[" + ", ".join(items) + "]"),
        st.dictionaries(_NAMES, inner, max_size=2).map(
            lambda pairs: "{" + ", ".join(f"{key} = {value}" for key, value in pairs.items()) + "}"
        ),
    ),
    max_leaves=5,
)
_KEYS = st.lists(_NAMES, min_size=1, max_size=3).map(" . ".join)
_STATEMENTS = st.one_of(
    st.builds(lambda key, value: f"{key} = {value} # = [x]", _KEYS, _VALUES),
    st.builds(lambda key: f"[ {key} ]", _KEYS),
    st.builds(lambda key: f"[[{key}]]", _KEYS),
    st.sampled_from(["", "# [a]", "  "]),
)


def _paths(value: Any, path: Path = ()) -> list[Path]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(found for key, item in items for found in _paths(item, (*path, key)))]


def _grow(statements: list[str]) -> str:
    """Join the statements that make valid TOML together with those before them."""
    text = ""
    for statement in statements:
        longer = f"{text}{statement}\n"
        try:
            tomllib.loads(longer)
        except tomllib.TOMLDecodeError:
            continue
        text = longer
    return text


@given(st.lists(_STATEMENTS, max_size=12))
def test_tomllib_agrees(statements: list[str]) -> None:
    """A key is in no document that ends before its line, and in every one that ends with its statement."""
    text = _grow(statements)
    lines = TomlLines(text)
    rows = text.split("\n")
    prefixes: dict[int, set[Path]] = {}
    for length in range(len(rows) + 1):
        try:
            prefixes[length] = set(_paths(tomllib.loads("\n".join(rows[:length]))))
        except tomllib.TOMLDecodeError:
            continue
    for path in _paths(tomllib.loads(text))[1:]:
        line = lines.line(path)
        # An implied table that gets its own header later stands at that header, so it may be known before.
        before = max(length for length in prefixes if length < line)
        after = min(length for length in prefixes if length >= line)
        header = rows[line - 1].lstrip().startswith("[")
        assert header or path not in prefixes[before]
        assert path in prefixes[after]


@given(st.text(alphabet="ab[]{}=.,\"'\\#\n \t1", max_size=60))
def test_any_text_is_survived(text: str) -> None:
    """Text that is not TOML gives some line within it, and neither an error nor a loop."""
    assert 1 <= TomlLines(text).line(("a", "b")) <= text.count("\n") + 1


def test_a_key_with_a_wrong_escape_is_kept_as_written() -> None:
    """A quoted key that TOML does not allow is known by its text, quotes included."""
    assert TomlLines('\n"\\q" = 1').line(('"\\q"',)) == 2


def test_quotes_before_the_closing_ones_belong_to_the_string() -> None:
    """A multi-line string may end with two quotes of its own, which are not another element."""
    text = "a = [\n\"\"\"x\"\"\"\"\",\n'''y''''',\n3]"
    assert tomllib.loads(text) == {"a": ['x""', "y''", 3]}
    assert [TomlLines(text).line(("a", index)) for index in range(3)] == [2, 3, 4]

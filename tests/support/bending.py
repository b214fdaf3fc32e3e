"""Nearly valid files for fuzzing: bytes flipped, lines cut, values of wrong types, and plain garbage."""

import copy
import json

from hypothesis import strategies as st

from bertvision.data.files import format_yaml

BYTES = (
    b"",
    b"\0",
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b"\xed\xa0\x80",
    b"\r",
    b"\r\n",
    b"\n",
    b"\n\n",
    b"\t",
    b" ",
    b'"',
    b"'",
    b",",
    b":",
    b"#",
    b"{",
    b"}",
    b"]",
    b"()",
    b"[" * 3000,
    b'{"a":' * 3000,
    b"(" * 300,
    b"-" * 5000,
    b"9" * 5000,
    b"1e999",
    b"-1",
    b"0x",
    b"1_0:30",
    b"2001-13-45",
    b"NaN",
    b".inf",
    b"null",
    b"\\ud800",
    b"&a [*a]",
    b"&a ",
    b"*a",
    b"<<: ",
    b"!!python/object/apply:os.getcwd []",
    b"!!binary x",
    b"? ",
    b"x" * 300,
    "é😀".encode(),
    b"\x1a",
    b"\\",
    b"|",
)
VALUES = (
    None,
    True,
    False,
    0,
    -1,
    1,
    7,
    2**31,
    -(2**63),
    2**64,
    10**400,
    0.5,
    -1.5,
    1e308,
    float("nan"),
    float("inf"),
    "",
    " ",
    "x",
    "\0",
    "\ud800",
    "a/b",
    "../..",
    "~",
    "x" * 5000,
    "9" * 5000,
    "validation",
    "é",
    [],
    {},
    [[]],
    [None],
    ["x", "x"],
    ["x", 1],
    {"": None},
    {"x": {"x": []}},
    {"x": 1},
    [0, 1],
    [1e308, 10**400],
)
BOMB = b"a: &a [x, x, x, x, x, x, x, x, x]\n" + b"".join(
    b"%c: &%c [*%c, *%c, *%c, *%c, *%c, *%c, *%c, *%c, *%c]\n" % (b, b, *[b - 1] * 9) for b in range(98, 112)
)
WEDGE = b"a: &a {x: 1}\n" + b"".join(
    b"%c: &%c {<<: [*%c, *%c, *%c, *%c, *%c, *%c, *%c, *%c, *%c]}\n" % (b, b, *[b - 1] * 9) for b in range(98, 112)
)


def _bend(draw, raw: bytes) -> bytes:
    """One damage to some bytes."""
    at, kind = (
        draw(st.integers(0, len(raw))),
        draw(st.sampled_from(("flip", "cut", "tail", "insert", "insert", "repeat", "line", "column"))),
    )
    length = draw(st.integers(1, 40))
    if kind == "flip" and at < len(raw):
        return raw[:at] + bytes([draw(st.integers(0, 255))]) + raw[at + 1 :]
    if kind == "cut":
        return raw[:at] + raw[at + length :]
    if kind == "tail":
        return raw[:at]
    if kind == "repeat":
        return raw[:at] + raw[at : at + length] * 2 + raw[at + length :]
    if kind == "insert":
        return raw[:at] + draw(st.sampled_from(BYTES)) + raw[at:]
    lines = raw.split(b"\n")
    n, m = (draw(st.integers(0, len(lines) - 1)) for _ in range(2))
    if kind == "line":
        lines[n] = lines[m] + draw(st.sampled_from((b"", b"\r", b"\n")))
    else:
        mark = draw(st.sampled_from((b"\t", b",", b" ")))
        lines[n] = mark.join(part for i, part in enumerate(lines[n].split(mark)) if i != m)
    return b"\n".join(lines)


@st.composite
def bent(draw, raw: bytes) -> bytes:
    """Sound bytes, damaged up to four times; now and then garbage."""
    if draw(st.integers(0, 19)) == 0:
        return draw(st.binary(max_size=200))
    for _ in range(draw(st.integers(1, 4))):
        raw = _bend(draw, raw)
    return raw


def _places(tree, path=()) -> list:
    """The paths of all values within a tree, itself included."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    return [path, *(p for key, value in items for p in _places(value, (*path, key)))]


def _at(tree, path):
    for key in path:
        tree = tree[key]
    return tree


def _twist(draw, tree):
    """One value of a tree replaced, removed, moved, doubled or put under another name."""
    paths = _places(tree)
    path, other, kind = (
        draw(st.sampled_from(paths)),
        draw(st.sampled_from(paths)),
        draw(st.sampled_from(("value", "value", "value", "remove", "move", "wrap", "key", "more"))),
    )
    value = (
        copy.deepcopy(_at(tree, other))
        if kind == "move"
        else [_at(tree, path)]
        if kind == "wrap"
        else copy.deepcopy(draw(st.sampled_from(VALUES)))
    )
    if not path:
        return value if kind in ("value", "wrap") else tree
    above, key = _at(tree, path[:-1]), path[-1]
    if kind == "remove":
        del above[key]
    elif kind == "more" and isinstance(above, list):
        above.append(value)
    elif kind in ("key", "more") and isinstance(above, dict):
        above[draw(st.sampled_from(("x", "", "\0", "\ud800", str(other[-1]) if other else "y")))] = (
            copy.deepcopy(above[key]) if kind == "more" else above.pop(key)
        )
    else:
        above[key] = value
    return tree


@st.composite
def twisted(draw, tree):
    """A tree of dicts, lists and plain values with one to three faults."""
    tree = copy.deepcopy(tree)
    for _ in range(draw(st.integers(1, 3))):
        tree = _twist(draw, tree)
    return tree


def json_files(tree):
    """Bytes of JSON that is nearly right."""
    return st.one_of(
        twisted(tree).map(lambda t: json.dumps(t).encode()),
        twisted(tree).map(lambda t: json.dumps(t, indent=1).encode()).flatmap(bent),
        bent(json.dumps(tree, indent=1).encode()),
    )


def yaml_files(tree, text: str = ""):
    """Bytes of YAML that is nearly right."""
    sound = text.encode() or format_yaml(tree).encode()
    return st.one_of(
        twisted(tree).map(lambda t: json.dumps(t).encode()),
        bent(sound),
        st.sampled_from((BOMB, WEDGE, sound + BOMB, sound + WEDGE)),
    )

#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What `make lint` checks beside the compilers' warnings: python3 tools/lint.py [FILE...]

  layers    an include in src/ that the law below does not allow; a *_priv.h outside its room
  limits    a function over 100 lines or of complexity over 25, a file over 1,200 lines, a line over 120 columns
  header    a file without its SPDX line, a source without the comment that says what it is for
  banned    calls that cannot be bounded or checked (strcpy, sprintf, atoi, alloca ...)
  words     paths of one machine, hosts on the network, and work left open, in any text file
  names     a Python file with tests that pytest would not collect
  format    what clang-format would change (the one in .deps/venv: releases differ; CLANG_FORMAT= names another)

Standard library only. Every finding is one line, file:line: what; the exit status is 1 if there is one.
"""

import os
import pathlib
import re
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent

MAX_FUNCTION_LINES = 100
MAX_FILE_LINES = 1200
MAX_COMPLEXITY = 25
MAX_COLUMNS = 120

# What each room of src/ may include, as prefixes ("net/") or whole headers ("net/loop.h"), its own files aside.
# Files directly in src/ (main.c, house*.c, inproc.c) join the rooms and may include all of them.
LAW = {
    "base": [],
    "net": ["base/"],
    "inference": ["net/loop.h", "base/"],
    "backends": [
        "inference/engine.h",
        "inference/batch.h",
        "inference/batcher.h",
        "inference/device.h",
        "inference/wire.h",
        "inference/tensor.h",
        "inference/window.h",
        "client/",
        "net/",
        "base/",
    ],
    "store": ["base/"],
    "control": ["inference/", "store/", "net/loop.h", "base/"],
    "api": ["control/", "inference/", "net/", "base/"],
    "client": ["weir.h", "inference/wire.h", "inference/tensor.h", "net/", "base/"],
    "cli": ["weir.h", "client/", "base/"],
}

# The shop is an application of its own below examples/shop: its modules know each other by their one header, and each
# of the outside's headers belongs to one of them. main.c joins them.
SHOP = ("examples", "shop")
SHOP_LAW = {
    "common": [],
    "data": ["common/"],
    "inference": ["common/"],
    "business": ["data/data.h", "inference/inference.h", "common/"],
    "api": ["business/business.h", "common/"],
}
SHOP_OWNERS = {"weir.h": "inference", "sqlite3.h": "data", "microhttpd.h": "common", "curl/curl.h": "business"}

BANNED = {
    "strcpy": "base/buf.h or snprintf",
    "strcat": "base/buf.h or snprintf",
    "stpcpy": "base/buf.h or snprintf",
    "sprintf": "snprintf",
    "vsprintf": "vsnprintf",
    "gets": "fgets",
    "atoi": "strtol, with its errors checked",
    "atol": "strtol, with its errors checked",
    "atoll": "strtoll, with its errors checked",
    "alloca": "a bounded array or the arena",
}

# The patterns are written so that they do not match themselves.
WORDS = [
    (r"/work\b/", "a path of one machine"),
    (r"/tmp/wei[r]/", "a path of one machine"),
    (r"/(?:root|home/\w+)\b/", "a path of one machine"),
    (r"/opt/wheel[s]", "a path of one machine"),
    # Packages are named, not where they come from: that is the machine's own matter.
    # The name of SVG's elements looks like a host and is none.
    (
        r"https?://(?!github\.com/|www\.apache\.org/|www\.w3\.org/2000/svg)[\w.-]+\.(?:org|com|net|io|dev)\b",
        "a host on the network",
    ),
    (r"\b(?:TO[D]O|FIX[M]E|X[X]X)\b", "work left open"),
]

CODE_DIRS = ("src", "include", "tests", "bench", "examples", "tools")


class Findings:
    def __init__(self):
        self.lines = []

    def add(self, path, line, text):
        self.lines.append((str(path), line, text))


def blank(match):
    """Keeps the newlines, so that offsets still give line numbers."""
    return re.sub(r"[^\n]", " ", match.group(0))


def bare_code(text):
    """C without comments, and with what strings and character constants say blanked out."""
    token = re.compile(
        r"""/\*.*?\*/ | //[^\n]* | "(?:\\.|[^"\\\n])*" | '(?:\\.|[^'\\\n])*'""", re.S | re.X
    )

    def keep(m):
        s = m.group(0)
        if s[0] in "\"'":
            return s[0] + blank(re.match(r".*", s[1:-1], re.S)) + s[-1]
        return blank(m)

    return token.sub(keep, text)


def without_directives(code):
    return re.sub(r"^[ \t]*#(?:[^\n\\]|\\\n|\\[^\n])*", blank, code, flags=re.M)


def function_name(head):
    """The name in the text before a body: the first word that is called and is no attribute."""
    flat = re.sub(r"__attribute__\s*\(\((?:[^()]|\((?:[^()]|\([^()]*\))*\))*\)\)", " ", head)
    for m in re.finditer(r"\b([A-Za-z_]\w*)\s*\(", flat):
        if m.group(1) not in ("PRINTF", "alignas", "_Alignas", "typeof", "__typeof__", "sizeof"):
            return m.group(1)
    return None


def functions(code):
    """(name, first line, last line, complexity) of every function body in code without comments and directives."""
    depth, start, head_from = 0, None, 0
    for m in re.finditer(r"[{};]", code):
        c, at = m.group(0), m.start()
        if c == "{":
            if depth == 0:
                head = code[head_from:at]
                # An initialiser or a struct is no function; a definition's head ends in its parameters or an attribute.
                name = function_name(head) if re.search(r"\)\s*$", head) and "=" not in head else None
                start = (name, head_from + len(head) - len(head.lstrip()), at)
            depth += 1
        elif c == "}":
            depth -= 1
            if depth == 0 and start:
                if start[0]:
                    body = code[start[2] : at]
                    branches = re.findall(r"\b(?:if|for|while|case)\b|&&|\|\||\?", body)
                    first = code.count("\n", 0, start[1]) + 1
                    yield start[0], first, code.count("\n", 0, at) + 1, 1 + len(branches)
                start = None
                head_from = at + 1
        elif depth == 0:
            head_from = at + 1
    if depth != 0:
        yield None, 1, 1, 0


def check_shop(path, text, out):
    room = path.parts[2] if len(path.parts) > 3 else None
    if room is not None and room not in SHOP_LAW:
        out.add(path, 1, f"layers: examples/shop/{room} is no module of the shop (tools/lint.py has the list)")
        return
    for m in re.finditer(r'^[ \t]*#[ \t]*include[ \t]*(["<])([^">\n]+)[">]', text, re.M):
        own, name, line = m.group(1) == '"', m.group(2), text.count("\n", 0, m.start()) + 1
        if not own:
            if SHOP_OWNERS.get(name, room) != room:
                out.add(path, line, f"layers: <{name}> belongs to examples/shop/{SHOP_OWNERS[name]}")
            continue
        if not ROOT.joinpath(*SHOP, name).is_file():
            out.add(path, line, f'layers: "{name}" is not below examples/shop/ (includes are written from there)')
        elif room is not None and not name.startswith(room + "/"):
            if not any(name == a or (a.endswith("/") and name.startswith(a)) for a in SHOP_LAW[room]):
                allowed = ", ".join(SHOP_LAW[room]) or "its own"
                out.add(path, line, f'layers: examples/shop/{room} may not include "{name}" (only {allowed})')


def check_layers(path, text, out):
    parts = path.parts
    if parts[:2] == SHOP:
        check_shop(path, text, out)
        return
    if parts[0] != "src":
        return
    room = parts[1] if len(parts) > 2 else None
    if room is not None and room not in LAW:
        out.add(path, 1, f"layers: src/{room} is no room of the house (tools/lint.py has the list)")
        return
    for m in re.finditer(r'^[ \t]*#[ \t]*include[ \t]*"([^"\n]+)"', text, re.M):
        name, line = m.group(1), text.count("\n", 0, m.start()) + 1
        where = pathlib.Path("src") / name
        if not (ROOT / where).is_file() and not (ROOT / "include" / name).is_file():
            out.add(path, line, f'layers: "{name}" is not below src/ or include/ (includes are written from there)')
            continue
        if name.endswith("_priv.h") and where.parent != path.parent:
            out.add(path, line, f'layers: "{name}" is private to {where.parent}')
            continue
        if room is None:
            continue
        if room == "backends" and name.startswith("backends/"):
            # One backend does not know another; what they share lies in src/backends itself.
            if where.parent in (path.parent, pathlib.Path("src/backends")):
                continue
            out.add(path, line, f'layers: {path.parent} may not include "{name}" of another backend')
            continue
        if name.startswith(room + "/"):
            continue
        allowed = LAW[room]
        if not any(name == a or (a.endswith("/") and name.startswith(a)) for a in allowed):
            out.add(path, line, f'layers: src/{room} may not include "{name}" (only {", ".join(allowed) or "its own"})')


def check_c(path, text, out):
    code = bare_code(text)
    lines = text.count("\n")
    if lines > MAX_FILE_LINES:
        out.add(path, lines, f"limits: {lines} lines; the limit for a file is {MAX_FILE_LINES}")
    for name, first, last, complexity in functions(without_directives(code)):
        if name is None:
            out.add(path, 1, "limits: braces do not balance (an #if that opens one brace twice?): write it another way")
            continue
        if last - first + 1 > MAX_FUNCTION_LINES:
            out.add(path, first, f"limits: {name} has {last - first + 1} lines; the limit is {MAX_FUNCTION_LINES}")
        if complexity > MAX_COMPLEXITY:
            out.add(path, first, f"limits: {name} has complexity {complexity}; the limit is {MAX_COMPLEXITY}")
    for m in re.finditer(r"\b(" + "|".join(BANNED) + r")\s*\(", code):
        out.add(path, code.count("\n", 0, m.start()) + 1, f"banned: {m.group(1)}(); use {BANNED[m.group(1)]}")
    if path.parts[0] in ("src", "include"):
        rest = text.split("\n", 1)[1].lstrip() if "\n" in text else ""
        if not rest.startswith("/*"):
            out.add(path, 2, "header: no comment after the SPDX line that says what the file is for")


def check_text(path, text, out):
    for number, line in enumerate(text.split("\n"), 1):
        for pattern, what in WORDS:
            m = re.search(pattern, line)
            if m:
                out.add(path, number, f"words: {m.group(0)} ({what})")
    if path.suffix in (".c", ".h", ".py", ".sh"):
        for number, line in enumerate(text.split("\n"), 1):
            if len(line) > MAX_COLUMNS and path.parts[0] != "examples":
                out.add(path, number, f"limits: {len(line)} columns; the limit is {MAX_COLUMNS}")
            if line.rstrip() != line:
                out.add(path, number, "format: spaces at the end of the line")
        head = "\n".join(text.split("\n")[: 1 if path.suffix in (".c", ".h") else 3])
        if text and "SPDX-License-Identifier: Apache-2.0" not in head:
            out.add(path, 1, "header: the first line is not the SPDX line (Apache-2.0)")
    if path.suffix == ".py" and path.parts[0] == "tests" and re.search(r"^\s*(?:async )?def test_", text, re.M):
        if not re.match(r"test_.*|.*_test\.py$", path.name):
            out.add(path, 1, "names: has tests, but pytest collects only test_*.py and *_test.py")


def check_format(files, out):
    program = os.environ.get("CLANG_FORMAT", str(ROOT / ".deps/venv/bin/clang-format"))
    if not shutil.which(program):
        sys.exit(f"lint: {program} is missing (tools/setup.sh lint installs it)")
    for i in range(0, len(files), 50):
        run = subprocess.run(
            [program, "--dry-run", "--style=file", *map(str, files[i : i + 50])],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        told = set()
        for m in re.finditer(r"^(.+?):(\d+):\d+: (?:warning|error): ", run.stderr, re.M):
            # One line a file: clang-format -i mends them all at once.
            if m.group(1) not in told:
                told.add(m.group(1))
                out.add(m.group(1), int(m.group(2)), "format: clang-format would change it (`make format` does)")
        if run.returncode != 0 and not told:
            sys.exit(f"lint: {program} failed:\n{run.stderr}")


def project_files():
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    if shutil.which("git") and (ROOT / ".git").exists():
        listing = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        if listing.returncode == 0:
            return sorted({pathlib.Path(f) for f in listing.stdout.decode().split("\0") if f})
    # A source archive has no git; what is built lies in folders with these names.
    skip = {"build", ".deps", "weir-data", "__pycache__", ".git"}
    found = (p.relative_to(ROOT) for p in ROOT.rglob("*") if p.is_file())
    return sorted(p for p in found if not skip.intersection(p.parts))


def main(args):
    out = Findings()
    files = [pathlib.Path(os.path.relpath(pathlib.Path(a).resolve(), ROOT)) for a in args] or project_files()
    c_files = []
    for path in files:
        full = ROOT / path
        if not full.is_file() or full.is_symlink():
            continue
        data = full.read_bytes()
        if b"\0" in data[:8192] or path.name == "LICENSE":
            continue
        text = data.decode("utf-8", "replace")
        check_text(path, text, out)
        if path.suffix in (".c", ".h") and path.parts[0] in CODE_DIRS:
            c_files.append(path)
            check_c(path, text, out)
            check_layers(path, text, out)
    if c_files:
        check_format(c_files, out)
    for path, line, text in sorted(out.lines):
        print(f"{path}:{line}: {text}")
    if out.lines:
        print(f"lint: {len(out.lines)} findings", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

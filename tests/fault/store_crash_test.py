# SPDX-License-Identifier: Apache-2.0
"""Kills the store at every write, sync, rename and link of every kind of change, and lets each of them fail.

strace injects the signal or the error at the N-th call of one kind, for each kind, N = 1, 2, 3 … until the program
gets through. It counts each kind of call by itself and each thread by itself; the store does all of its disk work on
one thread, so no call is left out. After each run the
store is opened again: it must be in the state before or after the change, "after" if it said so, with its history
complete, every artifact whole, and nothing left over. The product holds no code for this.
"""

import json
import os
import pathlib
import re
import shutil
import sqlite3
import subprocess

import pytest

BUILD = pathlib.Path(os.environ.get("WEIR_BUILD", "build"))
PROGRAM = (BUILD / "tests/programs/store_crash").resolve()
SCHEMAS = pathlib.Path(__file__).resolve().parents[2] / "src/store/migrations"
# A question mark: not every architecture has it.
CALLS = [
    "?write", "?pwrite64", "?fsync", "?fdatasync", "?ftruncate", "?fchmod",
    "?rename", "?renameat", "?renameat2", "?linkat", "?unlink", "?unlinkat", "?mkdir", "?mkdirat",
]
OPENS = ["?openat", "?openat2"]
# Leaks can not be looked for under ptrace.
ENV = dict(os.environ, ASAN_OPTIONS=os.environ.get("ASAN_OPTIONS", "") + ":detect_leaks=0")


def strace_works():
    if not shutil.which("strace"):
        return False
    probe = ["strace", "-qq", "-f", "-o", os.devnull, "-e", "trace=write", "-e", "inject=fsync:error=EIO", "true"]
    return subprocess.run(probe, stderr=subprocess.DEVNULL).returncode == 0


pytestmark = pytest.mark.skipif(not strace_works(), reason="strace is missing or may not trace here")


def run(folder, operation, *injections, log=os.devnull, extra=()):
    command = [str(PROGRAM), str(folder), operation]
    if injections:
        calls = sorted({c for i in injections for c in i.split(":")[0].split(",")})
        command = ["strace", "-qq", "-f", "-o", str(log), *extra, "-e", "trace=" + ",".join(calls)] + [
            word for i in injections for word in ("-e", "inject=" + i)] + command
    return subprocess.run(command, env=ENV, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120)


def state(folder):
    """What the store says after it was opened again; and that there is nothing it does not say."""
    done = run(folder, "state")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [row[0] for row in found["history"]] == list(range(1, len(found["history"]) + 1)), "history has a hole"
    assert sorted(os.listdir(folder)) == ["artifacts", "weir.db", "weir.db.lock"], "SQLite's log is left"
    with_db = sqlite3.connect(f"file:{folder}/weir.db?immutable=1", uri=True)
    try:
        assert with_db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert with_db.execute("PRAGMA foreign_key_check").fetchall() == []
    finally:
        with_db.close()
    artifacts = pathlib.Path(folder) / "artifacts"
    assert list((artifacts / "tmp").iterdir()) == []
    trees = {tree.name for tree in (artifacts / "trees").iterdir()}
    assert trees == {digest for _, _, digest in found["versions"]}
    named = set()
    for tree in (artifacts / "trees").iterdir():
        named |= {f["sha256"] for f in json.loads((tree / "manifest.json").read_text())["files"]}
    blobs = {blob.name for blob in (artifacts / "blobs").glob("*/*")}
    assert blobs <= named, "a blob that no tree names"
    assert sorted(os.listdir(artifacts)) == ["blobs", "store-id", "tmp", "trees"]
    return found


BASES = {"first": [], "push": ["first"], "promote": ["first", "push"], "rollback": ["first", "push"],
         "refuse": ["first"], "again": ["first"], "progress": ["first", "push"], "hold": ["first", "push"],
         "lift": ["first", "push", "hold"]}
EMPTY = {"models": [], "versions": [], "rollouts": [], "holds": [], "history": []}


@pytest.fixture
def change(request, tmp_path):
    """(operation, a function that makes a fresh copy of the store before it, the state before, the state after)"""
    operation = request.param
    base = tmp_path / "base"
    base.mkdir()
    for before in BASES[operation]:
        done = run(base, before)
        assert done.returncode == 0 and done.stdout == "ack\n", done.stderr

    def fresh():
        return copy_of(base, tmp_path / "copy")

    before = state(fresh()) if BASES[operation] else EMPTY
    folder = fresh()
    done = run(folder, operation)
    assert done.returncode == 0 and done.stdout == "ack\n", done.stderr
    after = state(folder)
    assert before != after
    return operation, fresh, before, after


def judge(folder, acknowledged, before, after, where):
    found = state(folder)
    assert found in (before, after), where
    assert found == after or not acknowledged, f"{where}: acknowledged and lost"
    return found == after


def copy_of(base, to):
    shutil.rmtree(to, ignore_errors=True)
    subprocess.run(["cp", "-a", str(base), str(to)], check=True)
    return to


@pytest.mark.parametrize("change", list(BASES), indirect=True)
def test_killed_at_every_call(change):
    operation, fresh, before, after = change
    kept = lost = 0
    for call in CALLS:
        for n in range(1, 1000):
            folder = fresh()
            done = run(folder, operation, f"{call}:signal=KILL:when={n}")
            if done.returncode == 0:
                assert done.stdout == "ack\n"
                break
            assert done.returncode == -9, done.stderr
            if judge(folder, "ack" in done.stdout, before, after, f"{operation} killed at {call} {n}"):
                kept += 1
            else:
                lost += 1
    # Both must have come up, or the injection did not reach what it is for.
    assert kept > 3 and lost > 3
    print(f"{operation}: {kept + lost} crash points, {lost} before, {kept} after")


def test_killed_again_while_it_cleans_up(tmp_path):
    """A crash during the start after a crash."""
    base, left, copy = tmp_path / "base", tmp_path / "left", tmp_path / "copy"
    base.mkdir()
    assert run(base, "first").returncode == 0
    before = state(base)
    # What is left: all but the rename that shows the new folder; or the tree, and no version that names it.
    for death in ("?renameat2:signal=KILL:when=1", "?pwrite64:signal=KILL:when=2"):
        points = 0
        assert run(copy_of(base, left), "push", death).returncode == -9
        for call in CALLS:
            for n in range(1, 100):
                done = run(copy_of(left, copy), "state", f"{call}:signal=KILL:when={n}")
                if done.returncode == 0:
                    break
                points += 1
                assert state(copy) == before
        assert points > 5


def test_killed_while_it_migrates(tmp_path):
    """A database of schema 2 is brought on by the first start that gets through."""
    base, copy = tmp_path / "base", tmp_path / "copy"
    base.mkdir()
    assert run(base, "first").returncode == 0
    assert run(base, "push").returncode == 0
    digests = {number: digest for _, number, digest in state(base)["versions"]}
    (base / "weir.db").rename(base / "new.db")
    db = sqlite3.connect(base / "weir.db")
    for migration in ("0001_init.sql", "0002_costs.sql"):
        db.executescript((SCHEMAS / migration).read_text())
    db.execute("ATTACH ? AS new", (str(base / "new.db"),))
    db.execute("UPDATE meta SET value = (SELECT value FROM new.meta WHERE key = 'id') WHERE key = 'id'")
    db.execute("PRAGMA user_version = 2")
    db.execute("INSERT INTO model VALUES ('intent', 'default', 1, NULL, 1)")
    db.executemany("INSERT INTO version VALUES ('intent', ?, ?, 'onnx', 200000, 1)", digests.items())
    db.executemany("INSERT INTO rollout VALUES (?, 'intent', 1, 2, 500, ?, 1, 0, '', '[1]')",
                   [("r9", "replaced"), ("r1", "running")])
    db.executemany("INSERT INTO history VALUES (?, 1, 'intent', ?, 'pushed', 'test', 'a sentence')", [(1, 1), (2, 2)])
    db.commit()
    db.close()
    (base / "new.db").unlink()
    after = state(copy_of(base, copy))
    assert after["rollouts"] == [["r1", "running", None, None]] and len(after["history"]) == 2
    points = old = 0
    for call in CALLS:
        for n in range(1, 100):
            done = run(copy_of(base, copy), "state", f"{call}:signal=KILL:when={n}")
            if done.returncode == 0:
                break
            points += 1
            db = sqlite3.connect(copy / "weir.db")
            version, = db.execute("PRAGMA user_version").fetchone()
            kept = db.execute("SELECT rowid, id, evidence FROM rollout ORDER BY rowid").fetchall()
            db.close()
            assert version >= 2 and kept == [(1, "r9", "[1]"), (2, "r1", "[1]")]
            old += version == 2
            assert state(copy) == after
    assert 3 < old < points


@pytest.mark.parametrize("error", ["ENOSPC", "EIO", "EMFILE", "EINTR"])
@pytest.mark.parametrize("change", ["push", "rollback", "progress"], indirect=True)
def test_every_call_may_fail(change, error):
    operation, fresh, before, after = change
    points = 0
    for call in CALLS + OPENS if error in ("EIO", "EMFILE") else CALLS:
        for n in range(1, 1000):
            folder = fresh()
            log = folder.parent / "log"
            done = run(folder, operation, f"{call}:error={error}:when={n}", log=log)
            if "INJECTED" not in log.read_text():
                break
            points += 1
            where = f"{operation} with {error} at {call} {n}"
            if done.returncode == 127:  # the program's own start: the dynamic linker opens libraries
                continue
            assert done.returncode in (0, 1), f"{where}: {done.stderr}"
            assert done.returncode == 0 or done.stderr.strip(), f"{where}: no word of it"
            judge(folder, "ack" in done.stdout, before, after, where)
    assert points > 10


def test_a_failed_sync_stops_all_writing(tmp_path):
    folder = tmp_path / "s"
    folder.mkdir()
    assert run(folder, "first").returncode == 0
    done = run(folder, "push", "?fdatasync,?fsync:error=EIO:when=3+")
    assert done.returncode == 1
    assert "read-only until the server is restarted" in done.stderr
    assert run(folder, "push").returncode == 0


def test_a_failed_commit_is_not_tried_over(tmp_path):
    """The kernel says "all is well" at the next sync, of pages it has lost: nothing may be acknowledged any more."""
    base, copy = tmp_path / "base", tmp_path / "copy"
    base.mkdir()
    assert run(base, "first").returncode == 0
    refused = 0
    for n in range(1, 100):
        log = tmp_path / "log"
        done = run(copy_of(base, copy), "twice", f"?fdatasync:error=EIO:when={n}", log=log)
        if "INJECTED" not in log.read_text():
            break
        if "can not store the change" in done.stderr:
            refused += 1
            words = [line for line in done.stderr.splitlines() if line.startswith("storage")]
            assert len(words) == 2 - done.stdout.count("ack")
            assert all("read-only until the server is restarted" in line for line in words)
    assert refused >= 2


def test_a_full_disk_is_named_and_forgotten(tmp_path):
    folder = tmp_path / "s"
    folder.mkdir()
    assert run(folder, "first").returncode == 0
    before = state(folder)
    done = run(folder, "push", "?write:error=ENOSPC:when=3+")
    assert done.returncode == 1
    assert "disk full: free space under" in done.stderr and "push again" in done.stderr
    assert state(folder) == before
    done = run(folder, "rollback", "?pwrite64:error=ENOSPC")
    assert done.returncode == 1 and "disk full" in done.stderr
    assert state(folder) == before
    assert run(folder, "push").returncode == 0


LACKS = ["?openat2:error=ENOSYS", "?openat2:error=EPERM", "?linkat:error=EPERM", "?linkat:error=EMLINK",
         "?linkat:error=EXDEV", "?renameat2:error=EINVAL", "?sync_file_range:error=ENOSYS"]


@pytest.mark.parametrize("lacks", LACKS)
def test_file_systems_and_kernels_that_lack_something(tmp_path, lacks):
    """Each fallback gives the same store in the end."""
    plain, other = tmp_path / "plain", tmp_path / "other"
    for folder, injections in ((plain, ()), (other, (lacks,))):
        folder.mkdir()
        for operation in ("first", "push", "again", "refuse", "rollback"):
            done = run(folder, operation, *injections)
            assert done.returncode == 0 and done.stdout == "ack\n", done.stderr
    assert state(plain) == state(other)


def test_nothing_is_shown_before_it_is_durable(tmp_path):
    """A kill leaves the kernel's cache, a power cut does not: so the order of syncs is read from a trace."""
    folder = tmp_path / "s"
    folder.mkdir()
    assert run(folder, "first").returncode == 0
    log = tmp_path / "log"
    done = run(folder, "push", ",".join(CALLS) + ",writev:when=60000:error=EIO", log=log, extra=("-y",))
    assert done.returncode == 0
    art = f"{folder.resolve()}/artifacts"
    lines = log.read_text().splitlines()
    calls = [m.groups() for m in (re.match(r"\d+ +(\w+)\((.*)\) = \d", line) for line in lines) if m]
    dirty, synced_after_rename, shown = set(), False, False
    links = 0
    wal_dirty = False
    acknowledged = False
    for name, args in calls:
        paths = re.findall(r"<([^<>]*)>", args)
        where = paths[0] if paths else ""
        if name == "write" and where.startswith(art):
            dirty.add(where)
        elif name in ("fsync", "fdatasync"):
            dirty.discard(where)
            wal_dirty = wal_dirty and not where.endswith("weir.db-wal")
            synced_after_rename = synced_after_rename or (shown and where == art + "/trees")
        elif name == "linkat" and "/proc/self/fd/" in args:
            links += 1
            assert not [d for d in dirty if "#" in d or "deleted" in d], f"linked before it was synced: {args}"
            dirty.add(paths[-1])
        elif name == "linkat":
            dirty.add(paths[-1])
        elif name == "mkdirat" and where.startswith(art):
            dirty.add(where)
        elif name == "renameat2" and paths[-1] == art + "/trees":
            dirty.discard(art + "/tmp")  # what happens to the temporary folder itself does not matter
            assert not dirty, f"shown before it was synced: {dirty}"
            shown = True
        elif name == "pwrite64" and where.endswith("weir.db-wal"):
            assert not shown or synced_after_rename, "registered before the tree's name was synced"
            wal_dirty = True
        elif name == "writev" and '"ack' in args:
            assert not wal_dirty and synced_after_rename, "acknowledged before it was synced"
            acknowledged = True
    assert shown and acknowledged and links >= 2

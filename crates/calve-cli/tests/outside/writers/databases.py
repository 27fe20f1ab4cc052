"""Writes to a database until its standard input ends, or at each line of it, or checks what a snapshot has of one.

    databases.py write|step|check lmdb|lmdb-async|sqlite-wal|sqlite-delete|sqlite-truncate|sqlite-persist FOLDER

Transaction N writes N into the keys of block N mod 25, and N itself beside them. So all of the content follows from N,
and what is not of one transaction shows. `check` prints N; it ends with 1 where anything else is there.
Exits with 77 where there is no such database here.
"""

import os
import random
import sys
import threading

BLOCKS, KEYS = 25, 20
PAD = "x" * 400


def wanted(block, last):
    """The last transaction up to `last` that wrote to this block; 0 where none did."""
    return max(last - (last - block) % BLOCKS, 0)


def names(block):
    return [f"key-{block * KEYS + at:04}" for at in range(KEYS)]


class Lmdb:
    def __init__(self, folder, writes, asynchronous):
        import lmdb

        options = dict(writemap=True, map_async=asynchronous, sync=not asynchronous) if writes else dict(readonly=True, lock=False)
        self.env = lmdb.open(os.path.join(folder, "db"), map_size=1 << 24, **options)

    def write(self, number, block):
        with self.env.begin(write=True) as transaction:
            for name in names(block):
                transaction.put(name.encode(), f"{number} {PAD}".encode())
            transaction.put(b"last", str(number).encode())

    def content(self):
        with self.env.begin() as transaction:
            content = {key.decode(): value.decode().split()[0] for key, value in transaction.cursor()}
            assert transaction.stat()["entries"] == len(content)
            return content


class Sqlite:
    def __init__(self, folder, writes, mode):
        import sqlite3

        self.db = sqlite3.connect(os.path.join(folder, "db"), isolation_level=None)
        self.mode = mode
        if writes:
            assert self.db.execute(f"PRAGMA journal_mode={mode}").fetchone() == (mode,)
            if mode == "wal":
                self.db.execute("PRAGMA synchronous=NORMAL")
            self.db.execute("CREATE TABLE t (k TEXT PRIMARY KEY, n INTEGER, pad TEXT)")

    def put(self, number, block):
        rows = [(name, number, PAD) for name in names(block)] + [("last", number, "")]
        self.db.execute("BEGIN IMMEDIATE")
        self.db.executemany("INSERT OR REPLACE INTO t VALUES (?, ?, ?)", rows)

    def write(self, number, block):
        self.put(number, block)
        self.db.execute("COMMIT")

    def step(self, number, block):
        """Does in a moment what tears a copy whose files are of before and of after it."""
        if self.mode == "wal":
            self.db.execute("PRAGMA wal_checkpoint(RESTART)").fetchall()
            self.write(number, block)
        else:
            # Transactions stay open, with most of their pages in the file already.
            if self.db.in_transaction:
                self.db.execute("COMMIT")
            self.db.execute("PRAGMA cache_size=1")
            self.put(number, block)

    def content(self):
        found = self.db.execute("PRAGMA integrity_check").fetchall()
        assert found == [("ok",)], found
        return {key: str(number) for key, number in self.db.execute("SELECT k, n FROM t")}


def main(verb, kind, folder):
    kind, _, mode = kind.partition("-")
    try:
        database = Sqlite(folder, verb != "check", mode) if kind == "sqlite" else Lmdb(folder, verb != "check", mode == "async")
    except ImportError as error:
        print(error, file=sys.stderr)
        return 77
    if verb != "check":
        for number in range(1, BLOCKS + 1):
            database.write(number, number % BLOCKS)
        print("ok", flush=True)
    if verb == "step":
        for number, _ in enumerate(sys.stdin, number + 1):
            database.step(number, number % BLOCKS)
            print("ok", flush=True)
        return 0
    if verb == "write":
        # A database with a rollback journal changes in each transaction, and has to rest at times.
        pause = (lambda: random.choice([0.001, 0.1])) if kind == "sqlite" and mode != "wal" else (lambda: 0.001)
        ends = threading.Event()
        threading.Thread(target=lambda: (sys.stdin.read(), ends.set()), daemon=True).start()
        while not ends.wait(pause()):
            number += 1
            database.write(number, number % BLOCKS)
        print(number)
        return 0
    content = database.content()
    last = int(content.pop("last"))
    assert len(content) == BLOCKS * KEYS, f"{len(content)} keys"
    for block in range(BLOCKS):
        for name in names(block):
            found = int(content[name])
            assert found == wanted(block, last), f"{name} is of {found}, and the last is {last}"
    print(last)
    return 0


sys.exit(main(*sys.argv[1:]))

-- SPDX-License-Identifier: Apache-2.0
-- The first shape of the store: models, their versions, rollouts, and history that only grows.
--
-- References are checked at the commit, so that the rows of one change may come in any order. "No version" is NULL here and 0 in
-- the structs. Times are milliseconds since 1970, UTC.

PRAGMA application_id = 1466263922; -- "Weir"

CREATE TABLE meta (
    key   TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- Written into the artifacts' folder too, so that a store never cleans up the folder of another one.
INSERT INTO meta (key, value) VALUES ('id', lower(hex(randomblob(16))));

CREATE TABLE model (
    name       TEXT PRIMARY KEY CHECK (length(name) BETWEEN 1 AND 128),
    family     TEXT NOT NULL CHECK (length(family) <= 128),
    stable     INTEGER,
    previous   INTEGER,
    created_ms INTEGER NOT NULL,
    FOREIGN KEY (name, stable) REFERENCES version (model, number) DEFERRABLE INITIALLY DEFERRED,
    FOREIGN KEY (name, previous) REFERENCES version (model, number) DEFERRABLE INITIALLY DEFERRED
) STRICT, WITHOUT ROWID;

CREATE TABLE version (
    model      TEXT NOT NULL REFERENCES model (name) DEFERRABLE INITIALLY DEFERRED,
    number     INTEGER NOT NULL CHECK (number >= 1),
    digest     TEXT NOT NULL CHECK (length(digest) = 64),
    backend    TEXT NOT NULL,
    bytes      INTEGER NOT NULL CHECK (bytes >= 0),
    created_ms INTEGER NOT NULL,
    PRIMARY KEY (model, number),
    UNIQUE (model, digest)
) STRICT, WITHOUT ROWID;

CREATE INDEX version_digest ON version (digest);

-- The rowid tells which rollout of a model came last.
CREATE TABLE rollout (
    id         TEXT PRIMARY KEY CHECK (length(id) BETWEEN 1 AND 39),
    model      TEXT NOT NULL REFERENCES model (name) DEFERRABLE INITIALLY DEFERRED,
    stable     INTEGER,
    canary     INTEGER,
    share_bp   INTEGER NOT NULL CHECK (share_bp BETWEEN 0 AND 10000),
    state      TEXT NOT NULL CHECK (state IN ('running', 'promoted', 'rolled_back', 'aborted', 'replaced')),
    started_ms INTEGER NOT NULL,
    ended_ms   INTEGER NOT NULL,
    reason     TEXT NOT NULL,
    evidence   TEXT,
    FOREIGN KEY (model, stable) REFERENCES version (model, number) DEFERRABLE INITIALLY DEFERRED,
    FOREIGN KEY (model, canary) REFERENCES version (model, number) DEFERRABLE INITIALLY DEFERRED
) STRICT;

CREATE INDEX rollout_model ON rollout (model);
CREATE UNIQUE INDEX rollout_running ON rollout (model) WHERE state = 'running';

CREATE TABLE history (
    seq     INTEGER PRIMARY KEY,
    at_ms   INTEGER NOT NULL,
    model   TEXT NOT NULL,
    version INTEGER NOT NULL,
    kind    TEXT NOT NULL,
    actor   TEXT NOT NULL,
    text    TEXT NOT NULL
) STRICT;

CREATE INDEX history_model ON history (model, seq);

CREATE TRIGGER history_no_update BEFORE UPDATE ON history
BEGIN
    SELECT RAISE (ABORT, 'history is append-only');
END;

CREATE TRIGGER history_no_delete BEFORE DELETE ON history
BEGIN
    SELECT RAISE (ABORT, 'history is append-only');
END;

-- REPLACE deletes without the trigger above.
CREATE TRIGGER history_no_replace BEFORE INSERT ON history WHEN EXISTS (SELECT 1 FROM history WHERE seq = NEW.seq)
BEGIN
    SELECT RAISE (ABORT, 'history is append-only');
END;

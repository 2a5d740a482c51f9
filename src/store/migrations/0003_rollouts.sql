-- SPDX-License-Identifier: Apache-2.0
-- Rollouts that decide by themselves: by which policy, where they are, what was counted; one that is promoted may still be watched
-- ("soaking"). History says who serves from then on, and on which evidence. Artifacts that did harm are on hold.
--
-- A CHECK can not be altered, so the table is made anew. The rows keep their rowids: those tell which rollout came last.

CREATE TABLE rollout_new (
    id         TEXT PRIMARY KEY CHECK (length(id) BETWEEN 1 AND 39),
    model      TEXT NOT NULL REFERENCES model (name) DEFERRABLE INITIALLY DEFERRED,
    stable     INTEGER,
    canary     INTEGER,
    share_bp   INTEGER NOT NULL CHECK (share_bp BETWEEN 0 AND 10000),
    state      TEXT NOT NULL CHECK (state IN ('running', 'promoted', 'rolled_back', 'aborted', 'replaced', 'soaking')),
    started_ms INTEGER NOT NULL,
    ended_ms   INTEGER NOT NULL,
    reason     TEXT NOT NULL,
    evidence   TEXT,
    policy     TEXT,
    progress   TEXT,
    counts     TEXT,
    FOREIGN KEY (model, stable) REFERENCES version (model, number) DEFERRABLE INITIALLY DEFERRED,
    FOREIGN KEY (model, canary) REFERENCES version (model, number) DEFERRABLE INITIALLY DEFERRED
) STRICT;

INSERT INTO rollout_new (rowid, id, model, stable, canary, share_bp, state, started_ms, ended_ms, reason, evidence)
SELECT rowid, id, model, stable, canary, share_bp, state, started_ms, ended_ms, reason, evidence FROM rollout;

DROP TABLE rollout;
ALTER TABLE rollout_new RENAME TO rollout;

CREATE INDEX rollout_model ON rollout (model);
CREATE UNIQUE INDEX rollout_going_on ON rollout (model) WHERE state IN ('running', 'soaking');

-- NULL: as before.
ALTER TABLE history ADD COLUMN serving TEXT;
ALTER TABLE history ADD COLUMN evidence TEXT;

CREATE INDEX history_serving ON history (model, seq) WHERE serving IS NOT NULL;

-- By the artifact's digest, and without a reference to a version: what did harm does it again under another number.
CREATE TABLE hold (
    model    TEXT NOT NULL REFERENCES model (name) DEFERRABLE INITIALLY DEFERRED,
    digest   TEXT NOT NULL CHECK (length(digest) = 64),
    since_ms INTEGER NOT NULL,
    reason   TEXT NOT NULL,
    PRIMARY KEY (model, digest)
) STRICT, WITHOUT ROWID;

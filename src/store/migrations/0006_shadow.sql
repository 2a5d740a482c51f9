-- SPDX-License-Identifier: Apache-2.0
-- Versions that answer beside the stable one, unseen: at most one a model, and only while it does. What was compared is not kept.

CREATE TABLE shadow (
    model      TEXT PRIMARY KEY REFERENCES model (name) DEFERRABLE INITIALLY DEFERRED,
    id         TEXT NOT NULL CHECK (length(id) BETWEEN 1 AND 39),
    version    INTEGER NOT NULL,
    share_bp   INTEGER NOT NULL CHECK (share_bp BETWEEN 1 AND 10000),
    started_ms INTEGER NOT NULL,
    FOREIGN KEY (model, version) REFERENCES version (model, number) DEFERRABLE INITIALLY DEFERRED
) STRICT, WITHOUT ROWID;

-- SPDX-License-Identifier: Apache-2.0
-- Sealed segments of the payload log: files that do not change any more. A model is named without a reference: what was captured is
-- kept by its age and size, whatever becomes of the model.

CREATE TABLE capture_segment (
    model    TEXT NOT NULL CHECK (length(model) BETWEEN 1 AND 128),
    file     TEXT NOT NULL CHECK (length(file) BETWEEN 1 AND 39),
    first_ms INTEGER NOT NULL,
    last_ms  INTEGER NOT NULL,
    records  INTEGER NOT NULL CHECK (records >= 1),
    bytes    INTEGER NOT NULL CHECK (bytes >= 1),
    sha256   TEXT NOT NULL CHECK (length(sha256) = 64),
    PRIMARY KEY (model, file)
) STRICT, WITHOUT ROWID;

-- A file's name says when it was begun.
CREATE INDEX capture_segment_file ON capture_segment (file, model);

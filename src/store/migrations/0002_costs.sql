-- SPDX-License-Identifier: Apache-2.0
-- What one instance of an artifact took on a device when it was measured: the most that was seen. The artifact may have gone since.

CREATE TABLE cost (
    digest      TEXT NOT NULL CHECK (length(digest) = 64),
    device      TEXT NOT NULL CHECK (length(device) BETWEEN 1 AND 15),
    bytes       INTEGER NOT NULL CHECK (bytes >= 0),
    measured_ms INTEGER NOT NULL,
    PRIMARY KEY (digest, device)
) STRICT, WITHOUT ROWID;

-- SPDX-License-Identifier: Apache-2.0
-- Families that were switched to another place while the server ran. `configured` is what the configuration said then (NULL: it did
-- not name the family): as long as it says the same, the switch rules.

CREATE TABLE place (
    family     TEXT PRIMARY KEY CHECK (length(family) BETWEEN 1 AND 128),
    place      TEXT NOT NULL CHECK (length(place) BETWEEN 1 AND 299),
    token_file TEXT CHECK (length(token_file) BETWEEN 1 AND 999), -- of the server there, if it wants one
    configured TEXT CHECK (length(configured) BETWEEN 1 AND 299),
    at_ms      INTEGER NOT NULL,
    actor      TEXT NOT NULL
) STRICT, WITHOUT ROWID;

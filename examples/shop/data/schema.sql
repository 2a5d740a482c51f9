-- SPDX-License-Identifier: Apache-2.0
-- The shop's tables. The catalogue is put in when `products` is new.
CREATE TABLE IF NOT EXISTS products (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    kind TEXT NOT NULL,
    colour TEXT NOT NULL,
    about TEXT NOT NULL,
    words TEXT NOT NULL,
    cents INTEGER NOT NULL,
    sold INTEGER NOT NULL
) STRICT;

CREATE TABLE IF NOT EXISTS users (
    user TEXT PRIMARY KEY,
    since INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE IF NOT EXISTS views (
    id INTEGER PRIMARY KEY,
    user TEXT NOT NULL,
    product INTEGER NOT NULL,
    at INTEGER NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS views_by_user ON views (user, id);

CREATE TABLE IF NOT EXISTS orders (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    user TEXT NOT NULL,
    product INTEGER NOT NULL,
    cents INTEGER NOT NULL,
    shipping_cents INTEGER NOT NULL,
    placed_at INTEGER NOT NULL,
    end INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX IF NOT EXISTS orders_by_user ON orders (user, id);

CREATE TABLE IF NOT EXISTS thumbs (
    user TEXT NOT NULL,
    model TEXT NOT NULL,
    request_id TEXT NOT NULL,
    up INTEGER NOT NULL,
    at INTEGER NOT NULL,
    PRIMARY KEY (user, model, request_id)
) STRICT, WITHOUT ROWID;

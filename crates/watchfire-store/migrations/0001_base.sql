-- Times are microseconds since the Unix epoch. Lists and maps are JSON texts.

CREATE TABLE alerts (
    id TEXT NOT NULL PRIMARY KEY,
    sequence BIGINT NOT NULL,
    rule TEXT NOT NULL,
    device TEXT NOT NULL,
    key TEXT NOT NULL,
    severity TEXT NOT NULL,
    summary TEXT NOT NULL,
    details TEXT NOT NULL,
    labels TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('active', 'resolved')),
    raised_at BIGINT NOT NULL,
    severity_since BIGINT NOT NULL,
    cleared_at BIGINT,
    resolved_at BIGINT,
    resolve_reason TEXT,
    last_seen BIGINT NOT NULL,
    count BIGINT NOT NULL,
    acknowledged_at BIGINT,
    acknowledged_by TEXT,
    acknowledge_comment TEXT,
    partition BIGINT NOT NULL,
    position TEXT NOT NULL,
    rule_version BIGINT NOT NULL,
    module TEXT
);
-- The invariant: at most one active alert per identity, whatever any code above does.
CREATE UNIQUE INDEX alerts_active ON alerts (rule, device, key) WHERE state = 'active';
CREATE UNIQUE INDEX alerts_sequence ON alerts (sequence);
CREATE INDEX alerts_standing ON alerts (sequence) WHERE state = 'active';
CREATE INDEX alerts_device ON alerts (device, sequence);

CREATE TABLE alert_evidence (
    alert TEXT NOT NULL PRIMARY KEY,
    evidence TEXT NOT NULL
);

-- What happened to alerts, by the condition machine and by people, in commit order.
CREATE TABLE transitions (
    sequence INTEGER NOT NULL PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    alert TEXT NOT NULL,
    kind TEXT NOT NULL,
    severity TEXT NOT NULL,
    from_severity TEXT,
    from_since BIGINT,
    reason TEXT,
    summary TEXT NOT NULL,
    details TEXT NOT NULL,
    at BIGINT NOT NULL,
    recorded_at BIGINT NOT NULL,
    position TEXT,
    rule_version BIGINT NOT NULL,
    actor TEXT,
    comment TEXT
);
CREATE INDEX transitions_alert ON transitions (alert, sequence);

-- Transitions that people may have to be told of, until they are routed.
CREATE TABLE outbox (
    sequence INTEGER NOT NULL PRIMARY KEY,
    transition BIGINT NOT NULL,
    routed_at BIGINT
);
CREATE INDEX outbox_unrouted ON outbox (sequence) WHERE routed_at IS NULL;

-- Notification groups with their timers; the body belongs to the crate that routes.
CREATE TABLE notify_groups (
    receiver TEXT NOT NULL,
    group_key TEXT NOT NULL,
    body TEXT NOT NULL,
    PRIMARY KEY (receiver, group_key)
);

-- The ledger of deliveries.
CREATE TABLE deliveries (
    sequence INTEGER NOT NULL PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    receiver TEXT NOT NULL,
    group_key TEXT NOT NULL,
    status TEXT NOT NULL,
    reason TEXT NOT NULL,
    payload TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('pending', 'delivered', 'superseded', 'expired', 'refused')),
    attempts BIGINT NOT NULL DEFAULT 0,
    next_try BIGINT NOT NULL,
    last_error TEXT,
    last_status BIGINT,
    created_at BIGINT NOT NULL,
    finished_at BIGINT
);
CREATE INDEX deliveries_group ON deliveries (receiver, group_key, sequence) WHERE state = 'pending';
CREATE INDEX deliveries_order ON deliveries (receiver, sequence) WHERE state = 'pending';
CREATE INDEX deliveries_due ON deliveries (receiver, next_try) WHERE state = 'pending';

CREATE TABLE delivery_alerts (
    alert TEXT NOT NULL,
    delivery BIGINT NOT NULL,
    PRIMARY KEY (alert, delivery)
);

CREATE TABLE delivery_attempts (
    delivery BIGINT NOT NULL,
    attempt BIGINT NOT NULL,
    at BIGINT NOT NULL,
    outcome TEXT NOT NULL,
    status BIGINT,
    error TEXT,
    took_us BIGINT NOT NULL,
    PRIMARY KEY (delivery, attempt)
);

CREATE TABLE dead_letters (
    sequence INTEGER NOT NULL PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    at BIGINT NOT NULL,
    kind TEXT NOT NULL,
    source TEXT NOT NULL,
    address TEXT NOT NULL,
    device TEXT,
    code TEXT NOT NULL,
    reason TEXT NOT NULL,
    payload BLOB NOT NULL,
    rule TEXT,
    rule_version BIGINT,
    position TEXT NOT NULL,
    callback TEXT,
    row_indexes TEXT,
    replayed_at BIGINT,
    replayed_by TEXT
);
CREATE INDEX dead_letters_device ON dead_letters (device, sequence);

-- One row: what the table of dead letters holds and what its bounds made it drop.
CREATE TABLE dead_letter_totals (
    id INTEGER NOT NULL PRIMARY KEY CHECK (id = 1),
    letters BIGINT NOT NULL,
    bytes BIGINT NOT NULL,
    dropped BIGINT NOT NULL
);
INSERT INTO dead_letter_totals (id, letters, bytes, dropped) VALUES (1, 0, 0, 0);

CREATE TABLE devices (
    id TEXT NOT NULL PRIMARY KEY,
    type TEXT NOT NULL,
    site TEXT NOT NULL,
    spec TEXT NOT NULL,
    partition BIGINT NOT NULL,
    handle BIGINT NOT NULL,
    deleted_at BIGINT,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);

CREATE TABLE credentials (
    id TEXT NOT NULL PRIMARY KEY,
    device TEXT NOT NULL,
    kind TEXT NOT NULL CHECK (kind IN ('password', 'token')),
    hash TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    last_used BIGINT
);
CREATE INDEX credentials_device ON credentials (device);

CREATE TABLE modules (
    digest TEXT NOT NULL PRIMARY KEY,
    name TEXT NOT NULL,
    version TEXT NOT NULL,
    language TEXT NOT NULL,
    size BIGINT NOT NULL,
    report TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    created_by TEXT NOT NULL
);

CREATE TABLE rules (
    name TEXT NOT NULL PRIMARY KEY,
    version BIGINT NOT NULL,
    state TEXT NOT NULL,
    module TEXT NOT NULL,
    updated_at BIGINT NOT NULL
);

CREATE TABLE rule_versions (
    name TEXT NOT NULL,
    version BIGINT NOT NULL,
    spec TEXT NOT NULL,
    state TEXT NOT NULL,
    actor TEXT NOT NULL,
    reason TEXT,
    request TEXT,
    created_at BIGINT NOT NULL,
    rolled_back_to BIGINT,
    refusal TEXT,
    positions TEXT NOT NULL,
    PRIMARY KEY (name, version)
);

CREATE TABLE tokens (
    id TEXT NOT NULL PRIMARY KEY,
    name TEXT NOT NULL,
    role TEXT NOT NULL,
    hash TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    created_by TEXT NOT NULL,
    expires_at BIGINT,
    last_used BIGINT,
    revoked_at BIGINT
);

CREATE TABLE audit (
    sequence INTEGER NOT NULL PRIMARY KEY,
    at BIGINT NOT NULL,
    actor TEXT NOT NULL,
    action TEXT NOT NULL,
    subject TEXT NOT NULL,
    request TEXT,
    outcome TEXT NOT NULL,
    detail TEXT
);

CREATE TABLE cursors (
    reader TEXT NOT NULL,
    partition BIGINT NOT NULL,
    next BIGINT NOT NULL,
    PRIMARY KEY (reader, partition)
);

CREATE TABLE settings (
    key TEXT NOT NULL PRIMARY KEY,
    value TEXT NOT NULL
);

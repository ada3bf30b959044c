-- What people do to an alert beside acknowledging it. All of it ends with the alert but confirmation and assignment.
-- An acknowledgement that counts until then; NULL: until the alert ends.
ALTER TABLE alerts ADD COLUMN acknowledged_until BIGINT;
ALTER TABLE alerts ADD COLUMN confirmed_at BIGINT;
ALTER TABLE alerts ADD COLUMN confirmed_by TEXT;
ALTER TABLE alerts ADD COLUMN confirm_comment TEXT;
ALTER TABLE alerts ADD COLUMN shelved_at BIGINT;
ALTER TABLE alerts ADD COLUMN shelved_by TEXT;
ALTER TABLE alerts ADD COLUMN shelve_reason TEXT;
ALTER TABLE alerts ADD COLUMN shelved_until BIGINT;
ALTER TABLE alerts ADD COLUMN shelve_one_shot BOOLEAN NOT NULL DEFAULT FALSE;
-- When people are told that shelving ends soon; NULL: they were, or need not be.
ALTER TABLE alerts ADD COLUMN shelve_notice_at BIGINT;
ALTER TABLE alerts ADD COLUMN suppressed_at BIGINT;
ALTER TABLE alerts ADD COLUMN suppressed_by TEXT;
ALTER TABLE alerts ADD COLUMN suppress_reason TEXT;
ALTER TABLE alerts ADD COLUMN suppressed_as TEXT;
ALTER TABLE alerts ADD COLUMN assigned_to TEXT;
ALTER TABLE alerts ADD COLUMN assigned_by TEXT;
ALTER TABLE alerts ADD COLUMN assigned_at BIGINT;

CREATE INDEX alerts_acknowledged_until ON alerts (acknowledged_until) WHERE acknowledged_until IS NOT NULL;
CREATE INDEX alerts_shelved_until ON alerts (shelved_until) WHERE shelved_until IS NOT NULL;
CREATE INDEX alerts_shelve_notice ON alerts (shelve_notice_at) WHERE shelve_notice_at IS NOT NULL;
CREATE INDEX alerts_shelved ON alerts (sequence) WHERE shelved_at IS NOT NULL;
CREATE INDEX alerts_suppressed ON alerts (sequence) WHERE suppressed_at IS NOT NULL;
CREATE INDEX alerts_assigned ON alerts (assigned_to, sequence) WHERE assigned_to IS NOT NULL;
-- Counts by severity, and those that stand for long, without reading the alerts themselves.
CREATE INDEX alerts_severity ON alerts (severity, raised_at) WHERE state = 'active';

-- Conditions that are shelved for a time, whatever becomes of the alert that somebody shelved: the next one of the
-- same condition is shelved from its beginning.
CREATE TABLE shelves (
    rule TEXT NOT NULL,
    device TEXT NOT NULL,
    key TEXT NOT NULL,
    -- Whose alerts: of rules of ours, or of others.
    source TEXT NOT NULL,
    -- The alert that was shelved.
    alert TEXT NOT NULL,
    shelved_at BIGINT NOT NULL,
    shelved_by TEXT NOT NULL,
    reason TEXT NOT NULL,
    until BIGINT NOT NULL,
    notice_at BIGINT,
    PRIMARY KEY (rule, device, key, source)
) WITHOUT ROWID;
CREATE INDEX shelves_until ON shelves (until);

-- Devices, rules, and rules on devices whose alerts nobody is told of. An empty text means any.
CREATE TABLE out_of_service (
    device TEXT NOT NULL,
    rule TEXT NOT NULL,
    kind TEXT NOT NULL CHECK (kind IN ('out_of_service', 'by_design')),
    reason TEXT NOT NULL,
    created_by TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    until BIGINT,
    -- Alerts that are active take the flag, or lose it, part by part: how far that got, as the sequence of the last
    -- of them that was looked at.
    phase TEXT NOT NULL CHECK (phase IN ('beginning', 'in_force', 'ending')),
    progress BIGINT NOT NULL,
    -- Who ended it, and what was said; NULL: its time was over.
    ended_by TEXT,
    ended_comment TEXT,
    PRIMARY KEY (device, rule)
) WITHOUT ROWID;
CREATE INDEX out_of_service_until ON out_of_service (until) WHERE until IS NOT NULL;
CREATE INDEX out_of_service_changing ON out_of_service (phase) WHERE phase <> 'in_force';

-- What measures of quality are made of, by the time at which it became known.
CREATE INDEX transitions_raised ON transitions (recorded_at) WHERE kind = 'raised';
CREATE INDEX transitions_acknowledged ON transitions (recorded_at) WHERE kind = 'acknowledged';

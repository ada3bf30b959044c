-- Rules that were taken out of a partition because they kept failing: a row for each time.
CREATE TABLE rule_outages (
    -- epoch/partition/offset of the record that says so.
    position TEXT NOT NULL PRIMARY KEY,
    rule TEXT NOT NULL,
    rule_version BIGINT NOT NULL,
    partition BIGINT NOT NULL,
    opened_at BIGINT NOT NULL,
    why TEXT NOT NULL,
    reason TEXT NOT NULL,
    -- Tries that failed.
    tries BIGINT NOT NULL DEFAULT 0,
    tried_at BIGINT,
    -- When the breaker closed, and how: tried, deployed or removed.
    closed_at BIGINT,
    closed_by TEXT,
    -- What was missed and given to the rule again: offsets of the partition.
    missed_from BIGINT,
    caught_up_to BIGINT,
    -- Records that were not kept for the rule.
    lost_from BIGINT,
    lost_to BIGINT
);
CREATE INDEX rule_outages_by_rule ON rule_outages (rule, opened_at);

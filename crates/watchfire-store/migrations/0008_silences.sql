-- What nobody is told of for a while. Matchers are a JSON list, annotations a JSON map.
CREATE TABLE silences (
    id TEXT NOT NULL PRIMARY KEY,
    matchers TEXT NOT NULL,
    starts_at BIGINT NOT NULL,
    ends_at BIGINT NOT NULL,
    created_by TEXT NOT NULL,
    comment TEXT NOT NULL,
    annotations TEXT NOT NULL,
    updated_at BIGINT NOT NULL,
    until_resolved BIGINT NOT NULL,
    -- Since when it holds or will: what a change of its end does not change.
    created_at BIGINT NOT NULL,
    -- When an active alert was last seen that it matches; NULL: never.
    matched_at BIGINT
);
CREATE INDEX silences_end ON silences (ends_at);

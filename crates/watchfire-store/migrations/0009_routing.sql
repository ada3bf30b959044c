-- Notification groups anew: what a group told, holds and still has to tell are rows of their own, so that a change of one
-- alert does not rewrite all others of its group.
CREATE TABLE notification_groups (
    id INTEGER NOT NULL PRIMARY KEY,
    receiver TEXT NOT NULL,
    group_key TEXT NOT NULL,
    body TEXT NOT NULL,
    UNIQUE (receiver, group_key)
);

CREATE TABLE notification_members (
    group_id BIGINT NOT NULL,
    fingerprint TEXT NOT NULL,
    alert TEXT NOT NULL,
    since BIGINT NOT NULL,
    told BOOLEAN NOT NULL,
    -- What holds back what is to be told of it: JSON, a list that may be empty. NULL: nothing is to be told.
    held_by TEXT,
    PRIMARY KEY (group_id, fingerprint)
) WITHOUT ROWID;
CREATE INDEX notification_members_alert ON notification_members (alert);

CREATE TABLE notification_pending (
    group_id BIGINT NOT NULL,
    position BIGINT NOT NULL,
    transition BIGINT NOT NULL,
    -- Which of the label sets of the transition: 'firing' or 'resolved'.
    part TEXT NOT NULL,
    PRIMARY KEY (group_id, position)
) WITHOUT ROWID;

INSERT INTO notification_groups (receiver, group_key, body)
    SELECT receiver, group_key, json_remove(body, '$.told', '$.pending') FROM notify_groups;
INSERT INTO notification_members (group_id, fingerprint, alert, since, told)
    SELECT g.id, told.key, json_extract(told.value, '$.alert'), 0, 1
    FROM notify_groups AS o JOIN notification_groups AS g ON g.receiver = o.receiver AND g.group_key = o.group_key,
        json_each(o.body, '$.told') AS told;
INSERT INTO notification_pending (group_id, position, transition, part)
    SELECT g.id, pending.key, t.sequence,
        CASE WHEN json_extract(pending.value, '$.cause') LIKE '%#resolved' THEN 'resolved' ELSE 'firing' END
    FROM notify_groups AS o JOIN notification_groups AS g ON g.receiver = o.receiver AND g.group_key = o.group_key,
        json_each(o.body, '$.pending') AS pending
        JOIN transitions AS t ON json_extract(pending.value, '$.cause') IN (t.id || '#firing', t.id || '#resolved');
DROP TABLE notify_groups;

-- Why somebody was not told, or not at once, or by another way than the routes say: what a delivery does not show.
CREATE TABLE decisions (
    sequence INTEGER NOT NULL PRIMARY KEY,
    at BIGINT NOT NULL,
    alert TEXT NOT NULL,
    receiver TEXT NOT NULL,
    group_key TEXT NOT NULL,
    stage TEXT NOT NULL,
    outcome TEXT NOT NULL,
    detail TEXT NOT NULL
);
CREATE INDEX decisions_alert ON decisions (alert, sequence);

-- What one receiver was told in the place of another, by the delivery that it was meant to be told with: who stands in for
-- a group hears of it to its end.
CREATE TABLE stand_ins (
    receiver TEXT NOT NULL,
    original BIGINT NOT NULL,
    -- Of the original: whose it was, of which group, and whether that still fired.
    instead_of TEXT NOT NULL,
    group_key TEXT NOT NULL,
    status TEXT NOT NULL,
    PRIMARY KEY (original, receiver)
) WITHOUT ROWID;
CREATE INDEX stand_ins_group ON stand_ins (receiver, instead_of, group_key, original);

INSERT INTO stand_ins (receiver, original, instead_of, group_key, status)
    SELECT d.receiver, o.sequence, o.receiver, o.group_key, o.status
    FROM deliveries AS d JOIN deliveries AS o ON o.id = substr(d.id, length('fallback/' || d.receiver || '/') + 1)
    WHERE d.reason = 'fallback';

-- What later deliveries have in common with one.
CREATE INDEX delivery_alerts_delivery ON delivery_alerts (delivery);
-- What waits for longer than it should.
CREATE INDEX deliveries_waiting ON deliveries (receiver, created_at) WHERE state = 'pending';

-- Few: what was refused for good, or ran out of its time.
CREATE INDEX deliveries_given_up ON deliveries (receiver, finished_at) WHERE state IN ('refused', 'expired');

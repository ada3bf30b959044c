-- Whose alert it is: `rule`, one of ours made it; `external`, others sent it.
ALTER TABLE alerts ADD COLUMN source TEXT NOT NULL DEFAULT 'rule';
-- Where an alert of others leads.
ALTER TABLE alerts ADD COLUMN generator_url TEXT NOT NULL DEFAULT '';
-- Others choose their labels freely: what they send must never take the place of an alert of ours.
DROP INDEX alerts_active;
CREATE UNIQUE INDEX alerts_active ON alerts (rule, device, key, source) WHERE state = 'active';

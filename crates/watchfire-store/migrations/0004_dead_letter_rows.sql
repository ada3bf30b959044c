-- A dead letter of a rule holds the rows that the rule did not get to see, a line of its payload each. Which devices they
-- are of say handles and not the names in the lines: a name may have been given to another device since. JSON; NULL where
-- there are no rows, or where they were gone before they could be kept.
ALTER TABLE dead_letters ADD COLUMN handles TEXT;
ALTER TABLE dead_letters ADD COLUMN row_count BIGINT NOT NULL DEFAULT 0;
ALTER TABLE dead_letters DROP COLUMN row_indexes;

-- Who sent what could not be used: a replay may do what that one may, and no more.
ALTER TABLE dead_letters ADD COLUMN sender TEXT;
-- What is replayed together: all letters of one record and rule.
CREATE INDEX dead_letters_position ON dead_letters (position, rule);

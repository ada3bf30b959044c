-- What a rule had stored of a device before it failed on its readings: JSON, blobs as hex digits by slot, by the name of
-- the device. NULL where there was nothing, or more than is noted.
ALTER TABLE dead_letters ADD COLUMN state_before TEXT;

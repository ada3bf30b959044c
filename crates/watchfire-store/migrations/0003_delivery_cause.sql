-- When the log received what a delivery first tells of: how long the whole way took is measured from there.
ALTER TABLE deliveries ADD COLUMN caused_at INTEGER;

-- A patient of a roster about whom the source refused to answer was asked, and what they have is as far here as before.
ALTER TABLE rosters ADD COLUMN asked_ms BIGINT;
UPDATE rosters SET asked_ms = swept_ms;
UPDATE rosters SET swept_ms = NULL WHERE trouble IS NOT NULL;

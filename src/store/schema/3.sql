-- Where feeds that fetch or listen stand, what sources said has changed, whom they are asked about, and comparisons with them.

-- One row per configured feed.
CREATE TABLE feed_states (
    site TEXT NOT NULL,
    feed TEXT NOT NULL,
    kind TEXT NOT NULL,
    -- A feed that brings nothing for so long is told as silent; NULL where nobody asked.
    silent_after_ms BIGINT,
    -- JSON of the kind's own; empty before its first round.
    cursor TEXT NOT NULL,
    -- All that the source held then is here.
    complete_until_ms BIGINT,
    attempted_ms BIGINT,
    succeeded_ms BIGINT,
    -- Rounds that failed since the last one that did not, and why the newest of them did.
    failures BIGINT NOT NULL,
    trouble TEXT,
    needs_person BIGINT NOT NULL,
    next_attempt_ms BIGINT NOT NULL,
    lease BIGINT NOT NULL,
    lease_until_ms BIGINT,
    PRIMARY KEY (site, feed)
) CLUSTERED;

-- What each feed brought on each UTC day (its number since 1970), where it ended at first: what is usual for a feed is told by it.
CREATE TABLE feed_days (
    site TEXT NOT NULL,
    feed TEXT NOT NULL,
    day BIGINT NOT NULL,
    disposition TEXT NOT NULL,
    messages BIGINT NOT NULL,
    PRIMARY KEY (site, feed, day, disposition)
) CLUSTERED;

-- What a source said has changed, until it was read there; without an id, something has. Kept before the source is answered.
CREATE TABLE feed_hints (
    hint NUMBERED NOT NULL PRIMARY KEY,
    site TEXT NOT NULL,
    feed TEXT NOT NULL,
    resource_type TEXT NOT NULL,
    resource_id TEXT NOT NULL,
    at_ms BIGINT NOT NULL,
    attempts BIGINT NOT NULL,
    next_attempt_ms BIGINT NOT NULL
);
CREATE INDEX feed_hints_due ON feed_hints (site, feed, next_attempt_ms);

-- Patients that a source is asked about one by one, and up to when all about each is here (NULL: not asked yet).
CREATE TABLE rosters (
    site TEXT NOT NULL,
    feed TEXT NOT NULL,
    subject TEXT NOT NULL,
    listed_ms BIGINT NOT NULL,
    swept_ms BIGINT,
    trouble TEXT,
    PRIMARY KEY (site, feed, subject)
) CLUSTERED;

-- How far a feed has taken each file that it fetches, under the name that it gives the file; until it needs it no more.
CREATE TABLE downloads (
    site TEXT NOT NULL,
    feed TEXT NOT NULL,
    file TEXT NOT NULL,
    bytes_done BIGINT NOT NULL,
    lines_done BIGINT NOT NULL,
    resources_done BIGINT NOT NULL,
    -- SHA-256 of the bytes that were taken: what comes again must begin with the same.
    hash_so_far TEXT NOT NULL,
    finished_ms BIGINT,
    PRIMARY KEY (site, feed, file)
) CLUSTERED;

-- Each comparison of what a source holds with what is here: running, done or failed; `report` is JSON, empty before it
-- ended. An empty `who` is the nightly one.
CREATE TABLE feed_comparisons (
    comparison NUMBERED NOT NULL PRIMARY KEY,
    site TEXT NOT NULL,
    feed TEXT NOT NULL,
    state TEXT NOT NULL,
    who TEXT NOT NULL,
    started_ms BIGINT NOT NULL,
    finished_ms BIGINT,
    lease_until_ms BIGINT NOT NULL,
    report TEXT NOT NULL
);
CREATE INDEX feed_comparisons_of_feed ON feed_comparisons (site, feed, comparison);
CREATE UNIQUE INDEX feed_comparisons_running ON feed_comparisons (site, feed) WHERE state = 'running';

-- What became of the messages of a file, as JSON, over all runs that it took.
ALTER TABLE imports ADD COLUMN outcome TEXT NOT NULL DEFAULT '{}';

-- Records that another one said, at some time, to have been merged into it (Patient.link replaces); whether it still says so, its
-- standing version tells.
CREATE TABLE merge_claims (
    site TEXT NOT NULL,
    subject TEXT NOT NULL,
    claimed_by TEXT NOT NULL,
    PRIMARY KEY (site, subject, claimed_by)
) CLUSTERED;
CREATE INDEX merge_claims_of_survivor ON merge_claims (site, claimed_by);

-- The HL7 v2 message that a resource was found in; NULL for what came by itself.
ALTER TABLE messages ADD COLUMN derived_from BIGINT;
CREATE INDEX messages_derived ON messages (derived_from) WHERE derived_from IS NOT NULL;

-- How sources prove themselves at /notify: SHA-256 alone. `made_for` says for which Subscription there; a secret that was
-- replaced holds a while longer.
CREATE TABLE notify_secrets (
    site TEXT NOT NULL,
    feed TEXT NOT NULL,
    sha256 TEXT NOT NULL,
    made_for TEXT NOT NULL,
    made_ms BIGINT NOT NULL,
    until_ms BIGINT,
    PRIMARY KEY (site, feed, sha256)
) CLUSTERED;

-- What was heard of each numbered Subscription at a source, by its id there; `numbers` is JSON.
CREATE TABLE notify_numbers (
    site TEXT NOT NULL,
    feed TEXT NOT NULL,
    subscription TEXT NOT NULL,
    numbers TEXT NOT NULL,
    heard_ms BIGINT NOT NULL,
    PRIMARY KEY (site, feed, subscription)
) CLUSTERED;

-- What came in, what became of it, what it says, what was judged, what must be sent.
-- Instants are ms since 1970 UTC; states are words; JSON is TEXT; hashes are SHA-256 in hex.

-- Numbers that we give ourselves. Whoever changes the ledger holds its row, so that receipts are numbered in commit order.
CREATE TABLE counters (
    name TEXT NOT NULL PRIMARY KEY,
    value BIGINT NOT NULL
);
INSERT INTO counters (name, value) VALUES ('message', 0);

-- Hashes of mapping and study files, named by number from the rows that used them.
CREATE TABLE hashes (
    number NUMBERED NOT NULL PRIMARY KEY,
    hash TEXT NOT NULL UNIQUE
);

CREATE TABLE feeds (
    site TEXT NOT NULL,
    feed TEXT NOT NULL,
    last_received_ms BIGINT NOT NULL,
    received BIGINT NOT NULL,
    PRIMARY KEY (site, feed)
) CLUSTERED;

-- Where messages ended, counted. `code` is given where the code decided (out of scope, unmapped), else empty.
CREATE TABLE tallies (
    site TEXT NOT NULL,
    feed TEXT NOT NULL,
    resource_type TEXT NOT NULL,
    code TEXT NOT NULL,
    disposition TEXT NOT NULL,
    messages BIGINT NOT NULL,
    PRIMARY KEY (site, feed, resource_type, code, disposition)
) CLUSTERED;

-- One row per message that is more than a count (duplicates and what is out of scope are counts only).
-- A withdrawal (DELETE) has no bytes: its body_hash is empty.
CREATE TABLE messages (
    message BIGINT NOT NULL PRIMARY KEY,
    site TEXT NOT NULL,
    feed TEXT NOT NULL,
    received_ms BIGINT NOT NULL,
    resource_type TEXT NOT NULL,
    resource_id TEXT,
    version TEXT,
    last_updated_ms BIGINT,
    subject TEXT,
    disposition TEXT NOT NULL,
    issues TEXT,
    code TEXT,
    body_hash TEXT NOT NULL,
    mapping BIGINT NOT NULL
);
CREATE INDEX messages_of_resource ON messages (site, resource_type, resource_id);
CREATE INDEX messages_in_quarantine ON messages (site, message) WHERE disposition = 'quarantined';

-- The received bytes, zstd with our dictionary, of what was not refused.
CREATE TABLE bodies (
    message BIGINT NOT NULL PRIMARY KEY REFERENCES messages (message),
    body BLOB NOT NULL
);

-- Earlier outcomes of messages that were driven anew; the current one is on the message.
CREATE TABLE outcomes (
    message BIGINT NOT NULL REFERENCES messages (message),
    outcome BIGINT NOT NULL,
    replaced_ms BIGINT NOT NULL,
    disposition TEXT NOT NULL,
    issues TEXT NOT NULL,
    mapping_hash TEXT NOT NULL,
    fact TEXT,
    PRIMARY KEY (message, outcome)
) CLUSTERED;

-- What one version of one resource says about one subject. A resource that changed its subject stands in both charts:
-- as what it says in the one, as nothing in the other. `fact` is packed, see src/store/fact.rs.
CREATE TABLE facts (
    site TEXT NOT NULL,
    subject TEXT NOT NULL,
    message BIGINT NOT NULL,
    fact BLOB NOT NULL,
    PRIMARY KEY (site, subject, message)
) CLUSTERED;

-- `waiting_ms`: the chart changed then and was not judged since.
CREATE TABLE subjects (
    site TEXT NOT NULL,
    subject TEXT NOT NULL,
    revision BIGINT NOT NULL,
    waiting_ms BIGINT,
    judged_ms BIGINT,
    replaced_by TEXT,
    PRIMARY KEY (site, subject)
) CLUSTERED;
CREATE INDEX subjects_waiting ON subjects (waiting_ms) WHERE waiting_ms IS NOT NULL;
CREATE INDEX subjects_judged ON subjects (judged_ms) WHERE judged_ms IS NOT NULL;
CREATE INDEX subjects_merged ON subjects (site, replaced_by) WHERE replaced_by IS NOT NULL;

-- Each judgement that differed from the one before, in full.
CREATE TABLE judgements (
    judgement NUMBERED NOT NULL PRIMARY KEY,
    previous BIGINT,
    site TEXT NOT NULL,
    subject TEXT NOT NULL,
    study TEXT NOT NULL,
    judged_ms BIGINT NOT NULL,
    prescreen TEXT NOT NULL,
    eligibility TEXT NOT NULL,
    state TEXT NOT NULL,
    egfr DOUBLE PRECISION,
    why TEXT NOT NULL,
    study_hash BIGINT NOT NULL,
    mapping BIGINT NOT NULL,
    content_hash TEXT NOT NULL,
    assessment BLOB NOT NULL
);

-- The screening list: the current judgement of each subject for each study.
CREATE TABLE screening (
    study TEXT NOT NULL,
    site TEXT NOT NULL,
    subject TEXT NOT NULL,
    judgement BIGINT NOT NULL REFERENCES judgements (judgement),
    judged_ms BIGINT NOT NULL,
    prescreen TEXT NOT NULL,
    eligibility TEXT NOT NULL,
    state TEXT NOT NULL,
    egfr DOUBLE PRECISION,
    egfr_date TEXT,
    why TEXT NOT NULL,
    missing TEXT NOT NULL,
    near_miss BIGINT NOT NULL,
    hidden TEXT,
    changed_ms BIGINT NOT NULL,
    changed_from TEXT,
    PRIMARY KEY (study, site, subject)
) CLUSTERED;

CREATE TABLE outbox (
    item NUMBERED NOT NULL PRIMARY KEY,
    site TEXT NOT NULL,
    subject TEXT NOT NULL,
    study TEXT NOT NULL,
    written_key TEXT NOT NULL,
    purpose TEXT NOT NULL,
    send_order BIGINT NOT NULL,
    state TEXT NOT NULL,
    body_hash TEXT NOT NULL,
    request TEXT NOT NULL,
    attempts BIGINT NOT NULL,
    created_ms BIGINT NOT NULL,
    next_attempt_ms BIGINT NOT NULL,
    lease BIGINT NOT NULL,
    lease_until_ms BIGINT,
    last_status BIGINT,
    last_error TEXT,
    server_id TEXT,
    server_version TEXT
);
-- Only one item of a key waits to be sent or found.
CREATE UNIQUE INDEX outbox_pending ON outbox (site, written_key) WHERE state IN ('planned', 'shadow', 'sent');
CREATE INDEX outbox_of_subject ON outbox (site, study, subject);
CREATE INDEX outbox_of_key ON outbox (site, written_key);

CREATE TABLE attempts (
    item BIGINT NOT NULL REFERENCES outbox (item),
    attempt BIGINT NOT NULL,
    at_ms BIGINT NOT NULL,
    state TEXT NOT NULL,
    status BIGINT,
    error TEXT,
    PRIMARY KEY (item, attempt)
) CLUSTERED;

-- Who let a study's write-back out of shadow at a site.
CREATE TABLE releases (
    site TEXT NOT NULL,
    study TEXT NOT NULL,
    released_ms BIGINT NOT NULL,
    who TEXT NOT NULL,
    PRIMARY KEY (site, study, released_ms)
) CLUSTERED;

-- Who looked at, or changed, a subject's data.
CREATE TABLE accesses (
    access NUMBERED NOT NULL PRIMARY KEY,
    at_ms BIGINT NOT NULL,
    who TEXT NOT NULL,
    action TEXT NOT NULL,
    site TEXT NOT NULL,
    subject TEXT NOT NULL,
    study TEXT NOT NULL
);

-- Files that an import has taken, in whole or up to a line; a file is known by its bytes.
CREATE TABLE imports (
    site TEXT NOT NULL,
    file_hash TEXT NOT NULL,
    bytes BIGINT NOT NULL,
    bytes_done BIGINT NOT NULL,
    lines_done BIGINT NOT NULL,
    started_ms BIGINT NOT NULL,
    finished_ms BIGINT,
    PRIMARY KEY (site, file_hash)
) CLUSTERED;

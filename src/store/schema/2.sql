-- What receivers can do, who stopped them, what a reconcile found, who listens, and which cards were shown.

-- One row per receiver: the rung it is written to, why not a better one, and until when it asked for silence.
CREATE TABLE receivers (
    site TEXT NOT NULL PRIMARY KEY,
    -- What its CapabilityStatement declared, as JSON; empty before it was read.
    declared TEXT NOT NULL,
    declared_ms BIGINT,
    -- The ladder chosen from contract, declaration and findings, as JSON; empty before it was chosen.
    ladder TEXT NOT NULL,
    ladder_ms BIGINT,
    quiet_until_ms BIGINT NOT NULL,
    -- Since when it has not answered, and when one request may ask whether it is back; NULL while it answers.
    silent_since_ms BIGINT,
    probe_ms BIGINT
);

-- What a receiver was found to do, by a probe or by a delivery; newest counts.
CREATE TABLE findings (
    finding NUMBERED NOT NULL PRIMARY KEY,
    site TEXT NOT NULL,
    resource_type TEXT NOT NULL,
    kind TEXT NOT NULL,
    detail TEXT NOT NULL,
    found_ms BIGINT NOT NULL
);
CREATE INDEX findings_of_site ON findings (site, resource_type, kind);

-- Kill switch: the newest row of (site, study) counts; an empty study is the whole site. Retractions go all the same.
CREATE TABLE switches (
    switch NUMBERED NOT NULL PRIMARY KEY,
    site TEXT NOT NULL,
    study TEXT NOT NULL,
    is_stopped BIGINT NOT NULL,
    at_ms BIGINT NOT NULL,
    who TEXT NOT NULL,
    reason TEXT NOT NULL
);
CREATE INDEX switches_of_site ON switches (site, study);

-- Each comparison of what an EHR should hold with what it holds: asked, running, done or failed; `report` is JSON, empty
-- before it ended. An empty `who` is the nightly one.
CREATE TABLE reconciles (
    reconcile NUMBERED NOT NULL PRIMARY KEY,
    site TEXT NOT NULL,
    state TEXT NOT NULL,
    mode TEXT NOT NULL,
    who TEXT NOT NULL,
    asked_ms BIGINT NOT NULL,
    started_ms BIGINT,
    finished_ms BIGINT,
    lease_until_ms BIGINT,
    report TEXT NOT NULL
);
CREATE INDEX reconciles_of_site ON reconciles (site, reconcile);
-- Whatever the number of gateways, one runs at a site.
CREATE UNIQUE INDEX reconciles_running ON reconciles (site) WHERE state = 'running';

-- Copies under one key, which to keep and which to take back: proposed by a sweep, accepted by a person. `copies` is JSON.
CREATE TABLE proposals (
    proposal NUMBERED NOT NULL PRIMARY KEY,
    site TEXT NOT NULL,
    study TEXT NOT NULL,
    subject TEXT NOT NULL,
    resource_type TEXT NOT NULL,
    written_key TEXT NOT NULL,
    state TEXT NOT NULL,
    keep_id TEXT NOT NULL,
    copies TEXT NOT NULL,
    proposed_ms BIGINT NOT NULL,
    who TEXT,
    accepted_ms BIGINT,
    finished_ms BIGINT,
    last_error TEXT
);
CREATE INDEX proposals_of_site ON proposals (site, state);
CREATE UNIQUE INDEX proposals_open ON proposals (site, written_key) WHERE state IN ('proposed', 'accepted');

-- Each state of our ResearchSubject of one subject and study, as one audience sees it: `list` is the screening list,
-- `ehr` what the site's EHR may know. Numbered in commit order; an empty status: no longer there.
CREATE TABLE subject_versions (
    version BIGINT NOT NULL PRIMARY KEY,
    audience TEXT NOT NULL,
    site TEXT NOT NULL,
    resource TEXT NOT NULL,
    study TEXT NOT NULL,
    subject TEXT NOT NULL,
    at_ms BIGINT NOT NULL,
    status TEXT NOT NULL,
    -- It stands: what follows is told too. Otherwise it was closed, and only a new beginning is told.
    is_standing BIGINT NOT NULL,
    judgement BIGINT NOT NULL
);
CREATE INDEX subject_versions_of_resource ON subject_versions (audience, site, resource, version);
CREATE INDEX subject_versions_of_site ON subject_versions (audience, site, version);
-- The newest version, and its time: later versions are never older.
INSERT INTO counters (name, value) VALUES ('subject-version', 0), ('subject-version-ms', 0);

-- Subscriptions of EHRs to our topic; `wanted` is what was asked for, as JSON, with the secrets of its headers.
CREATE TABLE subscriptions (
    site TEXT NOT NULL,
    subscription TEXT NOT NULL,
    who TEXT NOT NULL,
    status TEXT NOT NULL,
    version BIGINT NOT NULL,
    updated_ms BIGINT NOT NULL,
    wanted TEXT NOT NULL,
    -- Events so far, and the newest that was handed over.
    events BIGINT NOT NULL,
    delivered_event BIGINT NOT NULL,
    -- When something is due though no event is: the handshake, a heartbeat; NULL where nothing is.
    due_ms BIGINT,
    end_ms BIGINT,
    failing_since_ms BIGINT,
    attempts BIGINT NOT NULL,
    next_attempt_ms BIGINT NOT NULL,
    lease BIGINT NOT NULL,
    lease_until_ms BIGINT,
    last_error TEXT,
    PRIMARY KEY (site, subscription)
) CLUSTERED;

-- What happened that a subscription speaks of, numbered from 1 without a gap; `version` is that of the subject.
CREATE TABLE subscription_events (
    site TEXT NOT NULL,
    subscription TEXT NOT NULL,
    event BIGINT NOT NULL,
    at_ms BIGINT NOT NULL,
    version BIGINT NOT NULL,
    PRIMARY KEY (site, subscription, event)
) CLUSTERED;

-- CDS Hooks: cards that were shown, and what came back. `hook_user` is a keyed hash.
CREATE TABLE cards (
    card TEXT NOT NULL PRIMARY KEY,
    site TEXT NOT NULL,
    study TEXT NOT NULL,
    subject TEXT NOT NULL,
    client TEXT NOT NULL,
    hook_user TEXT NOT NULL,
    shown_ms BIGINT NOT NULL,
    -- `accepted`, `overridden`, or `silent` for a card that the alert budget kept back; NULL while nobody answered.
    outcome TEXT,
    outcome_ms BIGINT,
    override_reason TEXT
);
CREATE INDEX cards_of_study ON cards (site, study, shown_ms);
CREATE INDEX cards_of_subject ON cards (site, study, subject, hook_user);
CREATE INDEX cards_of_user ON cards (site, hook_user, shown_ms);

-- Token ids that were used, until they expire: a JWT is good once.
CREATE TABLE token_ids (
    issuer TEXT NOT NULL,
    jti TEXT NOT NULL,
    expires_ms BIGINT NOT NULL,
    PRIMARY KEY (issuer, jti)
) CLUSTERED;
CREATE INDEX token_ids_by_expiry ON token_ids (expires_ms);

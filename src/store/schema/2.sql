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

-- Each comparison of what an EHR should hold with what it holds; `report` is JSON.
CREATE TABLE reconciles (
    reconcile NUMBERED NOT NULL PRIMARY KEY,
    site TEXT NOT NULL,
    started_ms BIGINT NOT NULL,
    finished_ms BIGINT NOT NULL,
    report TEXT NOT NULL
);
CREATE INDEX reconciles_of_site ON reconciles (site, reconcile);

-- Subscriptions of EHRs to our topics; `resource` is the Subscription as JSON.
CREATE TABLE subscriptions (
    site TEXT NOT NULL,
    subscription TEXT NOT NULL,
    who TEXT NOT NULL,
    status TEXT NOT NULL,
    version BIGINT NOT NULL,
    updated_ms BIGINT NOT NULL,
    resource TEXT NOT NULL,
    -- Newest event that was handed over, and when something was last sent.
    delivered_event BIGINT NOT NULL,
    last_sent_ms BIGINT,
    attempts BIGINT NOT NULL,
    next_attempt_ms BIGINT NOT NULL,
    lease BIGINT NOT NULL,
    lease_until_ms BIGINT,
    last_error TEXT,
    PRIMARY KEY (site, subscription)
) CLUSTERED;

-- What happened that a topic speaks of: one row per subscription and event, numbered from 1 without a gap.
CREATE TABLE subscription_events (
    site TEXT NOT NULL,
    subscription TEXT NOT NULL,
    event BIGINT NOT NULL,
    at_ms BIGINT NOT NULL,
    study TEXT NOT NULL,
    subject TEXT NOT NULL,
    judgement BIGINT NOT NULL,
    PRIMARY KEY (site, subscription, event)
) CLUSTERED;

-- CDS Hooks: cards that were shown, and what came back. `hook_user` is a hash.
CREATE TABLE cards (
    card TEXT NOT NULL PRIMARY KEY,
    site TEXT NOT NULL,
    study TEXT NOT NULL,
    subject TEXT NOT NULL,
    client TEXT NOT NULL,
    hook_user TEXT NOT NULL,
    shown_ms BIGINT NOT NULL,
    outcome TEXT,
    outcome_ms BIGINT,
    override_reason TEXT
);
CREATE INDEX cards_of_study ON cards (site, study, shown_ms);

-- Token ids that were used, until they expire: a JWT is good once.
CREATE TABLE token_ids (
    issuer TEXT NOT NULL,
    jti TEXT NOT NULL,
    expires_ms BIGINT NOT NULL,
    PRIMARY KEY (issuer, jti)
) CLUSTERED;

-- What is told of a job, once each, and whom it has reached.

CREATE TABLE batchpred.events (
    event_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    message_id uuid NOT NULL DEFAULT gen_random_uuid() UNIQUE,
    job text NOT NULL,
    kind text NOT NULL CHECK (kind IN ('failed', 'blocked', 'late', 'recovered', 'published')),
    interval_start timestamptz NOT NULL,
    run_id bigint REFERENCES batchpred.runs,
    seen_run bigint,
    happened_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    over_at timestamptz,
    message jsonb NOT NULL
);
COMMENT ON TABLE batchpred.events IS 'What is told of a job: one row for each failure, block, lateness, recovery, and publish where asked for';
COMMENT ON COLUMN batchpred.events.message_id IS 'What receivers know the event by: the same on every attempt to deliver it';
COMMENT ON COLUMN batchpred.events.seen_run IS 'The run readers saw of the interval then: a failure is over once they see another';
COMMENT ON COLUMN batchpred.events.over_at IS 'When a failure, block or lateness was over; until then it is not told again';
-- These two, and no process, decide what "once" means.
CREATE UNIQUE INDEX events_open_interval ON batchpred.events (job, interval_start, kind)
 WHERE over_at IS NULL AND kind IN ('failed', 'blocked');
CREATE UNIQUE INDEX events_open_late ON batchpred.events (job) WHERE over_at IS NULL AND kind = 'late';

CREATE TABLE batchpred.deliveries (
    event_id bigint NOT NULL REFERENCES batchpred.events ON DELETE CASCADE,
    target text NOT NULL,
    status text NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'delivered', 'failed', 'superseded')),
    attempts integer NOT NULL DEFAULT 0,
    next_attempt_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    delivered_at timestamptz,
    error text,
    PRIMARY KEY (event_id, target)
);
COMMENT ON TABLE batchpred.deliveries IS 'Whom an event is for, and whether it got there; the address and its secret stay in the job file';
COMMENT ON COLUMN batchpred.deliveries.target IS 'The name of the target in the job file''s notify list';
COMMENT ON COLUMN batchpred.deliveries.next_attempt_at IS 'While one is under way: when another process may take it over';
CREATE INDEX deliveries_pending ON batchpred.deliveries (next_attempt_at) WHERE status = 'pending';

-- The schedule: since when a job is on it, what became of each attempt, what happened to a run, who cancelled it.

ALTER TABLE batchpred.runs ADD COLUMN is_backfill boolean NOT NULL DEFAULT false;
COMMENT ON COLUMN batchpred.runs.is_backfill IS 'Whether batchpred backfill made the run';

ALTER TABLE batchpred.claims ADD COLUMN cancelled_by text;
COMMENT ON COLUMN batchpred.claims.cancelled_by IS 'Who asked the holder to stop; NULL while nobody has';

CREATE TABLE batchpred.schedules (
    job text PRIMARY KEY,
    interval_unit text NOT NULL CHECK (interval_unit IN ('hour', 'day', 'week', 'month')),
    timezone text NOT NULL,
    first_seen_at timestamptz NOT NULL
);
COMMENT ON TABLE batchpred.schedules IS 'Since when each job has been scheduled with its present zone and length of interval: missed intervals count from there';

CREATE TABLE batchpred.attempts (
    job text NOT NULL,
    interval_start timestamptz NOT NULL,
    failures integer NOT NULL DEFAULT 0 CHECK (failures >= 0),
    cause text CHECK (cause IN ('passing', 'lasting', 'blocked', 'not_ready', 'cancelled')),
    error text,
    fingerprint text,
    failed_at timestamptz,
    not_before timestamptz,
    waiting_since timestamptz,
    looked_back_at timestamptz,
    PRIMARY KEY (job, interval_start)
);
COMMENT ON TABLE batchpred.attempts IS 'What schedulers remember of an interval that is not published: failures, why, and when the next attempt may come';
COMMENT ON COLUMN batchpred.attempts.cause IS 'storage/attempts.py says which of them are tried again, and when';
COMMENT ON COLUMN batchpred.attempts.fingerprint IS 'Digest of job file, query and model at the last failure: with another one the interval starts afresh';
COMMENT ON COLUMN batchpred.attempts.not_before IS 'No scheduler tries before; NULL after a failure means: not until something changes';
COMMENT ON COLUMN batchpred.attempts.looked_back_at IS 'When the rows of this published interval were last compared with its source';

CREATE TABLE batchpred.run_events (
    event_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    run_id bigint NOT NULL REFERENCES batchpred.runs ON DELETE CASCADE,
    happened_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    event text NOT NULL,
    details jsonb NOT NULL DEFAULT '{}'
);
COMMENT ON TABLE batchpred.run_events IS 'What happened to a run, the newest 200 of each: written by a trigger whenever its status moves, so in the same transaction';
CREATE INDEX run_events_run ON batchpred.run_events (run_id, event_id);

CREATE FUNCTION batchpred.record_run_event() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog
AS $$
BEGIN
    INSERT INTO batchpred.run_events (run_id, event, details)
    VALUES (NEW.run_id,
            CASE WHEN NEW.status <> 'running' THEN NEW.status WHEN TG_OP = 'INSERT' THEN 'started' ELSE 'resumed' END,
            jsonb_strip_nulls(jsonb_build_object(
                'error', left(NEW.error, 2000), 'fence', NEW.fence,
                'holder', (SELECT holder ->> 'pid' FROM batchpred.claims
                            WHERE job = NEW.job AND interval_start = NEW.interval_start AND fence = NEW.fence),
                'host', (SELECT holder ->> 'host' FROM batchpred.claims
                          WHERE job = NEW.job AND interval_start = NEW.interval_start AND fence = NEW.fence))));
    DELETE FROM batchpred.run_events
     WHERE run_id = NEW.run_id
       AND event_id <= (SELECT event_id FROM batchpred.run_events
                         WHERE run_id = NEW.run_id ORDER BY event_id DESC OFFSET 200 LIMIT 1);
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION batchpred.record_run_event IS 'Writes down that a run''s status moved, and keeps the newest 200 events of each run';

CREATE TRIGGER record_start AFTER INSERT ON batchpred.runs
    FOR EACH ROW EXECUTE FUNCTION batchpred.record_run_event();
CREATE TRIGGER record_status AFTER UPDATE OF status ON batchpred.runs
    FOR EACH ROW WHEN (OLD.status IS DISTINCT FROM NEW.status) EXECUTE FUNCTION batchpred.record_run_event();

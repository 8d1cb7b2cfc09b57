-- A published run never changes but for the keys that are forgotten, and readers keep its answers: they must be told.

ALTER TABLE batchpred.jobs ADD COLUMN forgotten_at timestamptz;
COMMENT ON COLUMN batchpred.jobs.forgotten_at IS 'When a key of the job was last forgotten: what readers remember from before is not answered any more';

CREATE OR REPLACE VIEW batchpred.served_runs AS
SELECT s.job,
       s.run_id,
       s.interval_start,
       r.interval_end,
       r.as_of_date,
       r.model_name,
       r.model_version::bigint AS model_version,
       r.model_sha256,
       r.rows_scored AS predictions,
       r.rows_quarantined AS quarantined,
       r.scored_at,
       r.published_at,
       ((r.interval_end AT TIME ZONE j.timezone + ('1 ' || j.interval_unit)::interval)
        AT TIME ZONE j.timezone) + j.late_after AS late_at,
       j.forgotten_at
  FROM batchpred.published AS s
  JOIN batchpred.runs AS r ON r.run_id = s.run_id
  JOIN batchpred.jobs AS j ON j.name = s.job;
COMMENT ON COLUMN batchpred.served_runs.forgotten_at IS 'When a key of the job was last forgotten: what readers remember from before is not answered any more';

-- A shadow: the run of another model on the rows of a run. No reader ever sees it, and this table will not have it so.

ALTER TABLE batchpred.runs
    ADD COLUMN shadow_of bigint REFERENCES batchpred.runs,
    DROP CONSTRAINT runs_status_check,
    ADD CONSTRAINT runs_status_check CHECK (
        CASE WHEN shadow_of IS NULL
             THEN status IN ('running', 'published', 'superseded', 'blocked', 'failed', 'abandoned')
             ELSE status IN ('running', 'complete', 'failed', 'abandoned') AND published_at IS NULL
        END);
COMMENT ON COLUMN batchpred.runs.shadow_of IS 'The run whose rows this one scored with another model; readers never see it';
CREATE INDEX runs_shadow_of ON batchpred.runs (shadow_of) WHERE shadow_of IS NOT NULL;

-- Analysts join predictions to where they come from; none come from a shadow.
CREATE OR REPLACE VIEW predictions._runs AS
SELECT r.run_id,
       r.job,
       r.status,
       r.as_of_date,
       r.interval_start,
       r.interval_end,
       r.model_name,
       r.model_version::bigint AS model_version,
       r.model_sha256,
       r.definition_sha256,
       d.definition ->> 'query' AS query,
       r.provider,
       r.rows_read,
       r.rows_scored,
       r.rows_quarantined,
       r.started_at,
       r.scored_at,
       r.published_at
  FROM batchpred.runs AS r
  JOIN batchpred.definitions AS d ON d.sha256 = r.definition_sha256
 WHERE r.shadow_of IS NULL;

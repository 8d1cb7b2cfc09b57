-- Drift: what the rows of each chunk were counted into, and what was found of each run.

ALTER TABLE batchpred.chunks ADD COLUMN drift_counts jsonb;
COMMENT ON COLUMN batchpred.chunks.drift_counts IS 'How many of its rows fall into each bin of which reference';

ALTER TABLE batchpred.runs ADD COLUMN drift jsonb;
COMMENT ON COLUMN batchpred.runs.drift IS 'How far features and scores lie from the reference of the model version: the level, and every column';

CREATE VIEW predictions._drift AS
SELECT r.run_id,
       r.job,
       r.status,
       r.as_of_date,
       r.interval_start,
       r.model_name,
       r.model_version::bigint AS model_version,
       c."column" AS column_name,
       c."of" AS column_of,
       c.level,
       c.psi,
       c.by_chance,
       (r.drift ->> 'warn')::double precision AS warn,
       (r.drift ->> 'alert')::double precision AS alert,
       c.null_share,
       c.reference_null_share,
       c.gained_most,
       c.share,
       c.reference_share,
       c.rows AS row_count
  FROM batchpred.runs AS r,
       jsonb_to_recordset(r.drift -> 'columns') AS c (
           "column" text, "of" text, level text, psi double precision, by_chance double precision,
           null_share double precision, reference_null_share double precision, gained_most text,
           share double precision, reference_share double precision, rows bigint);
COMMENT ON VIEW predictions._drift IS 'How far each feature and score of a run lies from the reference profile of its model version';
COMMENT ON COLUMN predictions._drift.column_of IS 'feature: what the model was given; score: what it said';
COMMENT ON COLUMN predictions._drift.level IS 'none, warn, alert: beyond the job''s limit and beyond what chance explains; unjudged: too few rows';
COMMENT ON COLUMN predictions._drift.psi IS 'Population stability index against the reference; 0 is the same distribution';
COMMENT ON COLUMN predictions._drift.by_chance IS 'What PSI stays below in 99 of 100 runs in which nothing has drifted';
COMMENT ON COLUMN predictions._drift.gained_most IS 'The values that gained most rows; share and reference_share are their shares of the rows';

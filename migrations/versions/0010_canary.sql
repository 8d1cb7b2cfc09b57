-- A canary: a version that scores a share of the keys in the runs of an alias's jobs. No row of predictions is written
-- anew: the tables of a job get their column with the first run that has a canary.

CREATE TABLE batchpred.canaries (
    name text NOT NULL,
    alias text NOT NULL,
    version integer NOT NULL,
    share double precision NOT NULL CHECK (share > 0 AND share < 1),
    started_at timestamptz NOT NULL DEFAULT now(),
    started_by text NOT NULL DEFAULT session_user,
    PRIMARY KEY (name, alias),
    FOREIGN KEY (name, version) REFERENCES batchpred.model_versions
);
COMMENT ON TABLE batchpred.canaries IS 'Versions that score a share of the keys beside the one an alias points at, as they stand now';

ALTER TABLE batchpred.runs
    ADD COLUMN canary_version integer,
    ADD COLUMN canary_sha256 text,
    ADD COLUMN canary_share double precision,
    ADD COLUMN canary_scored bigint,
    ADD COLUMN canary_quarantined bigint,
    ADD CONSTRAINT runs_canary CHECK (num_nulls(canary_version, canary_sha256, canary_share) IN (0, 3));
COMMENT ON COLUMN batchpred.runs.canary_version IS 'The version of the same model that scored a share of the keys; NULL where one version scored all';
COMMENT ON COLUMN batchpred.runs.canary_scored IS 'Of rows_scored, those that it scored';

ALTER TABLE batchpred.chunks
    ADD COLUMN canary_scored bigint,
    ADD COLUMN canary_quarantined bigint;

ALTER TABLE batchpred.jobs ADD COLUMN has_canary boolean NOT NULL DEFAULT false;
COMMENT ON COLUMN batchpred.jobs.has_canary IS 'Whether a run with a canary was ever published: then each prediction says its own version';

CREATE OR REPLACE VIEW batchpred.served AS
SELECT name AS job, description, mode, timezone, interval_unit, key_columns, output_columns, late_after, has_canary
  FROM batchpred.jobs;

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
       j.forgotten_at,
       r.canary_version::bigint AS canary_version,
       r.canary_sha256,
       r.canary_share
  FROM batchpred.published AS s
  JOIN batchpred.runs AS r ON r.run_id = s.run_id
  JOIN batchpred.jobs AS j ON j.name = s.job;

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
       r.published_at,
       r.canary_version::bigint AS canary_version,
       r.canary_sha256,
       r.canary_share,
       r.canary_scored
  FROM batchpred.runs AS r
  JOIN batchpred.definitions AS d ON d.sha256 = r.definition_sha256
 WHERE r.shadow_of IS NULL;
COMMENT ON COLUMN predictions._runs.canary_version IS 'The version that scored a share of the keys, whose rows carry it as their model_version; NULL where one version scored all';

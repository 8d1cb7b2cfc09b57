-- The foundation: three schemas, the model registry, the ledger of runs, and what readers are shown.

CREATE SCHEMA IF NOT EXISTS batchpred;
CREATE SCHEMA batchpred_data;
CREATE SCHEMA predictions;

COMMENT ON SCHEMA batchpred IS 'batchpred''s own: ledger of runs, model registry, quarantine';
COMMENT ON SCHEMA batchpred_data IS 'batchpred''s own: one table for each run''s predictions; read them through schema predictions';
COMMENT ON SCHEMA predictions IS 'Published predictions: for each job a view of the current ones and a view of their history';

-- Models ------------------------------------------------------------------------------------------------

CREATE TABLE batchpred.model_files (
    sha256 text PRIMARY KEY CHECK (sha256 ~ '^[0-9a-f]{64}$'),
    size bigint NOT NULL CHECK (size > 0),
    stored_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE batchpred.model_files IS 'ONNX files, each once, known by the digest of their bytes';

CREATE TABLE batchpred.model_pieces (
    sha256 text NOT NULL REFERENCES batchpred.model_files ON DELETE CASCADE,
    piece integer NOT NULL CHECK (piece >= 0),
    data bytea NOT NULL,
    PRIMARY KEY (sha256, piece)
);
COMMENT ON TABLE batchpred.model_pieces IS 'The bytes of the model files, in order, in pieces small enough to stream';
-- Weights do not compress; trying costs a second for every 100 MB.
ALTER TABLE batchpred.model_pieces ALTER COLUMN data SET STORAGE EXTERNAL;

CREATE TABLE batchpred.model_versions (
    name text NOT NULL,
    version integer NOT NULL CHECK (version > 0),
    sha256 text NOT NULL REFERENCES batchpred.model_files,
    signature jsonb NOT NULL,
    opset jsonb NOT NULL,
    notes jsonb NOT NULL DEFAULT '[]',
    source text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    created_by text NOT NULL DEFAULT session_user,
    PRIMARY KEY (name, version),
    UNIQUE (name, sha256)
);
COMMENT ON TABLE batchpred.model_versions IS 'Immutable model versions';

CREATE TABLE batchpred.model_aliases (
    name text NOT NULL,
    alias text NOT NULL,
    version integer NOT NULL,
    PRIMARY KEY (name, alias),
    FOREIGN KEY (name, version) REFERENCES batchpred.model_versions
);
COMMENT ON TABLE batchpred.model_aliases IS 'Movable names for versions, as they stand now';

CREATE TABLE batchpred.model_alias_moves (
    move_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL,
    alias text NOT NULL,
    from_version integer,
    to_version integer NOT NULL,
    moved_at timestamptz NOT NULL DEFAULT now(),
    moved_by text NOT NULL DEFAULT session_user,
    FOREIGN KEY (name, to_version) REFERENCES batchpred.model_versions
);
COMMENT ON TABLE batchpred.model_alias_moves IS 'Every move of an alias, so that "which version was champion on 3 March" has an answer';

-- Jobs and runs -----------------------------------------------------------------------------------------

CREATE TABLE batchpred.jobs (
    name text PRIMARY KEY,
    description text NOT NULL,
    mode text NOT NULL CHECK (mode IN ('snapshot', 'incremental')),
    interval_unit text NOT NULL CHECK (interval_unit IN ('hour', 'day', 'week', 'month')),
    timezone text NOT NULL,
    late_after interval,
    key_columns jsonb NOT NULL,
    output_columns jsonb NOT NULL,
    views_sha256 text,
    updated_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE batchpred.jobs IS 'The jobs that have run here, as their latest run declared them';

CREATE TABLE batchpred.definitions (
    sha256 text PRIMARY KEY,
    job text NOT NULL,
    definition jsonb NOT NULL,
    first_used_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE batchpred.definitions IS 'What decided a run''s rows and outputs: query, parameters, key, features, outputs';

CREATE TABLE batchpred.runs (
    run_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    job text NOT NULL,
    interval_start timestamptz NOT NULL,
    interval_end timestamptz NOT NULL CHECK (interval_end > interval_start),
    as_of_date date NOT NULL,
    status text NOT NULL DEFAULT 'running'
        CHECK (status IN ('running', 'published', 'superseded', 'blocked', 'failed', 'abandoned')),
    fence bigint NOT NULL,
    model_name text NOT NULL,
    model_version integer,
    model_sha256 text NOT NULL,
    definition_sha256 text NOT NULL REFERENCES batchpred.definitions,
    provider text NOT NULL,
    rows_read bigint NOT NULL DEFAULT 0,
    rows_scored bigint NOT NULL DEFAULT 0,
    rows_quarantined bigint NOT NULL DEFAULT 0,
    chunks integer NOT NULL DEFAULT 0,
    error text,
    runner text NOT NULL,
    started_at timestamptz NOT NULL DEFAULT now(),
    scored_at timestamptz,
    published_at timestamptz,
    finished_at timestamptz
);
COMMENT ON TABLE batchpred.runs IS 'Every execution of a job for an interval; storage/runs.py says what each status means';
CREATE INDEX runs_job_interval ON batchpred.runs (job, interval_start);

CREATE TABLE batchpred.claims (
    job text NOT NULL,
    interval_start timestamptz NOT NULL,
    fence bigint NOT NULL,
    holder jsonb,
    lease_until timestamptz NOT NULL,
    PRIMARY KEY (job, interval_start)
);
COMMENT ON TABLE batchpred.claims IS 'Who may write for a job''s interval: a lease with a fencing number that only grows';

CREATE TABLE batchpred.chunks (
    run_id bigint NOT NULL REFERENCES batchpred.runs,
    chunk integer NOT NULL CHECK (chunk >= 0),
    rows_read bigint NOT NULL,
    rows_scored bigint NOT NULL,
    rows_quarantined bigint NOT NULL,
    committed_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (run_id, chunk),
    CONSTRAINT chunks_reconcile CHECK (rows_read = rows_scored + rows_quarantined)
);
COMMENT ON TABLE batchpred.chunks IS 'The chunks of a run whose rows are committed: written in the rows'' own transaction';

CREATE TABLE batchpred.quarantine (
    quarantine_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    run_id bigint NOT NULL REFERENCES batchpred.runs,
    chunk integer NOT NULL,
    key jsonb NOT NULL,
    reason text NOT NULL,
    features jsonb NOT NULL,
    quarantined_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE batchpred.quarantine IS 'Rows that could not be scored, each with its key, the reason and the values it had';
CREATE INDEX quarantine_run ON batchpred.quarantine (run_id);

CREATE TABLE batchpred.published (
    job text NOT NULL REFERENCES batchpred.jobs,
    interval_start timestamptz NOT NULL,
    run_id bigint NOT NULL UNIQUE REFERENCES batchpred.runs,
    PRIMARY KEY (job, interval_start)
);
COMMENT ON TABLE batchpred.published IS 'The pointer: which run readers see for a job''s interval. Publishing and rolling back move it';

-- What readers are shown ----------------------------------------------------------------------------------

CREATE VIEW predictions._freshness AS
SELECT j.name AS job,
       j.description,
       r.as_of_date,
       r.interval_start,
       r.interval_end,
       r.published_at,
       r.rows_scored AS predictions,
       r.rows_quarantined AS quarantined,
       r.model_name,
       r.model_version::bigint AS model_version,
       now() > ((r.interval_end AT TIME ZONE j.timezone + ('1 ' || j.interval_unit)::interval)
                AT TIME ZONE j.timezone) + j.late_after AS is_late,
       r.run_id
  FROM batchpred.jobs AS j
  LEFT JOIN LATERAL (
       SELECT runs.*
         FROM batchpred.published
         JOIN batchpred.runs USING (run_id)
        WHERE published.job = j.name
        ORDER BY published.interval_start DESC
        LIMIT 1) AS r ON true;
COMMENT ON VIEW predictions._freshness IS 'One row for each job: the newest published interval, when it was published and by which model';
COMMENT ON COLUMN predictions._freshness.as_of_date IS 'Local date on which the newest published interval starts; NULL while nothing is published';
COMMENT ON COLUMN predictions._freshness.is_late IS 'The next interval is over, the job''s late_after has passed, and it is not published; NULL without late_after';

CREATE VIEW predictions._runs AS
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
  JOIN batchpred.definitions AS d ON d.sha256 = r.definition_sha256;
COMMENT ON VIEW predictions._runs IS 'Where a prediction comes from: join on run_id for the model''s digest, the query and the interval';
COMMENT ON COLUMN predictions._runs.status IS 'running, published (readers see it), superseded (a later run replaced it), blocked, failed or abandoned';
COMMENT ON COLUMN predictions._runs.query IS 'The source query as the job file had it, with its named parameters';

CREATE VIEW batchpred.served AS
SELECT name AS job, description, mode, timezone, interval_unit, key_columns, output_columns
  FROM batchpred.jobs;
COMMENT ON VIEW batchpred.served IS 'What the read API needs to know of a job to look a key up';

-- The read API: which runs are served, the keys of its readers, and the secret its cursors are signed with.

CREATE TABLE batchpred.api_keys (
    key_id text PRIMARY KEY CHECK (key_id ~ '^[0-9a-f]{12}$'),
    sha256 bytea NOT NULL UNIQUE CHECK (length(sha256) = 32),
    name text NOT NULL CHECK (name <> ''),
    jobs text[],
    requests_per_second integer CHECK (requests_per_second > 0),
    expires_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    created_by text NOT NULL DEFAULT session_user,
    revoked_at timestamptz
);
COMMENT ON TABLE batchpred.api_keys IS 'Who may read over HTTP: of each key only the digest is kept';
COMMENT ON COLUMN batchpred.api_keys.jobs IS 'The jobs the key may read; NULL for all of them';

CREATE TABLE batchpred.api_secrets (
    purpose text PRIMARY KEY,
    secret text NOT NULL
);
COMMENT ON TABLE batchpred.api_secrets IS 'What servers of the read API share: the secret that signs page cursors';
-- Two random uuids hold 244 random bits from the server's strong generator.
INSERT INTO batchpred.api_secrets (purpose, secret)
VALUES ('cursor', gen_random_uuid()::text || gen_random_uuid()::text);

-- The API's role may ask for one key whose id it was given, and for the cursor secret, and list neither.
CREATE FUNCTION batchpred.api_key(asked text)
RETURNS TABLE (sha256 bytea, name text, jobs text[], requests_per_second integer, expires_at timestamptz)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog
BEGIN ATOMIC
    SELECT k.sha256, k.name, k.jobs, k.requests_per_second, k.expires_at
      FROM batchpred.api_keys AS k
     WHERE k.key_id = asked AND k.revoked_at IS NULL;
END;
COMMENT ON FUNCTION batchpred.api_key IS 'The key of that id; no row where there is none or it was revoked';

CREATE FUNCTION batchpred.has_api_keys() RETURNS boolean
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog
BEGIN ATOMIC
    SELECT EXISTS (SELECT FROM batchpred.api_keys);
END;
COMMENT ON FUNCTION batchpred.has_api_keys IS 'Whether a key was ever made: from then on nobody reads without one';

CREATE FUNCTION batchpred.api_secret(asked text) RETURNS text
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog
BEGIN ATOMIC
    SELECT s.secret FROM batchpred.api_secrets AS s WHERE s.purpose = asked;
END;
COMMENT ON FUNCTION batchpred.api_secret IS 'A secret that servers of the read API share';

REVOKE ALL ON FUNCTION batchpred.api_key, batchpred.has_api_keys, batchpred.api_secret FROM PUBLIC;

-- CREATE OR REPLACE keeps the grants; what is new stands last.
CREATE OR REPLACE VIEW batchpred.served AS
SELECT name AS job, description, mode, timezone, interval_unit, key_columns, output_columns, late_after
  FROM batchpred.jobs;

CREATE VIEW batchpred.served_runs AS
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
        AT TIME ZONE j.timezone) + j.late_after AS late_at
  FROM batchpred.published AS s
  JOIN batchpred.runs AS r ON r.run_id = s.run_id
  JOIN batchpred.jobs AS j ON j.name = s.job;
COMMENT ON VIEW batchpred.served_runs IS 'The runs readers see, one for each published interval of each job';
COMMENT ON COLUMN batchpred.served_runs.late_at IS 'From this moment on, were it the newest, the job is late; NULL without late_after';

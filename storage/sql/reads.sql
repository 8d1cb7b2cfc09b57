-- How published predictions are looked up. {identifiers} are quoted by psycopg, never pasted.

-- name: served_job
-- What is needed to look a key of this job up; no row where no such job has run here.
SELECT job, description, mode, timezone, interval_unit, key_columns, output_columns, late_after, has_canary
  FROM batchpred.served
 WHERE job = %(job)s;

-- name: served_jobs
SELECT job, description, mode, timezone, interval_unit, key_columns, output_columns, late_after, has_canary
  FROM batchpred.served
 ORDER BY job;

-- name: newest_run
-- The run of a job's newest published interval.
SELECT * FROM batchpred.served_runs WHERE job = %(job)s ORDER BY interval_start DESC LIMIT 1;

-- name: newest_runs
-- The same for every job that has one.
SELECT r.*
  FROM batchpred.served AS j
 CROSS JOIN LATERAL (SELECT *
                       FROM batchpred.served_runs AS s
                      WHERE s.job = j.job
                      ORDER BY s.interval_start DESC
                      LIMIT 1) AS r;

-- name: listen
LISTEN batchpred_published;

-- name: run_as_of
-- The published run of the interval that starts on a local date; of several (hours), the last.
SELECT *
  FROM batchpred.served_runs
 WHERE job = %(job)s AND as_of_date = %(as_of)s
 ORDER BY interval_start DESC
 LIMIT 1;

-- name: served_run
SELECT * FROM batchpred.served_runs WHERE job = %(job)s AND run_id = %(run_id)s;

-- name: runs_by_id
SELECT * FROM batchpred.served_runs WHERE job = %(job)s AND run_id = ANY(%(run_ids)s);

-- name: runs_before
-- Published runs, newest interval first, from before a moment.
SELECT *
  FROM batchpred.served_runs
 WHERE job = %(job)s AND interval_start < %(before)s
 ORDER BY interval_start DESC
 LIMIT %(limit)s;

-- name: state
-- The published runs numbered up to `last`, and the last time a key was forgotten, in one digest: while it stays
-- the same, so do their predictions. Without `last`, of all of them, with the highest number.
SELECT coalesce(%(last)s::bigint, max(run_id)) AS last,
       md5(coalesce(string_agg(run_id::text, ',' ORDER BY run_id), '') || coalesce(max(forgotten_at)::text, '')) AS digest
  FROM batchpred.served_runs
 WHERE job = %(job)s AND (%(last)s::bigint IS NULL OR run_id <= %(last)s::bigint);

-- name: rows_by_key
-- The rows of some keys in what {source} shows.
SELECT {columns} FROM {source} AS p WHERE {scope} AND {key} = ANY(%s::{type}[]);

-- name: rows_by_keys
-- The same for keys of several columns. OFFSET 0 keeps each look-up one of its own, by the primary key: pulled
-- up into a join, the view of an incremental job would be computed whole.
SELECT p.*
  FROM unnest({arrays}) AS asked ({names})
 CROSS JOIN LATERAL (SELECT {columns} FROM {source} AS p WHERE {scope} AND {match} OFFSET 0) AS p;

-- name: history
-- Every published prediction of one key, newest interval first, from before a moment.
SELECT {columns}
  FROM {source} AS p
 WHERE {match} AND p.interval_start < {before}
 ORDER BY p.interval_start DESC
 LIMIT {limit};

-- name: page_of_run
-- A page of one run in key order.
SELECT {columns} FROM {source} AS p WHERE {scope} AND {after} ORDER BY {key} LIMIT {limit};

-- name: page_of_current
-- A page of each key's newest row, among the runs numbered up to {last}.
SELECT DISTINCT ON ({key}) {columns}
  FROM {source} AS p
 WHERE p.run_id <= {last} AND {after}
 ORDER BY {key}, p.interval_start DESC
 LIMIT {limit};

-- name: look_up_run
-- The hot look-up: which run is the newest, and the rows of some keys in the run the asker believes is. Both
-- in one statement and so at one moment: where the two differ, the asker asks again.
SELECT newest.run_id, found.*
  FROM (SELECT (SELECT run_id
                  FROM batchpred.served_runs
                 WHERE job = {job}
                 ORDER BY interval_start DESC
                 LIMIT 1) AS run_id) AS newest
  LEFT JOIN ({rows}) AS found ON true;

-- name: check_key
SELECT sha256, name, jobs, requests_per_second, expires_at FROM batchpred.api_key(%(key_id)s);

-- name: has_keys
SELECT batchpred.has_api_keys() AS found;

-- name: cursor_secret
SELECT batchpred.api_secret('cursor') AS secret;

-- name: export
-- All rows of a run, as they lie: whoever wants an order has a database of their own.
SELECT {columns} FROM {source} AS p WHERE p.run_id = {run_id};

-- name: export_current
-- Each key's newest row of an incremental job.
SELECT {columns} FROM {source} AS p;

-- name: export_csv
COPY ({rows}) TO STDOUT (FORMAT csv, HEADER true);

-- name: export_ndjson
-- COPY's own quoting would wrap each document: JSON holds neither of these two characters, so nothing is quoted.
COPY (SELECT row_to_json(exported) FROM ({rows}) AS exported)
  TO STDOUT (FORMAT csv, DELIMITER E'\x02', QUOTE E'\x01');

-- name: export_long
-- An export is longer than a look-up, and ends when its client is too slow for it.
SET LOCAL statement_timeout = '10min';

-- name: export_snapshot
-- What another connection needs to read at this transaction's moment, as who.
SELECT pg_export_snapshot() AS snapshot, current_user AS reader;

-- How published predictions are looked up. {identifiers} are quoted by psycopg, never pasted.

-- name: served_job
-- What is needed to look a key of this job up; no row where no such job has run here.
SELECT job, description, mode, timezone, key_columns, output_columns
  FROM batchpred.served
 WHERE job = %(job)s;

-- name: served_jobs
SELECT job FROM batchpred.served ORDER BY job;

-- name: current_prediction
-- One key's row of what readers see now.
SELECT * FROM {view} WHERE {key};

-- Runs that stopped before they were published. storage/unfinished.py says how they are taken up again.

-- name: find
-- The newest run of the slot that stopped, whose table is still there and that would make the same run. Chunks
-- without a digest, of an earlier version, cannot be held against the source.
SELECT run_id,
       EXISTS (SELECT FROM pg_index
                WHERE indrelid = to_regclass('batchpred_data._run_' || run_id) AND indisprimary) AS is_sealed
  FROM batchpred.runs
 WHERE job = %(job)s
   AND interval_start = %(interval_start)s
   AND fence < %(fence)s
   AND shadow_of IS NULL
   AND status IN ('failed', 'abandoned')
   AND model_name = %(model_name)s
   AND model_version IS NOT DISTINCT FROM %(model_version)s
   AND model_sha256 = %(model_sha256)s
   AND definition_sha256 = %(definition_sha256)s
   AND provider = %(provider)s
   AND canary_version IS NOT DISTINCT FROM %(canary_version)s
   AND canary_sha256 IS NOT DISTINCT FROM %(canary_sha256)s
   AND canary_share IS NOT DISTINCT FROM %(canary_share)s
   AND job_table -> 'key' = %(job_table)s -> 'key'
   AND job_table -> 'outputs' = %(job_table)s -> 'outputs'
   AND to_regclass('batchpred_data._run_' || run_id) IS NOT NULL
   AND NOT EXISTS (SELECT FROM batchpred.chunks
                    WHERE chunks.run_id = runs.run_id AND (rows_sha256 IS NULL OR last_key IS NULL))
 ORDER BY run_id DESC
 LIMIT 1;

-- name: take_up
-- The run goes on under the new holder's number; its earlier holders' last transactions fail at the fence.
UPDATE batchpred.runs
   SET status = 'running', fence = %(fence)s, error = NULL, finished_at = NULL
 WHERE run_id = %(run_id)s AND status IN ('failed', 'abandoned');

-- name: chunks
-- What is committed of a run, in the order of the key. Numbers without a gap: a chunk commits after the one before.
SELECT chunk, rows_read, rows_scored, rows_quarantined, rows_sha256, last_key,
       drift_counts ->> 'reference' AS drift_reference
  FROM batchpred.chunks
 WHERE run_id = %(run_id)s
 ORDER BY chunk;

-- name: forget_quarantine
DELETE FROM batchpred.quarantine WHERE run_id = %(run_id)s AND chunk >= %(chunk)s;

-- name: forget_chunks
DELETE FROM batchpred.chunks WHERE run_id = %(run_id)s AND chunk >= %(chunk)s;

-- name: writers
-- Sessions that hold a run's table for more than reading.
SELECT pid
  FROM pg_locks
 WHERE relation = to_regclass(%(table)s) AND mode <> 'AccessShareLock' AND pid <> pg_backend_pid();

-- name: end_writers
SELECT pg_terminate_backend(pid)
  FROM pg_locks
 WHERE relation = to_regclass(%(table)s) AND mode <> 'AccessShareLock' AND pid <> pg_backend_pid();

-- How runs were scored: batch sizes that were measured, and each run's own account.

-- name: batch_size
-- What was measured of a model with a provider on a machine.
SELECT batch_rows, rows_per_second, measured_at
  FROM batchpred.batch_sizes
 WHERE model_sha256 = %(model_sha256)s AND provider = %(provider)s AND machine = %(machine)s;

-- name: remember_batch_size
INSERT INTO batchpred.batch_sizes (model_sha256, provider, machine, batch_rows, threads, rows_per_second)
VALUES (%(model_sha256)s, %(provider)s, %(machine)s, %(batch_rows)s, %(threads)s, %(rows_per_second)s)
ON CONFLICT (model_sha256, provider, machine) DO UPDATE
   SET batch_rows = excluded.batch_rows,
       threads = excluded.threads,
       rows_per_second = excluded.rows_per_second,
       measured_at = now();

-- name: note
-- How the run was scored, in the words its summary uses.
UPDATE batchpred.runs SET scoring = %(scoring)s WHERE run_id = %(run_id)s;

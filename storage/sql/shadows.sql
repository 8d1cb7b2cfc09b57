-- Shadows: runs of another model on the rows of a run. storage/shadows.py says what becomes of them.

-- name: abandon
-- The run goes on without the shadow it began with.
UPDATE batchpred.runs
   SET status = 'abandoned', finished_at = coalesce(finished_at, now()), error = %(error)s
 WHERE shadow_of = %(run_id)s AND status IN ('running', 'abandoned')
RETURNING run_id, model_name, model_version;

-- name: pair
-- The newest complete shadow among those asked for, with the run beside it; both tables still there.
SELECT champion.run_id, champion.job, champion.interval_start, champion.interval_end, champion.as_of_date,
       champion.model_name, champion.model_version, champion.model_sha256, champion.rows_read,
       champion.rows_scored - coalesce(champion.canary_scored, 0) AS rows_scored, champion.job_table, champion.scoring,
       shadow.run_id AS shadow_id, shadow.model_name AS shadow_name, shadow.model_version AS shadow_version,
       shadow.model_sha256 AS shadow_sha256, shadow.rows_scored AS shadow_scored,
       shadow.job_table AS shadow_table, shadow.scoring AS shadow_scoring
  FROM batchpred.runs AS shadow
  JOIN batchpred.runs AS champion ON champion.run_id = shadow.shadow_of
 WHERE shadow.status = 'complete'
   AND to_regclass('batchpred_data._run_' || shadow.run_id) IS NOT NULL
   AND to_regclass('batchpred_data._run_' || champion.run_id) IS NOT NULL
   AND (%(run_id)s::bigint IS NULL OR %(run_id)s IN (champion.run_id, shadow.run_id))
   AND (%(job)s::text IS NULL OR champion.job = %(job)s)
   AND (%(interval_start)s::timestamptz IS NULL OR champion.interval_start = %(interval_start)s)
   AND (%(definition)s::text IS NULL OR champion.definition_sha256 = %(definition)s)
   AND (%(champion)s::text IS NULL OR champion.model_sha256 = %(champion)s)
   AND (%(shadow)s::text IS NULL OR shadow.model_sha256 = %(shadow)s)
 ORDER BY shadow.run_id DESC
 LIMIT 1;

-- name: bear_pauses
-- For this transaction alone: labels are read elsewhere in the midst of it, and a slow query is no frozen runner.
SELECT set_config('idle_in_transaction_session_timeout', '10min', true);

-- name: scores
-- One output of both runs, for the keys both have, in the order of the key.
SELECT a.{column}, b.{column} FROM {champion} AS a JOIN {shadow} AS b USING ({key}) ORDER BY {key};

-- name: labelled
-- The same with the truth, where it is known.
SELECT a.{column}, b.{column}, t.{label}
  FROM {champion} AS a JOIN {shadow} AS b USING ({key}) JOIN {truth} AS t USING ({key})
 WHERE t.{label} IS NOT NULL;

-- name: equal
-- How many keys both runs have, and for how many of them they say the same.
SELECT count(*) AS rows, count(*) FILTER (WHERE a.{column} IS NOT DISTINCT FROM b.{column}) AS equal
  FROM {champion} AS a JOIN {shadow} AS b USING ({key});

-- name: moved_most
SELECT {key}, a.{column} AS was, b.{column} AS is
  FROM {champion} AS a JOIN {shadow} AS b USING ({key})
 WHERE a.{column} <> b.{column}
 ORDER BY abs(b.{column} - a.{column}) DESC, {key}
 LIMIT {limit};

-- name: create_truth
-- What is known of the rows, for the length of a transaction.
CREATE TEMPORARY TABLE {truth} ({columns}) ON COMMIT DROP;

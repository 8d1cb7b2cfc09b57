-- What a person does with runs that are made: look at them, move the pointer back, publish one all the same.

-- name: calendar
-- How a job's intervals are cut.
SELECT interval_unit, timezone FROM batchpred.jobs WHERE name = %(job)s;

-- name: jobs
SELECT name FROM batchpred.jobs ORDER BY name;

-- name: list_runs
-- The newest runs, of one job, one interval or all.
SELECT runs.run_id, runs.job, runs.as_of_date, runs.interval_start, runs.status, runs.model_name,
       runs.model_version, runs.rows_scored, runs.rows_quarantined, runs.started_at, runs.error, runs.shadow_of,
       runs.canary_version, runs.canary_share
  FROM batchpred.runs
 WHERE (%(job)s::text IS NULL OR runs.job = %(job)s)
   AND (%(interval_start)s::timestamptz IS NULL OR runs.interval_start = %(interval_start)s)
 ORDER BY runs.run_id DESC
 LIMIT %(limit)s;

-- name: run
-- Everything the ledger says of one run.
SELECT runs.*, definitions.definition,
       ARRAY(SELECT shadow.run_id FROM batchpred.runs AS shadow
              WHERE shadow.shadow_of = runs.run_id ORDER BY shadow.run_id) AS shadows,
       to_regclass('batchpred_data._run_' || runs.run_id)::text AS has_table,
       EXISTS (SELECT FROM pg_index
                WHERE indrelid = to_regclass('batchpred_data._run_' || runs.run_id) AND indisprimary) AS is_sealed
  FROM batchpred.runs
  JOIN batchpred.definitions ON definitions.sha256 = runs.definition_sha256
 WHERE run_id = %(run_id)s;

-- name: moves_of_run
-- Every move of the pointer to this run or away from it, in order.
SELECT kind, from_run, to_run, moved_at, moved_by, why
  FROM batchpred.publish_moves
 WHERE %(run_id)s IN (from_run, to_run)
 ORDER BY move_id;

-- name: newest_interval
-- The newest interval of a job that readers see.
SELECT interval_start
  FROM batchpred.published
 WHERE job = %(job)s
 ORDER BY interval_start DESC
 LIMIT 1;

-- name: run_before
-- What readers saw of the interval before the run they see now; its table must still be there.
SELECT before.run_id
  FROM batchpred.runs AS now
  JOIN batchpred.runs AS before
    ON before.job = now.job AND before.interval_start = now.interval_start AND before.status = 'superseded'
   AND (before.published_at, before.run_id) < (now.published_at, now.run_id)
 WHERE now.run_id = %(run_id)s
   AND to_regclass('batchpred_data._run_' || before.run_id) IS NOT NULL
 ORDER BY before.published_at DESC, before.run_id DESC
 LIMIT 1;

-- name: withdraw
-- The interval has no published run any more: current falls back to the interval before.
DELETE FROM batchpred.published WHERE job = %(job)s AND interval_start = %(interval_start)s;

-- name: set_status
UPDATE batchpred.runs SET status = %(status)s WHERE run_id = %(run_id)s;

-- name: record
INSERT INTO batchpred.publish_moves (job, interval_start, from_run, to_run, kind, why, moved_by)
VALUES (%(job)s, %(interval_start)s, %(from_run)s, %(to_run)s, %(kind)s, %(why)s,
        session_user || ' (' || %(by)s || ')');

-- name: last_move
-- The last move of an interval's pointer.
SELECT kind
  FROM batchpred.publish_moves
 WHERE job = %(job)s AND interval_start = %(interval_start)s
 ORDER BY move_id DESC
 LIMIT 1;

-- name: quarantine
-- Rows set aside by the newest run of a job's interval that came as far as its checks.
SELECT q.run_id, r.as_of_date, q.key, q.reason, q.features, q.quarantined_at
  FROM batchpred.quarantine AS q
  JOIN batchpred.runs AS r USING (run_id)
 WHERE q.run_id = (SELECT run_id
                     FROM batchpred.runs
                    WHERE job = %(job)s
                      AND interval_start = %(interval_start)s
                      AND status IN ('published', 'blocked')
                    ORDER BY run_id DESC
                    LIMIT 1)
 ORDER BY q.quarantine_id
 LIMIT %(limit)s;

-- name: newest_run_interval
-- The newest interval of a job with a run that came as far as its checks.
SELECT interval_start
  FROM batchpred.runs
 WHERE job = %(job)s AND status IN ('published', 'blocked')
 ORDER BY interval_start DESC
 LIMIT 1;

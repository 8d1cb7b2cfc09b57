-- What nobody can reach any more, and what is to be forgotten. storage/garbage.py says when.

-- name: unreachable
-- Runs whose table is still there and that nobody can go back to: replaced ones after their time, and runs that
-- came to nothing once a later one of their interval was published, or after their time. A complete shadow goes once
-- the run it shadowed is replaced or gone, and after the time of replaced ones: readers' own predictions stay longer.
SELECT r.run_id, r.job, r.interval_start, r.interval_end, r.as_of_date, r.status
  FROM batchpred.runs AS r
  LEFT JOIN batchpred.published AS p USING (run_id)
 WHERE p.run_id IS NULL
   AND to_regclass('batchpred_data._run_' || r.run_id) IS NOT NULL
   AND CASE
         WHEN r.shadow_of IS NOT NULL THEN
              r.started_at < now() - CASE r.status WHEN 'complete' THEN %(superseded)s ELSE %(stopped)s END
              OR to_regclass('batchpred_data._run_' || r.shadow_of) IS NULL
              OR r.status = 'complete' AND EXISTS (SELECT FROM batchpred.runs AS beside
                                                    WHERE beside.run_id = r.shadow_of AND beside.status = 'superseded')
         WHEN r.status = 'superseded' THEN coalesce((SELECT max(moved_at) FROM batchpred.publish_moves WHERE from_run = r.run_id),
                                         r.published_at) < now() - %(superseded)s
         WHEN r.status = 'blocked' THEN EXISTS (SELECT FROM batchpred.runs AS later
                                      WHERE later.job = r.job AND later.interval_start = r.interval_start
                                        AND later.run_id > r.run_id AND later.status IN ('published', 'superseded'))
         WHEN r.status = 'running' THEN false
         ELSE r.started_at < now() - %(stopped)s
              OR EXISTS (SELECT FROM batchpred.runs AS later
                          WHERE later.job = r.job AND later.interval_start = r.interval_start
                            AND later.run_id > r.run_id AND later.status IN ('published', 'superseded'))
       END
 ORDER BY r.run_id;

-- name: expired
-- Published intervals of a job that are older than its predictions are kept.
SELECT published.interval_start, published.run_id
  FROM batchpred.published
  JOIN batchpred.runs USING (run_id)
 WHERE published.job = %(job)s AND runs.interval_end < now() - %(keep)s
 ORDER BY published.interval_start;

-- name: expired_replaced
-- Replaced and blocked runs of such intervals, and shadows: they go with them.
SELECT run_id, job, interval_start, interval_end, as_of_date, status
  FROM batchpred.runs
 WHERE job = %(job)s
   AND status IN ('superseded', 'blocked', 'complete')
   AND interval_end < now() - %(keep)s
   AND to_regclass('batchpred_data._run_' || run_id) IS NOT NULL
   AND NOT EXISTS (SELECT FROM batchpred.publish_moves
                    WHERE from_run = runs.run_id AND moved_at > now() - %(grace)s)
 ORDER BY run_id;

-- name: partition
-- Whether a detaching was interrupted; no row where the run's table is no partition.
SELECT inhdetachpending AS is_pending
  FROM pg_inherits
 WHERE inhrelid = to_regclass(%(table)s);

-- name: forget_run_quarantine
DELETE FROM batchpred.quarantine WHERE run_id = %(run_id)s;

-- name: forget_run_chunks
DELETE FROM batchpred.chunks WHERE run_id = %(run_id)s;

-- name: tables_of_job
-- Every table that holds predictions of a job, whatever became of its run; a shadow writes no row that the run it
-- shadows does not write first.
SELECT run_id, status = 'running' AND shadow_of IS NULL AS is_at_work
  FROM batchpred.runs
 WHERE job = %(job)s AND to_regclass('batchpred_data._run_' || run_id) IS NOT NULL
 ORDER BY run_id;

-- name: running_of_job
-- Runs of a job that say they are at work, whether or not their runners are alive.
SELECT run_id, job, interval_start, interval_end, as_of_date
  FROM batchpred.runs
 WHERE job = %(job)s AND status = 'running'
 ORDER BY run_id;

-- name: forget_key_in_quarantine
DELETE FROM batchpred.quarantine
 USING batchpred.runs
 WHERE runs.run_id = quarantine.run_id AND runs.job = %(job)s AND quarantine.key = %(key)s;

-- name: note_forgotten
-- What readers remember of the job's answers does not count from now on.
UPDATE batchpred.jobs SET forgotten_at = clock_timestamp() WHERE name = %(job)s;

-- name: distrust_chunks
-- Stopped runs of the job are not taken up again: their chunks lack a row now that the source may still have.
UPDATE batchpred.chunks
   SET rows_sha256 = NULL
  FROM batchpred.runs
 WHERE runs.run_id = chunks.run_id AND runs.job = %(job)s AND runs.status IN ('failed', 'abandoned');

-- name: forget_key_in_chunks
-- No chunk says that it ended with the key.
UPDATE batchpred.chunks
   SET last_key = NULL
  FROM batchpred.runs
 WHERE runs.run_id = chunks.run_id
   AND runs.job = %(job)s
   AND (SELECT bool_and(last_key ->> name = value) FROM jsonb_each_text(%(key)s) AS asked (name, value));

-- name: forget_key_in_runs
UPDATE batchpred.runs SET error = %(instead)s WHERE job = %(job)s AND error ~ ALL (%(named)s::text[]);

-- name: forget_key_in_run_events
UPDATE batchpred.run_events AS e
   SET details = jsonb_set(details, '{error}', to_jsonb(%(instead)s::text))
  FROM batchpred.runs AS r
 WHERE r.run_id = e.run_id AND r.job = %(job)s AND details ->> 'error' ~ ALL (%(named)s::text[]);

-- name: forget_key_in_attempts
UPDATE batchpred.attempts SET error = %(instead)s WHERE job = %(job)s AND error ~ ALL (%(named)s::text[]);

-- name: forget_key_in_events
UPDATE batchpred.events
   SET message = jsonb_set(message, '{error}', to_jsonb(%(instead)s::text))
 WHERE job = %(job)s AND message ->> 'error' ~ ALL (%(named)s::text[]);

-- What schedulers share: since when a job is scheduled, and what became of attempts at its intervals.
-- storage/attempts.py says what the causes mean.

-- name: clock
-- The database's clock: the one that all schedulers share.
SELECT clock_timestamp() AS now;

-- name: first_seen
SELECT first_seen_at
  FROM batchpred.schedules
 WHERE job = %(job)s AND interval_unit = %(interval_unit)s AND timezone = %(timezone)s;

-- name: see
-- Note that a job is scheduled. With another zone or length of interval its intervals are other ones: it starts afresh.
INSERT INTO batchpred.schedules AS known (job, interval_unit, timezone, first_seen_at)
VALUES (%(job)s, %(interval_unit)s, %(timezone)s, %(now)s)
ON CONFLICT (job) DO UPDATE
   SET interval_unit = excluded.interval_unit,
       timezone = excluded.timezone,
       first_seen_at = CASE WHEN (known.interval_unit, known.timezone) = (excluded.interval_unit, excluded.timezone)
                            THEN known.first_seen_at ELSE excluded.first_seen_at END
RETURNING first_seen_at;

-- name: settled
-- Intervals that scheduled runs leave alone: published, rolled back by a person, or past their retention.
SELECT interval_start
  FROM batchpred.published
 WHERE job = %(job)s AND interval_start BETWEEN %(first)s AND %(last)s
UNION
SELECT interval_start
  FROM (SELECT DISTINCT ON (interval_start) interval_start, kind
          FROM batchpred.publish_moves
         WHERE job = %(job)s AND interval_start BETWEEN %(first)s AND %(last)s
         ORDER BY interval_start, move_id DESC) AS last_moves
 WHERE kind IN ('rollback', 'retention');

-- name: attempts
-- What is remembered of the job's intervals, and which of them no scheduler may try yet.
SELECT attempts.*, coalesce(not_before > clock_timestamp(), false) AS is_resting
  FROM batchpred.attempts
 WHERE job = %(job)s AND interval_start BETWEEN %(first)s AND %(last)s;

-- name: attempt
SELECT attempts.*, coalesce(not_before > clock_timestamp(), false) AS is_resting
  FROM batchpred.attempts
 WHERE job = %(job)s AND interval_start = %(interval_start)s;

-- name: fail
-- Count a failure, unless another scheduler has counted one since this one looked: no row then.
INSERT INTO batchpred.attempts AS known (job, interval_start, failures, cause, error, fingerprint, failed_at, not_before)
VALUES (%(job)s, %(interval_start)s, %(failures)s, %(cause)s, %(error)s, %(fingerprint)s, clock_timestamp(),
        clock_timestamp() + %(rest)s::interval)
ON CONFLICT (job, interval_start) DO UPDATE
   SET failures = excluded.failures,
       cause = excluded.cause,
       error = excluded.error,
       fingerprint = excluded.fingerprint,
       failed_at = excluded.failed_at,
       not_before = excluded.not_before,
       waiting_since = NULL
 WHERE known.failed_at IS NOT DISTINCT FROM %(seen_failed_at)s
RETURNING failures, not_before;

-- name: wait
-- Note that the data of an interval is not ready, since when, and when to look again.
INSERT INTO batchpred.attempts AS known (job, interval_start, waiting_since, not_before)
VALUES (%(job)s, %(interval_start)s, clock_timestamp(), clock_timestamp() + %(rest)s::interval)
ON CONFLICT (job, interval_start) DO UPDATE
   SET waiting_since = coalesce(known.waiting_since, excluded.waiting_since),
       not_before = excluded.not_before
RETURNING clock_timestamp() - waiting_since AS waited;

-- name: clear
-- What was tried is done with: the interval is published.
UPDATE batchpred.attempts
   SET failures = 0, cause = NULL, error = NULL, fingerprint = NULL, failed_at = NULL, not_before = NULL,
       waiting_since = NULL
 WHERE job = %(job)s AND interval_start = %(interval_start)s AND (failures > 0 OR waiting_since IS NOT NULL);

-- name: looked_back
-- Note that the rows of a published interval were compared with its source.
INSERT INTO batchpred.attempts (job, interval_start, looked_back_at)
VALUES (%(job)s, %(interval_start)s, clock_timestamp())
ON CONFLICT (job, interval_start) DO UPDATE SET looked_back_at = excluded.looked_back_at;

-- name: read_at
-- When the rows that readers see of published intervals were last read from, or compared with, their source, and
-- whether a person has rolled the interval back: then nobody looks.
SELECT published.interval_start,
       greatest(runs.started_at, attempts.looked_back_at) AS read_at,
       (SELECT kind FROM batchpred.publish_moves AS moves
         WHERE moves.job = published.job AND moves.interval_start = published.interval_start
         ORDER BY move_id DESC LIMIT 1) = 'rollback' AS is_rolled_back
  FROM batchpred.published
  JOIN batchpred.runs USING (run_id)
  LEFT JOIN batchpred.attempts
    ON attempts.job = published.job AND attempts.interval_start = published.interval_start
 WHERE published.job = %(job)s AND published.interval_start BETWEEN %(first)s AND %(last)s;

-- name: chunk_digests
-- The digests of what the published run of an interval read, in the order of the key.
SELECT chunks.rows_sha256
  FROM batchpred.published
  JOIN batchpred.chunks USING (run_id)
 WHERE published.job = %(job)s AND published.interval_start = %(interval_start)s
 ORDER BY chunk;

-- name: covering
-- Published intervals of a job that have a part in [start, end), in order.
SELECT runs.interval_start, runs.interval_end
  FROM batchpred.published
  JOIN batchpred.runs USING (run_id)
 WHERE published.job = %(job)s AND runs.interval_end > %(start)s AND runs.interval_start < %(end)s
 ORDER BY runs.interval_start;

-- name: active
-- Runs of a job that are at work now, with what they have done so far.
SELECT runs.run_id, runs.interval_start, runs.as_of_date, runs.started_at, runs.is_backfill, claims.holder,
       claims.cancelled_by,
       (SELECT coalesce(sum(rows_read), 0)::bigint FROM batchpred.chunks WHERE chunks.run_id = runs.run_id) AS rows_done,
       (SELECT earlier.rows_read
          FROM batchpred.published JOIN batchpred.runs AS earlier USING (run_id)
         WHERE published.job = runs.job
         ORDER BY published.interval_start DESC
         LIMIT 1) AS rows_before
  FROM batchpred.runs
  JOIN batchpred.claims USING (job, interval_start, fence)
 WHERE runs.job = %(job)s AND runs.shadow_of IS NULL AND runs.status = 'running' AND claims.lease_until >= clock_timestamp()
 ORDER BY runs.run_id;

-- name: newest_published
SELECT runs.run_id, runs.interval_start, runs.interval_end, runs.published_at, runs.rows_scored
  FROM batchpred.published
  JOIN batchpred.runs USING (run_id)
 WHERE published.job = %(job)s
 ORDER BY published.interval_start DESC
 LIMIT 1;

-- name: newest_model
SELECT model_sha256 FROM batchpred.runs WHERE job = %(job)s AND shadow_of IS NULL ORDER BY run_id DESC LIMIT 1;

-- name: last_failure
-- The newest failure of an interval that readers do not see: a scheduler's attempt, or the newest run of it.
SELECT failed.interval_start, failed.cause, failed.error, failed.failed_at, failed.not_before, failed.failures
  FROM (SELECT interval_start, cause, error, failed_at, not_before, failures
          FROM batchpred.attempts
         WHERE job = %(job)s AND failures > 0
        UNION ALL
        SELECT interval_start, NULL, error, finished_at, NULL, 0
          FROM (SELECT DISTINCT ON (interval_start) *
                  FROM batchpred.runs
                 WHERE job = %(job)s AND shadow_of IS NULL
                 ORDER BY interval_start, run_id DESC) AS newest
         WHERE status IN ('failed', 'blocked')) AS failed
 WHERE NOT EXISTS (SELECT FROM batchpred.published AS seen
                    WHERE seen.job = %(job)s AND seen.interval_start = failed.interval_start)
 ORDER BY interval_start DESC, cause IS NULL, failed_at DESC
 LIMIT 1;

-- name: newest_runs
-- The newest run of each interval of a job, and whether readers see it.
SELECT DISTINCT ON (runs.interval_start) runs.interval_start, runs.run_id, runs.status, runs.is_backfill, runs.error
  FROM batchpred.runs
 WHERE runs.job = %(job)s AND runs.shadow_of IS NULL AND runs.interval_start BETWEEN %(first)s AND %(last)s
 ORDER BY runs.interval_start, (runs.status = 'published') DESC, runs.run_id DESC;

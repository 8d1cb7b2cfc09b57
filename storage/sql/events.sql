-- What is told of a job, once each. storage/events.py says what opens and what ends an event.

-- name: record
-- Write an event down, with the run readers see of the interval; no row where it is told already and not over
-- yet, or where the interval was published since the run that failed began.
INSERT INTO batchpred.events (job, kind, interval_start, run_id, seen_run, message)
SELECT %(job)s, %(kind)s, %(interval_start)s, %(run_id)s,
       (SELECT run_id FROM batchpred.published WHERE job = %(job)s AND interval_start = %(interval_start)s),
       %(message)s
 WHERE NOT EXISTS (SELECT
                     FROM batchpred.published AS p
                     JOIN batchpred.runs AS r ON r.run_id = p.run_id
                    WHERE p.job = %(job)s AND p.interval_start = %(interval_start)s
                      AND r.published_at > clock_timestamp() - %(running_for)s::interval)
ON CONFLICT DO NOTHING
RETURNING event_id;

-- name: address
-- Whom an event is for.
INSERT INTO batchpred.deliveries (event_id, target) VALUES (%(event_id)s, %(target)s);

-- name: close_over
-- End the troubles of some jobs that are over: readers see another run of the interval than when it failed, and
-- a job is no longer late by the one definition there is (served_runs.late_at of its newest published interval).
UPDATE batchpred.events AS e
   SET over_at = clock_timestamp()
 WHERE e.job = ANY(%(jobs)s)
   AND e.over_at IS NULL
   AND CASE e.kind
         WHEN 'late' THEN (SELECT s.late_at IS NULL OR s.late_at >= now()
                             FROM batchpred.served_runs AS s
                            WHERE s.job = e.job
                            ORDER BY s.interval_start DESC
                            LIMIT 1)
         WHEN 'failed' THEN (SELECT p.run_id IS DISTINCT FROM e.seen_run
                               FROM batchpred.published AS p
                              WHERE p.job = e.job AND p.interval_start = e.interval_start)
         WHEN 'blocked' THEN (SELECT p.run_id IS DISTINCT FROM e.seen_run
                                FROM batchpred.published AS p
                               WHERE p.job = e.job AND p.interval_start = e.interval_start)
         ELSE false
       END
RETURNING e.job, e.kind, e.interval_start, e.happened_at;

-- name: keep_promise
-- A job's promise is the one its file makes now: what readers are told and what is told of it must agree.
UPDATE batchpred.jobs AS j
   SET late_after = asked.late_after
  FROM unnest(%(jobs)s::text[], %(late_after)s::interval[]) AS asked (job, late_after)
 WHERE j.name = asked.job AND j.late_after IS DISTINCT FROM asked.late_after;

-- name: late
-- Jobs that are late and of which that is not told yet: their newest published interval is past its late_at. A
-- job that has published nothing is late when its first run began that long ago.
SELECT asked.job,
       newest.interval_end AS interval_start,
       newest.late_at - j.late_after AS interval_end,
       newest.late_at,
       newest.run_id AS newest_run
  FROM unnest(%(jobs)s::text[]) AS asked (job)
  JOIN batchpred.jobs AS j ON j.name = asked.job
 CROSS JOIN LATERAL (SELECT s.interval_end, s.late_at, s.run_id
                       FROM batchpred.served_runs AS s
                      WHERE s.job = asked.job
                      ORDER BY s.interval_start DESC
                      LIMIT 1) AS newest
 WHERE newest.late_at < now()
   AND NOT EXISTS (SELECT FROM batchpred.events AS e
                    WHERE e.job = asked.job AND e.kind = 'late' AND e.over_at IS NULL)
UNION ALL
SELECT asked.job, first.interval_start, first.interval_end,
       first.started_at + asked.late_after, NULL
  FROM unnest(%(jobs)s::text[], %(late_after)s::interval[]) AS asked (job, late_after)
 CROSS JOIN LATERAL (SELECT r.*
                       FROM batchpred.runs AS r
                      WHERE r.job = asked.job AND r.shadow_of IS NULL
                      ORDER BY r.run_id
                      LIMIT 1) AS first
 WHERE first.started_at + asked.late_after < now()
   AND NOT EXISTS (SELECT FROM batchpred.published AS p WHERE p.job = asked.job)
   AND NOT EXISTS (SELECT FROM batchpred.events AS e
                    WHERE e.job = asked.job AND e.kind = 'late' AND e.over_at IS NULL);

-- name: published_run
-- The run readers see of an interval, else of the newest one of the job.
SELECT r.*
  FROM batchpred.published AS p
  JOIN batchpred.runs AS r ON r.run_id = p.run_id
 WHERE p.job = %(job)s
 ORDER BY p.interval_start = %(interval_start)s DESC, p.interval_start DESC
 LIMIT 1;

-- name: is_newest
-- Whether no later interval of the job is published.
SELECT NOT EXISTS (SELECT FROM batchpred.published
                    WHERE job = %(job)s AND interval_start > %(interval_start)s) AS is_newest;

-- name: forget_old
-- Events that are over and long past, with their deliveries.
DELETE FROM batchpred.events
 WHERE happened_at < now() - %(keep)s::interval
   AND (over_at IS NOT NULL OR kind IN ('recovered', 'published'));

-- The outbox: whom an event is for, and whether it got there. storage/deliveries.py says what each status means.

-- name: due
-- The targets, of those this process knows, that have something due now; the longest waiting first.
SELECT e.job, d.target, min(d.next_attempt_at) AS since
  FROM batchpred.deliveries AS d
  JOIN batchpred.events AS e USING (event_id)
  JOIN unnest(%(jobs)s::text[], %(targets)s::text[]) AS known (job, target)
    ON known.job = e.job AND known.target = d.target
 WHERE d.status = 'pending' AND d.next_attempt_at <= clock_timestamp()
 GROUP BY e.job, d.target
 ORDER BY since;

-- name: supersede
-- What waits for a target that only wants to know how things are now, and about which something newer is known.
UPDATE batchpred.deliveries AS d
   SET status = 'superseded'
  FROM batchpred.events AS e
 WHERE e.event_id = d.event_id AND e.job = %(job)s AND d.target = %(target)s AND d.status = 'pending'
   AND EXISTS (SELECT
                 FROM batchpred.deliveries AS later
                 JOIN batchpred.events AS le ON le.event_id = later.event_id
                WHERE le.job = e.job AND later.target = d.target AND later.event_id > d.event_id);

-- name: take
-- Take the oldest due event of a target, for the length of a lease: no other process sends it meanwhile.
UPDATE batchpred.deliveries AS d
   SET attempts = d.attempts + 1, next_attempt_at = clock_timestamp() + %(lease)s
  FROM batchpred.events AS e
 WHERE e.event_id = d.event_id
   AND d.target = %(target)s AND d.status = 'pending' AND d.next_attempt_at <= clock_timestamp()
   AND d.event_id = (SELECT due.event_id
                       FROM batchpred.deliveries AS due
                       JOIN batchpred.events AS de ON de.event_id = due.event_id
                      WHERE de.job = %(job)s AND due.target = %(target)s AND due.status = 'pending'
                        AND due.next_attempt_at <= clock_timestamp()
                      ORDER BY due.event_id
                      LIMIT 1
                        FOR UPDATE OF due SKIP LOCKED)
RETURNING d.event_id, d.target, d.attempts, e.job, e.kind, e.message_id, e.happened_at, e.message;

-- name: delivered
UPDATE batchpred.deliveries
   SET status = 'delivered', delivered_at = clock_timestamp(), error = NULL
 WHERE event_id = %(event_id)s AND target = %(target)s;

-- name: undelivered
-- Try again after a delay, or give up where there is none; whoever has taken it over meanwhile says so instead.
UPDATE batchpred.deliveries
   SET status = CASE WHEN %(delay)s::interval IS NULL THEN 'failed' ELSE 'pending' END,
       next_attempt_at = clock_timestamp() + coalesce(%(delay)s, interval '0'),
       error = %(error)s
 WHERE event_id = %(event_id)s AND target = %(target)s AND attempts = %(attempts)s AND status = 'pending';

-- name: again
-- Let what waits or was given up be tried now, with all its attempts before it.
UPDATE batchpred.deliveries AS d
   SET status = 'pending', attempts = 0, next_attempt_at = clock_timestamp()
  FROM batchpred.events AS e
 WHERE e.event_id = d.event_id AND e.job = ANY(%(jobs)s) AND d.status IN ('pending', 'failed');

-- name: list
-- Deliveries, the newest event first: all, or those that have not got there.
SELECT e.event_id, e.job, e.kind, e.interval_start, e.run_id, e.happened_at, e.over_at, e.message,
       d.target, d.status, d.attempts, d.error, d.delivered_at,
       CASE WHEN d.status = 'pending' THEN d.next_attempt_at END AS next_attempt_at
  FROM batchpred.deliveries AS d
  JOIN batchpred.events AS e USING (event_id)
 WHERE (%(job)s::text IS NULL OR e.job = %(job)s)
   AND (%(all)s OR d.status IN ('pending', 'failed'))
 ORDER BY e.event_id DESC, d.target
 LIMIT %(limit)s;

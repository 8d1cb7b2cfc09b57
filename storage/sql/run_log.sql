-- What happened to one run, and how a person stops one. Events are written by a trigger on batchpred.runs.

-- name: run
SELECT run_id, job, interval_start, as_of_date, status, fence, shadow_of FROM batchpred.runs WHERE run_id = %(run_id)s;

-- name: events
-- Moves of the run's status, moves of the pointer, and its chunks in at most twenty stretches, in order.
SELECT happened_at, event, details
  FROM batchpred.run_events
 WHERE run_id = %(run_id)s
UNION ALL
SELECT moved_at, 'pointer', jsonb_strip_nulls(jsonb_build_object('kind', kind, 'from', from_run, 'to', to_run,
                                                                 'by', moved_by, 'why', why))
  FROM batchpred.publish_moves
 WHERE %(run_id)s IN (from_run, to_run)
UNION ALL
SELECT max(committed_at), 'chunks',
       jsonb_build_object('from', min(chunk), 'to', max(chunk), 'read', sum(rows_read), 'scored', sum(rows_scored),
                          'quarantined', sum(rows_quarantined))
  FROM (SELECT chunks.*, ntile(20) OVER (ORDER BY chunk) AS stretch
          FROM batchpred.chunks
         WHERE run_id = %(run_id)s) AS cut
 GROUP BY stretch
 ORDER BY 1, 2;

-- name: cancel
-- Ask the holder of a running run to stop; no row where nobody is at work on it.
UPDATE batchpred.claims
   SET cancelled_by = %(by)s
 WHERE job = %(job)s AND interval_start = %(interval_start)s AND fence = %(fence)s
   AND lease_until >= clock_timestamp()
RETURNING holder;

-- name: record
INSERT INTO batchpred.run_events (run_id, event, details) VALUES (%(run_id)s, %(event)s, %(details)s);

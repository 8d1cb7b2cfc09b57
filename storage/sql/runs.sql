-- The ledger: claims, runs, chunks and the pointer. storage/runs.py says what each status means.

-- name: claim
-- Take the claim of (job, interval) if nobody holds it, its lease ran out, or its holder is known dead.
INSERT INTO batchpred.claims AS claim (job, interval_start, fence, holder, lease_until)
VALUES (%(job)s, %(interval_start)s, 1, %(holder)s, clock_timestamp() + %(lease)s)
ON CONFLICT (job, interval_start) DO UPDATE
   SET fence = claim.fence + 1,
       holder = excluded.holder,
       lease_until = excluded.lease_until,
       cancelled_by = NULL
 WHERE claim.lease_until < clock_timestamp()
    OR claim.fence = %(dead_fence)s
RETURNING fence;

-- name: lock_job_claims
-- Claims that count each other (max_active) are taken one at a time.
SELECT pg_advisory_xact_lock(hashtextextended('batchpred claims ' || %(job)s, 0));

-- name: claims_of_job
-- Who works on which intervals of the job now.
SELECT interval_start, fence, holder
  FROM batchpred.claims
 WHERE job = %(job)s AND lease_until >= clock_timestamp();

-- name: claim_holder
-- Who holds the claim of (job, interval) now; no row where nobody does.
SELECT fence, holder, lease_until
  FROM batchpred.claims
 WHERE job = %(job)s
   AND interval_start = %(interval_start)s
   AND lease_until >= clock_timestamp();

-- name: renew
-- Keep a claim and hear whether someone wants it stopped; changes no row once another runner has taken it, or it
-- was given back.
UPDATE batchpred.claims
   SET lease_until = clock_timestamp() + %(lease)s
 WHERE job = %(job)s AND interval_start = %(interval_start)s AND fence = %(fence)s
   AND holder IS NOT NULL
RETURNING cancelled_by;

-- name: release
-- Give a claim back; changes no row once another runner has taken it.
UPDATE batchpred.claims
   SET lease_until = '-infinity', holder = NULL, cancelled_by = NULL
 WHERE job = %(job)s AND interval_start = %(interval_start)s AND fence = %(fence)s;

-- name: fence
-- The last statement before a writer's COMMIT: no row means the claim is lost. FOR SHARE lets nobody take
-- the claim over between this check and the COMMIT, nor cancel it.
SELECT fence, cancelled_by
  FROM batchpred.claims
 WHERE job = %(job)s AND interval_start = %(interval_start)s AND fence = %(fence)s
   FOR SHARE;

-- name: abandon
-- Close the runs that earlier holders of the claim left behind.
UPDATE batchpred.runs
   SET status = 'abandoned', finished_at = now(), error = 'its runner stopped without finishing'
 WHERE job = %(job)s AND interval_start = %(interval_start)s AND status = 'running' AND fence < %(fence)s
RETURNING run_id;

-- name: save_definition
-- Keep what decided a run's rows and outputs, once for each digest.
INSERT INTO batchpred.definitions (sha256, job, definition)
VALUES (%(definition_sha256)s, %(job)s, %(definition)s)
ON CONFLICT DO NOTHING;

-- name: start_run
-- Write down that a run begins, with the model it is pinned to.
INSERT INTO batchpred.runs (job, interval_start, interval_end, as_of_date, fence, model_name, model_version,
                            model_sha256, definition_sha256, provider, runner, job_table, is_backfill, shadow_of,
                            canary_version, canary_sha256, canary_share)
VALUES (%(job)s, %(interval_start)s, %(interval_end)s, %(as_of_date)s, %(fence)s, %(model_name)s,
        %(model_version)s, %(model_sha256)s, %(definition_sha256)s, %(provider)s, %(runner)s,
        %(job_table)s, %(is_backfill)s, %(shadow_of)s, %(canary_version)s, %(canary_sha256)s, %(canary_share)s)
RETURNING run_id;

-- name: published_run
-- The run readers see for (job, interval).
SELECT runs.*
  FROM batchpred.published
  JOIN batchpred.runs USING (run_id)
 WHERE published.job = %(job)s AND published.interval_start = %(interval_start)s;

-- name: previous_published_run
-- The published run of the newest interval before this one: what row counts are compared with.
SELECT runs.*
  FROM batchpred.published
  JOIN batchpred.runs USING (run_id)
 WHERE published.job = %(job)s AND published.interval_start < %(interval_start)s
 ORDER BY published.interval_start DESC
 LIMIT 1;

-- name: add_chunk
-- Write down a chunk, in the transaction that writes its rows.
INSERT INTO batchpred.chunks (run_id, chunk, rows_read, rows_scored, rows_quarantined, rows_sha256, last_key,
                              canary_scored, canary_quarantined, drift_counts)
VALUES (%(run_id)s, %(chunk)s, %(rows_read)s, %(rows_scored)s, %(rows_quarantined)s, %(rows_sha256)s, %(last_key)s,
        %(canary_scored)s, %(canary_quarantined)s, %(drift_counts)s);

-- name: add_quarantined
-- Set a row aside, in the transaction that writes its chunk.
INSERT INTO batchpred.quarantine (run_id, chunk, key, reason, features)
VALUES (%(run_id)s, %(chunk)s, %(key)s, %(reason)s, %(features)s);

-- name: quarantine_reasons
SELECT reason, count(*) AS rows
  FROM batchpred.quarantine
 WHERE run_id = %(run_id)s
 GROUP BY reason
 ORDER BY rows DESC, reason
 LIMIT 5;

-- name: finish_scoring
-- Sum the committed chunks into the run: the ledger, not the runner's memory, says what was done.
UPDATE batchpred.runs
   SET rows_read = done.rows_read,
       rows_scored = done.rows_scored,
       rows_quarantined = done.rows_quarantined,
       chunks = done.chunks,
       canary_scored = done.canary_scored,
       canary_quarantined = done.canary_quarantined,
       scored_at = now()
  FROM (SELECT coalesce(sum(rows_read), 0) AS rows_read,
               coalesce(sum(rows_scored), 0) AS rows_scored,
               coalesce(sum(rows_quarantined), 0) AS rows_quarantined,
               sum(canary_scored) AS canary_scored,
               sum(canary_quarantined) AS canary_quarantined,
               count(*) AS chunks
          FROM batchpred.chunks
         WHERE run_id = %(run_id)s) AS done
 WHERE run_id = %(run_id)s
RETURNING runs.*;

-- name: lock_moves
-- Moves of one pointer, by a run and by a person, come one after the other; also where it has no row yet.
SELECT pg_advisory_xact_lock(
    hashtextextended('batchpred pointer ' || %(job)s || extract(epoch FROM %(interval_start)s::timestamptz), 0));

-- name: pointer
-- The run readers see of (job, interval) now.
SELECT run_id FROM batchpred.published WHERE job = %(job)s AND interval_start = %(interval_start)s;

-- name: record_publish
-- Write the move down, before the pointer moves: from the run it names now.
INSERT INTO batchpred.publish_moves (job, interval_start, from_run, to_run, kind, why, moved_by)
VALUES (%(job)s, %(interval_start)s,
        (SELECT run_id
           FROM batchpred.published
          WHERE job = %(job)s AND interval_start = %(interval_start)s),
        %(run_id)s, %(kind)s, %(why)s, concat(session_user, ' (' || %(by)s || ')'));

-- name: supersede
-- The run that is about to be replaced for (job, interval), if any, stops being the published one.
UPDATE batchpred.runs
   SET status = 'superseded'
 WHERE run_id = (SELECT run_id
                   FROM batchpred.published
                  WHERE job = %(job)s AND interval_start = %(interval_start)s);

-- name: point
-- Move the pointer: from this transaction's COMMIT on readers see the run.
INSERT INTO batchpred.published (job, interval_start, run_id)
VALUES (%(job)s, %(interval_start)s, %(run_id)s)
ON CONFLICT (job, interval_start) DO UPDATE SET run_id = excluded.run_id;

-- name: mark_published
UPDATE batchpred.runs
   SET status = 'published', published_at = now(), finished_at = now()
 WHERE run_id = %(run_id)s;

-- name: announce
-- Tell listeners, the read API's caches first, that a job has a new published run.
SELECT pg_notify('batchpred_published', %(job)s);

-- name: close
-- End a run that will not be published: blocked, failed, abandoned, or a complete shadow. Only the holder it runs under may.
UPDATE batchpred.runs
   SET status = %(status)s, error = %(error)s, finished_at = now()
 WHERE run_id = %(run_id)s AND status = 'running' AND fence = %(fence)s;

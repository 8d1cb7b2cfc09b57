-- How versions are promoted, moved back, retired and deleted. storage/model_life.py says what needs a version.

-- name: moves
-- Every move of a name's aliases, or of one of them, in order.
SELECT move_id, alias, from_version, to_version, kind, why, moved_at, moved_by
  FROM batchpred.model_alias_moves
 WHERE name = %(name)s AND (%(alias)s::text IS NULL OR alias = %(alias)s)
 ORDER BY move_id;

-- name: events
-- What else became of a name's versions, in order.
SELECT event_id, version, kind, details, happened_at, done_by
  FROM batchpred.model_events
 WHERE name = %(name)s
 ORDER BY event_id;

-- name: record_event
INSERT INTO batchpred.model_events (name, version, kind, details, done_by)
VALUES (%(name)s, %(version)s, %(kind)s, %(details)s, concat(session_user, ' (' || %(by)s || ')'));

-- name: signature
-- The newest signature of a version's file.
SELECT details ->> 'signature' AS signature
  FROM batchpred.model_events
 WHERE name = %(name)s AND version = %(version)s AND kind = 'signed'
 ORDER BY event_id DESC
 LIMIT 1;

-- name: runs_that_need
-- Runs of a version whose predictions are still there: they can be read, gone back to, published or taken up again.
-- A shadow's can be none of that.
SELECT run_id, job, as_of_date, status,
       EXISTS (SELECT FROM batchpred.published WHERE published.run_id = runs.run_id) AS is_read
  FROM batchpred.runs
 WHERE model_name = %(name)s
   AND %(version)s IN (model_version, canary_version)
   AND shadow_of IS NULL
   AND to_regclass('batchpred_data._run_' || run_id) IS NOT NULL
 ORDER BY is_read DESC, run_id DESC
 LIMIT 3;

-- name: retire
UPDATE batchpred.model_versions
   SET retired_at = now(), retired_why = %(why)s
 WHERE name = %(name)s AND version = %(version)s AND retired_at IS NULL
RETURNING version;

-- name: take_back
UPDATE batchpred.model_versions
   SET retired_at = NULL, retired_why = NULL
 WHERE name = %(name)s AND version = %(version)s AND retired_at IS NOT NULL
RETURNING version;

-- name: mark_deleted
UPDATE batchpred.model_versions
   SET deleted_at = now(), profile = NULL
 WHERE name = %(name)s AND version = %(version)s;

-- name: lock_file
-- A push of the same bytes waits here, and then stores them anew.
SELECT sha256 FROM batchpred.model_files WHERE sha256 = %(sha256)s FOR UPDATE;

-- name: drop_bytes
-- Delete a file's bytes where no version that is left has them.
WITH unneeded AS (
    UPDATE batchpred.model_files AS f
       SET dropped_at = now()
     WHERE sha256 = %(sha256)s
       AND NOT EXISTS (SELECT FROM batchpred.model_versions AS v
                        WHERE v.sha256 = f.sha256 AND v.deleted_at IS NULL)
    RETURNING sha256)
DELETE FROM batchpred.model_pieces WHERE sha256 IN (SELECT sha256 FROM unneeded);

-- name: files
-- The files that must be whole, with the versions that have them.
SELECT f.sha256, f.size,
       ARRAY(SELECT v.name || '/' || v.version
               FROM batchpred.model_versions AS v
              WHERE v.sha256 = f.sha256 AND v.deleted_at IS NULL
              ORDER BY v.name, v.version) AS versions
  FROM batchpred.model_files AS f
 WHERE f.dropped_at IS NULL
 ORDER BY f.stored_at, f.sha256;

-- name: profile
SELECT profile FROM batchpred.model_versions WHERE name = %(name)s AND version = %(version)s;

-- name: jobs_that_show
-- Jobs whose newest published interval was made by a version.
SELECT job
  FROM (SELECT DISTINCT ON (p.job) p.job, r.model_name, r.model_version, r.canary_version
          FROM batchpred.published AS p
          JOIN batchpred.runs AS r USING (run_id)
         ORDER BY p.job, p.interval_start DESC) AS newest
 WHERE model_name = %(name)s AND %(version)s IN (model_version, canary_version)
 ORDER BY job;

-- name: runs_at_work
-- Runs of a version that somebody works on now, shadows among them.
SELECT runs.run_id, runs.job
  FROM batchpred.runs
  JOIN batchpred.claims USING (job, interval_start, fence)
 WHERE runs.model_name = %(name)s
   AND %(version)s IN (runs.model_version, runs.canary_version)
   AND runs.status = 'running'
   AND claims.lease_until >= clock_timestamp()
 ORDER BY runs.run_id;

-- name: add_metrics
-- What an evaluation found, beside what was given at push.
UPDATE batchpred.model_versions
   SET metrics = metrics || %(metrics)s
 WHERE name = %(name)s AND version = %(version)s;

-- name: newest_move
SELECT kind, to_version, moved_at
  FROM batchpred.model_alias_moves
 WHERE name = %(name)s AND alias = %(alias)s
 ORDER BY move_id DESC
 LIMIT 1;

-- name: has_published_since
-- A row where a run of the version was published since a moment.
SELECT run_id
  FROM batchpred.runs
 WHERE model_name = %(name)s
   AND model_version = %(version)s
   AND status IN ('published', 'superseded')
   AND published_at >= %(since)s
 LIMIT 1;

-- Canaries: versions that score a share of the keys. storage/canaries.py says how one begins and ends.

-- name: standing
-- The canary beside an alias now.
SELECT name, alias, version, share, started_at, started_by
  FROM batchpred.canaries
 WHERE name = %(name)s AND alias = %(alias)s;

-- name: begin
-- Let a version be the canary of an alias, in the place of one that was; with another share it begins anew.
INSERT INTO batchpred.canaries (name, alias, version, share, started_by)
VALUES (%(name)s, %(alias)s, %(version)s, %(share)s, concat(session_user, ' (' || %(by)s || ')'))
ON CONFLICT (name, alias) DO UPDATE
   SET version = excluded.version, share = excluded.share, started_at = excluded.started_at,
       started_by = excluded.started_by
RETURNING name, alias, version, share, started_at, started_by;

-- name: end
-- End the very canary that is meant; no row where it has ended, or another one has begun.
DELETE FROM batchpred.canaries
 WHERE name = %(name)s AND alias = %(alias)s AND version = %(version)s AND started_at = %(started_at)s
RETURNING version;

-- name: published_since
-- A row where a run of the job with the canary was published since it began.
SELECT run_id
  FROM batchpred.runs
 WHERE job = %(job)s
   AND model_name = %(name)s
   AND canary_version = %(version)s
   AND status IN ('published', 'superseded')
   AND published_at >= %(started_at)s
 LIMIT 1;

-- name: sides
-- What champion and canary said of their keys in a run, a row each.
SELECT {canary} IS TRUE AS is_canary, count(*) AS rows{figures}
  FROM {run_table}
 GROUP BY 1
 ORDER BY 1;

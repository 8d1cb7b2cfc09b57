-- Drift: reference profiles, the counts of a run's chunks, and its verdict.

-- name: counts
-- What each chunk of a run was counted into; a chunk that was not is a fault, and no run is judged without it.
SELECT drift_counts FROM batchpred.chunks WHERE run_id = %(run_id)s ORDER BY chunk;

-- name: note
-- What became of a run's features and scores, against the reference of its model version.
UPDATE batchpred.runs SET drift = %(drift)s WHERE run_id = %(run_id)s;

-- name: keep_profile
-- What a version's features and scores are compared with from now on.
UPDATE batchpred.model_versions SET profile = %(profile)s WHERE name = %(name)s AND version = %(version)s;

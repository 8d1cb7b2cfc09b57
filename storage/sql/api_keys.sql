-- Who may read over HTTP, for the database's owner. The API itself asks through functions (reads.sql).

-- name: create
INSERT INTO batchpred.api_keys (key_id, sha256, name, jobs, requests_per_second, expires_at)
VALUES (%(key_id)s, %(sha256)s, %(name)s, %(jobs)s, %(requests_per_second)s, %(expires_at)s);

-- name: list
SELECT key_id,
       name,
       jobs,
       requests_per_second,
       created_at,
       expires_at,
       revoked_at,
       CASE WHEN revoked_at IS NOT NULL THEN 'revoked'
            WHEN expires_at <= now() THEN 'expired'
            ELSE 'valid' END AS status
  FROM batchpred.api_keys
 ORDER BY created_at, key_id;

-- name: revoke
-- A key that was revoked before keeps its first date.
UPDATE batchpred.api_keys
   SET revoked_at = coalesce(revoked_at, now())
 WHERE key_id = %(key_id)s
RETURNING key_id;

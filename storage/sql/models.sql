-- The model registry: files by digest, versions by name and number, aliases that move.

-- name: add_file
-- Announce a file. The update that changes nothing keeps a deletion of the same bytes waiting.
INSERT INTO batchpred.model_files (sha256, size)
VALUES (%(sha256)s, %(size)s)
ON CONFLICT (sha256) DO UPDATE SET dropped_at = NULL;

-- name: has_bytes
-- Whether a file's bytes are here: a row if so.
SELECT 1 AS one FROM batchpred.model_pieces WHERE sha256 = %(sha256)s LIMIT 1;

-- name: add_piece
INSERT INTO batchpred.model_pieces (sha256, piece, data) VALUES (%(sha256)s, %(piece)s, %(data)s);

-- name: pieces
-- A file's bytes, in order.
SELECT data FROM batchpred.model_pieces WHERE sha256 = %(sha256)s ORDER BY piece;

-- name: lock_name
-- Version numbers of a name are given out one push at a time.
SELECT pg_advisory_xact_lock(hashtextextended('batchpred model ' || %(name)s, 0));

-- name: add_version
-- The next number for a new file; no row where this name has the very same file already.
INSERT INTO batchpred.model_versions (name, version, sha256, signature, opset, notes, source, metrics, tags, card,
                                      profile, pushed_from)
SELECT %(name)s, coalesce(max(version), 0) + 1, %(sha256)s, %(signature)s, %(opset)s, %(notes)s, %(source)s,
       %(metrics)s, %(tags)s, %(card)s, %(profile)s, %(pushed_from)s
  FROM batchpred.model_versions
 WHERE name = %(name)s
ON CONFLICT (name, sha256) WHERE deleted_at IS NULL DO NOTHING
RETURNING version;

-- name: version_of_file
SELECT version
  FROM batchpred.model_versions
 WHERE name = %(name)s AND sha256 = %(sha256)s AND deleted_at IS NULL;

-- name: alias_target
SELECT version FROM batchpred.model_aliases WHERE name = %(name)s AND alias = %(alias)s;

-- name: move_alias
INSERT INTO batchpred.model_aliases (name, alias, version)
VALUES (%(name)s, %(alias)s, %(version)s)
ON CONFLICT (name, alias) DO UPDATE SET version = excluded.version;

-- name: end_canary
-- A canary is beside what an alias points at: where the alias moves, it ends, and that is on record.
WITH ended AS (
    DELETE FROM batchpred.canaries WHERE name = %(name)s AND alias = %(alias)s RETURNING version)
INSERT INTO batchpred.model_events (name, version, kind, details, done_by)
SELECT %(name)s, version, 'canary ended',
       jsonb_build_object('alias', %(alias)s::text,
                          'why', concat(%(name)s::text, '@', %(alias)s::text, ' points at ', %(name)s::text, '/', %(version)s::int)),
       concat(session_user, ' (' || %(by)s || ')')
  FROM ended;

-- name: record_move
INSERT INTO batchpred.model_alias_moves (name, alias, from_version, to_version, kind, why, moved_by)
VALUES (%(name)s, %(alias)s, %(from_version)s, %(version)s, %(kind)s, %(why)s,
        concat(session_user, ' (' || %(by)s || ')'));

-- name: versions
-- Every version, or those of one name, newest first, with size and aliases.
SELECT v.name, v.version, v.sha256, f.size, v.signature, v.opset, v.notes, v.source, v.created_at, v.created_by,
       v.pushed_from, v.metrics, v.tags, v.card, v.profile IS NOT NULL AS has_profile, v.retired_at,
       v.retired_why, v.deleted_at,
       ARRAY(SELECT a.alias
               FROM batchpred.model_aliases AS a
              WHERE a.name = v.name AND a.version = v.version
              ORDER BY a.alias) AS aliases,
       coalesce((SELECT jsonb_object_agg(c.alias, c.share)
                   FROM batchpred.canaries AS c
                  WHERE c.name = v.name AND c.version = v.version), '{}') AS canary_of
  FROM batchpred.model_versions AS v
  JOIN batchpred.model_files AS f USING (sha256)
 WHERE %(name)s::text IS NULL OR v.name = %(name)s
 ORDER BY v.name, v.version DESC;

-- name: alias_as_of
-- The version an alias named at a moment; no row where it named none yet.
SELECT to_version AS version
  FROM batchpred.model_alias_moves
 WHERE name = %(name)s AND alias = %(alias)s AND moved_at <= %(at)s
 ORDER BY move_id DESC
 LIMIT 1;

-- name: first_alias_move
SELECT min(moved_at) AS moved_at FROM batchpred.model_alias_moves WHERE name = %(name)s AND alias = %(alias)s;

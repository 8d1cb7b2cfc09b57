-- Statements about the connection itself.

-- name: settle
-- Settle the session where the login told its number, and else, behind a pooler, this transaction. What comes back
-- first is the session's number. The time zone is the session's in either case: a pooler keeps it for each client,
-- and values are shown by it.
SELECT own.pid, set_config('TimeZone', 'UTC', false), {settings}
  FROM (SELECT pg_backend_pid() AS pid, pg_backend_pid() <> {login_pid} AS is_lent OFFSET 0) AS own;

-- name: setting
set_config({name}, {value}, own.is_lent)

-- name: take_role
-- The role, where it exists and this user may take it: from 16 on one may be a member, as a role's maker is, without
-- the right to become it.
CASE WHEN CASE WHEN current_setting('server_version_num')::int >= 160000
               THEN pg_has_role(to_regrole({role}), 'SET')
               ELSE pg_has_role(to_regrole({role}), 'MEMBER')
          END
     THEN set_config('role', {role}, own.is_lent)
END

-- name: schema_version
-- The newest revision this database has; no row before the first upgrade.
SELECT version_num FROM batchpred.alembic_version;

-- name: has_schema
SELECT to_regclass('batchpred.alembic_version') IS NOT NULL AS found;

-- name: type_names
-- What the types of a query's columns are called.
SELECT oid::bigint AS oid, typname FROM pg_type WHERE oid = ANY(%(oids)s);

-- name: session_at_work
-- Whether the server knows a session, and whether that is busy with something else than waiting for its client;
-- and the number of the asking session, which a pooler in between tells otherwise.
SELECT pg_backend_pid(),
       EXISTS (SELECT FROM pg_stat_activity WHERE pid = %(pid)s::int),
       EXISTS (SELECT FROM pg_stat_activity
                -- Behind a pooler the session may be the very one that asks: then it is at work for us no more.
                WHERE pid = %(pid)s::int AND pid <> pg_backend_pid()
                  AND state IN ('active', 'fastpath function call')
                  AND wait_event_type IS DISTINCT FROM 'Client');

-- name: settle_read
-- What a source is read with, in this transaction alone. Its last rows may wait in the network for a slow reader, with
-- nothing left to do for the server: no reason to end the session.
SELECT set_config('transaction_read_only', 'on', true),
       set_config('lock_timeout', %(lock_timeout)s, true),
       set_config('idle_in_transaction_session_timeout', '0', true),
       set_config('TimeZone', 'UTC', true);

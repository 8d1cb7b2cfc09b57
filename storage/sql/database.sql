-- Statements about the connection itself.

-- name: writer_role
-- The role to write as: where it exists and this user may take it.
SELECT rolname
  FROM pg_roles
 WHERE rolname = 'batchpred_writer'
   -- From 16 on one may be a member, as a role's maker is, without the right to become it.
   AND CASE WHEN current_setting('server_version_num')::int >= 160000
            THEN pg_has_role(rolname, 'SET')
            ELSE pg_has_role(rolname, 'MEMBER')
       END;

-- name: notice_lost_client
-- What this server knows of the settings by which a session notices that its client is gone: while a statement
-- works, and while it waits for the client's next rows.
SELECT set_config(wanted.name, wanted.value, false)
  FROM (VALUES ('client_connection_check_interval', '2s'),
               ('tcp_keepalives_idle', '10'),
               ('tcp_keepalives_interval', '5'),
               ('tcp_keepalives_count', '4'),
               ('tcp_user_timeout', '30s')) AS wanted (name, value)
  JOIN pg_settings USING (name);

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
                WHERE pid = %(pid)s::int AND state IN ('active', 'fastpath function call')
                  AND wait_event_type IS DISTINCT FROM 'Client');

-- name: settle_read
-- What a source is read with, in this transaction alone. Its last rows may wait in the network for a slow reader, with
-- nothing left to do for the server: no reason to end the session.
SELECT set_config('transaction_read_only', 'on', true),
       set_config('lock_timeout', %(lock_timeout)s, true),
       set_config('idle_in_transaction_session_timeout', '0', true),
       set_config('TimeZone', 'UTC', true);

-- Statements about the connection itself.

-- name: writer_role
-- The role to write as: where it exists and this user may take it.
SELECT rolname
  FROM pg_roles
 WHERE rolname = 'batchpred_writer'
   AND pg_has_role(rolname, 'MEMBER');

-- name: schema_version
-- The newest revision this database has; no row before the first upgrade.
SELECT version_num FROM batchpred.alembic_version;

-- name: has_schema
SELECT to_regclass('batchpred.alembic_version') IS NOT NULL AS found;

-- name: type_names
-- What the types of a query's columns are called.
SELECT oid::bigint AS oid, typname FROM pg_type WHERE oid = ANY(%(oids)s);

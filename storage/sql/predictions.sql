-- Where predictions lie and how readers see them. {identifiers} are quoted by psycopg, never pasted.

-- name: lock_job_tables
-- Two runs of one job may both find its tables missing: the second waits for the first.
SELECT pg_advisory_xact_lock(hashtextextended('batchpred tables of ' || %(job)s, 0));

-- name: save_job
-- Write down the job as this run declares it. Once a run of it had a canary there are rows that say so.
INSERT INTO batchpred.jobs AS known (name, description, mode, interval_unit, timezone, late_after, key_columns,
                                     output_columns, has_canary)
VALUES (%(name)s, %(description)s, %(mode)s, %(interval_unit)s, %(timezone)s, %(late_after)s, %(key_columns)s,
        %(output_columns)s, %(has_canary)s)
ON CONFLICT (name) DO UPDATE
   SET description = excluded.description,
       mode = excluded.mode,
       interval_unit = excluded.interval_unit,
       timezone = excluded.timezone,
       late_after = excluded.late_after,
       key_columns = excluded.key_columns,
       output_columns = excluded.output_columns,
       has_canary = known.has_canary OR excluded.has_canary,
       updated_at = now()
RETURNING has_canary;

-- name: key_of_job
-- The key columns that the job's published predictions have, in order.
SELECT ARRAY(SELECT each.value ->> 'name' FROM jsonb_array_elements(key_columns) WITH ORDINALITY AS each
              ORDER BY each.ordinality) AS key
  FROM batchpred.jobs
 WHERE name = %(job)s;

-- name: note_views
-- Remember the digest of the view statements; changes no row where it is known and the views are there.
UPDATE batchpred.jobs
   SET views_sha256 = %(digest)s
 WHERE name = %(job)s
   AND (views_sha256 IS DISTINCT FROM %(digest)s
        OR to_regclass(%(view)s) IS NULL OR to_regclass(%(history)s) IS NULL
        OR to_regclass(%(last)s) IS NULL);

-- name: table_columns
-- The columns of a job's table or view, in order, with their types as format_type writes them.
SELECT attname AS name, format_type(atttypid, NULL) AS type
  FROM pg_attribute
 WHERE attrelid = to_regclass(%(table)s) AND attnum > 0 AND NOT attisdropped
 ORDER BY attnum;

-- name: create_job_table
-- The parent of a job's run tables: a run is one partition, so old runs are dropped whole.
CREATE TABLE {table} ({columns}, run_id bigint NOT NULL) PARTITION BY LIST (run_id);

-- name: create_run_table
-- A run's own table, attached to nothing: no reader can see it. Every row is this run's, so COPY need not send
-- the number, and the CHECK lets ATTACH skip its scan.
CREATE TABLE {run_table} (
    {columns},
    run_id bigint NOT NULL DEFAULT {run_id} CONSTRAINT one_run CHECK (run_id = {run_id})
);

-- name: add_key
-- After the rows: an index built once is 1.5 to 3 times quicker than one kept up row by row.
ALTER TABLE {run_table} ADD PRIMARY KEY ({key});

-- name: duplicate_keys
-- Keys that stand more than once in a run's table: how many there are, and the first of them.
SELECT {key}, count(*) AS rows, count(*) OVER () AS keys
  FROM {run_table}
 GROUP BY {key}
HAVING count(*) > 1
 ORDER BY {key}
 LIMIT 3;

-- name: attach
ALTER TABLE {table} ATTACH PARTITION {run_table} FOR VALUES IN ({run_id});

-- name: drop_run_table
DROP TABLE IF EXISTS {run_table};

-- name: is_attached
SELECT relispartition AS attached FROM pg_class WHERE oid = to_regclass(%(run_table)s);

-- name: statements_on
-- Transactions that hold a lock on the job's table: each may be between its plan and its snapshot.
SELECT virtualtransaction
  FROM pg_locks
 WHERE relation = to_regclass(%(table)s)
   AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
   AND granted
   AND pid <> pg_backend_pid();

-- name: current_snapshot_view
-- mode snapshot: the newest published interval's run is the whole current answer. The pointer is read by the
-- statement's own snapshot, so a statement sees one run, and the planner prunes to its partition.
CREATE OR REPLACE VIEW {view} AS
SELECT {columns}
  FROM {table} AS p
  JOIN batchpred.runs AS r ON r.run_id = p.run_id
 WHERE p.run_id = (SELECT published.run_id
                     FROM batchpred.published
                    WHERE published.job = {job}
                    ORDER BY published.interval_start DESC
                    LIMIT 1);

-- name: current_incremental_view
-- mode incremental: each key's row of the newest published interval that has one, whoever wrote last.
CREATE OR REPLACE VIEW {view} AS
SELECT DISTINCT ON ({key}) {columns}
  FROM {table} AS p
  JOIN batchpred.published AS s ON s.run_id = p.run_id AND s.job = {job}
  JOIN batchpred.runs AS r ON r.run_id = p.run_id
 ORDER BY {key}, r.interval_start DESC;

-- name: history_view
-- Every published interval's predictions.
CREATE OR REPLACE VIEW {view} AS
SELECT {columns}
  FROM {table} AS p
  JOIN batchpred.published AS s ON s.run_id = p.run_id AND s.job = {job}
  JOIN batchpred.runs AS r ON r.run_id = p.run_id;

-- name: readers
-- The roles that exist here among those that may read every view.
SELECT rolname FROM pg_roles WHERE rolname IN ('batchpred_api', 'batchpred_analyst');

-- name: count_outputs
-- For each output column of a run: rows where it is NULL, and rows where it is out of range; in one pass.
SELECT {counts} FROM {run_table};

-- The demo's source table.

-- name: create
CREATE SCHEMA IF NOT EXISTS batchpred_demo;
CREATE TABLE IF NOT EXISTS batchpred_demo.rides (
    ride_id bigint PRIMARY KEY,
    pickup timestamptz NOT NULL,
    km double precision NOT NULL,
    fare double precision NOT NULL,
    passengers integer NOT NULL,
    payment text,
    district text NOT NULL
);
COMMENT ON TABLE batchpred_demo.rides IS 'Made-up rides for batchpred demo; drop the schema when you are done';

-- name: has_day
SELECT EXISTS (SELECT FROM batchpred_demo.rides
                WHERE pickup >= %(day)s::timestamp AT TIME ZONE 'UTC'
                  AND pickup < (%(day)s::timestamp + interval '1 day') AT TIME ZONE 'UTC') AS found;

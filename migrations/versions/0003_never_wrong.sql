-- What a run needs to be taken up again where it stopped, and a record of every move of the pointer.

ALTER TABLE batchpred.chunks
    ADD COLUMN rows_sha256 text,
    ADD COLUMN last_key jsonb;
COMMENT ON COLUMN batchpred.chunks.rows_sha256 IS 'Digest of the rows as they were read: a chunk counts as done only while the source still gives the same';
COMMENT ON COLUMN batchpred.chunks.last_key IS 'Key of the last row read: chunks are cut in the order of the key';

ALTER TABLE batchpred.runs ADD COLUMN job_table jsonb;
COMMENT ON COLUMN batchpred.runs.job_table IS 'The columns of the run''s table and what readers are told of the job';

CREATE TABLE batchpred.publish_moves (
    move_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    job text NOT NULL,
    interval_start timestamptz NOT NULL,
    from_run bigint REFERENCES batchpred.runs,
    to_run bigint REFERENCES batchpred.runs,
    kind text NOT NULL CHECK (kind IN ('publish', 'rollback', 'override', 'retention')),
    why text,
    moved_at timestamptz NOT NULL DEFAULT now(),
    moved_by text NOT NULL DEFAULT session_user
);
COMMENT ON TABLE batchpred.publish_moves IS 'Every move of the pointer of a job''s interval, so that "what did readers see on 3 March" has an answer';
CREATE INDEX publish_moves_slot ON batchpred.publish_moves (job, interval_start, move_id);

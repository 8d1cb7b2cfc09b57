-- What is measured of a model on a machine, and how each run was scored. grants.sql gives the writer the table.

CREATE TABLE batchpred.batch_sizes (
    model_sha256 text NOT NULL,
    provider text NOT NULL,
    machine text NOT NULL,
    batch_rows integer NOT NULL CHECK (batch_rows > 0),
    threads integer NOT NULL CHECK (threads > 0),
    rows_per_second double precision NOT NULL,
    measured_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (model_sha256, provider, machine)
);
COMMENT ON TABLE batchpred.batch_sizes IS 'The batch size and threads that scored a model quickest on a machine; deleting a row has it measured again';

ALTER TABLE batchpred.runs ADD COLUMN scoring jsonb;
COMMENT ON COLUMN batchpred.runs.scoring IS 'How the run was scored: device, provider, fallback, batch size and why, seconds';

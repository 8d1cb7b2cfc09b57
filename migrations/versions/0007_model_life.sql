-- What is known of a model version, how its aliases move and move back, and how it ends.

ALTER TABLE batchpred.model_files ADD COLUMN dropped_at timestamptz;
COMMENT ON COLUMN batchpred.model_files.dropped_at IS 'When the bytes were deleted, with the last version that needed them';

ALTER TABLE batchpred.model_versions
    ADD COLUMN metrics jsonb NOT NULL DEFAULT '{}',
    ADD COLUMN tags jsonb NOT NULL DEFAULT '{}',
    ADD COLUMN card text,
    ADD COLUMN profile jsonb,
    ADD COLUMN pushed_from text,
    ADD COLUMN retired_at timestamptz,
    ADD COLUMN retired_why text,
    ADD COLUMN deleted_at timestamptz;
COMMENT ON COLUMN batchpred.model_versions.card IS 'The model card, in Markdown';
COMMENT ON COLUMN batchpred.model_versions.profile IS 'What features and scores looked like when the version was made: the reference of drift';
COMMENT ON COLUMN batchpred.model_versions.pushed_from IS 'The user and machine it was pushed from';
COMMENT ON COLUMN batchpred.model_versions.deleted_at IS 'A deleted version keeps its row: its number is never given again, and history stays whole';

-- A file that was deleted may be pushed again, as a new version.
ALTER TABLE batchpred.model_versions DROP CONSTRAINT model_versions_name_sha256_key;
CREATE UNIQUE INDEX model_versions_file ON batchpred.model_versions (name, sha256) WHERE deleted_at IS NULL;

ALTER TABLE batchpred.model_alias_moves
    ADD COLUMN kind text NOT NULL DEFAULT 'push'
        CHECK (kind IN ('push', 'promote', 'release', 'rollback', 'unstable')),
    ADD COLUMN why text;
CREATE INDEX model_alias_moves_alias ON batchpred.model_alias_moves (name, alias, move_id);

CREATE TABLE batchpred.model_events (
    event_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL,
    version integer,
    kind text NOT NULL,
    details jsonb NOT NULL DEFAULT '{}',
    happened_at timestamptz NOT NULL DEFAULT now(),
    done_by text NOT NULL DEFAULT session_user
);
COMMENT ON TABLE batchpred.model_events IS 'What else became of models: gates held, releases, retirements, deletions';
CREATE INDEX model_events_name ON batchpred.model_events (name, event_id);

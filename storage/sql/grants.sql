-- Least privilege: three roles without login, to be granted to people and services:
--     GRANT batchpred_writer  TO my_runner;      runs jobs, pushes models
--     GRANT batchpred_api     TO my_api;         reads published predictions, nothing else
--     GRANT batchpred_analyst TO some_analyst;   reads published predictions, nothing else
-- Roles belong to the whole cluster, so another database may have made them already. Where this user may not
-- create roles they are skipped, and everything still works as the connecting user.

DO $grants$
DECLARE
    role_name text;
BEGIN
    FOREACH role_name IN ARRAY ARRAY['batchpred_writer', 'batchpred_api', 'batchpred_analyst'] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = role_name) THEN
            BEGIN
                EXECUTE format('CREATE ROLE %I NOLOGIN', role_name);
                -- From 16 on the maker of a role may grant it, but is not allowed to become it by that alone.
                IF role_name = 'batchpred_writer' AND current_setting('server_version_num')::int >= 160000 THEN
                    EXECUTE format('GRANT %I TO %I WITH SET TRUE', role_name, current_user);
                END IF;
            EXCEPTION
                WHEN duplicate_object OR unique_violation THEN
                    NULL;  -- another database's upgrade was quicker
                WHEN insufficient_privilege THEN
                    RAISE NOTICE 'role % is missing and this user may not create it', role_name;
                    CONTINUE;
            END;
        END IF;
        EXECUTE format('GRANT USAGE ON SCHEMA predictions TO %I', role_name);
        -- The views of a job are granted by the run that makes them, their owner.
        EXECUTE format('GRANT SELECT ON predictions._freshness, predictions._runs TO %I', role_name);
    END LOOP;

    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'batchpred_writer') THEN
        GRANT USAGE ON SCHEMA batchpred TO batchpred_writer;
        GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA batchpred TO batchpred_writer;
        GRANT USAGE, CREATE ON SCHEMA batchpred_data, predictions TO batchpred_writer;
        -- Who may read is the owner's decision, not a runner's.
        REVOKE ALL ON batchpred.api_keys, batchpred.api_secrets FROM batchpred_writer;
    END IF;
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'batchpred_analyst') THEN
        GRANT SELECT ON predictions._drift TO batchpred_analyst;
    END IF;
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'batchpred_api') THEN
        GRANT USAGE ON SCHEMA batchpred TO batchpred_api;
        GRANT SELECT ON batchpred.served, batchpred.served_runs, batchpred.alembic_version TO batchpred_api;
        GRANT EXECUTE ON FUNCTION batchpred.api_key, batchpred.has_api_keys, batchpred.api_secret
           TO batchpred_api;
    END IF;
END
$grants$;

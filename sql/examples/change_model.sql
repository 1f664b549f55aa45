-- Changes the model of a table's style column while the table is in use. A psql script:
--
--     psql -v model=better -v dimension=512 -f change_model.sql
--
-- The new vectors grow in a column of their own beside the old ones, so that queries go on as before until both columns
-- change places in one short transaction. Every step can be repeated: after an interruption run the script again.

\set ON_ERROR_STOP on

-- 1. A second column, which from now on is filled whenever a clip is written. Adding it takes a moment's lock.
ALTER TABLE clips ADD COLUMN IF NOT EXISTS style_next esr_vector(:dimension);
SELECT esr_attach('clips', 'audio', 'style_next', mode => 'sync', model => :'model')
WHERE NOT EXISTS (SELECT FROM esr_attachments WHERE "table" = 'clips'::regclass AND style_column = 'style_next');

-- 2. The clips that were there before, in small transactions. Watch it from another session: SELECT * FROM esr_progress;
CALL esr_refresh('clips', 'style_next');

-- 3. Clips that have no new vector, if any: mend or delete them before going on.
SELECT ctid_of_row, sqlstate, reason FROM esr_failures WHERE "table" = 'clips'::regclass AND style_column = 'style_next';

-- 4. An index, while rows are being written. One that an interruption left invalid is made anew.
SELECT format('DROP INDEX %s', indexrelid::regclass) FROM pg_index
WHERE indexrelid = to_regclass('clips_style_next_idx') AND NOT indisvalid \gexec
CREATE INDEX CONCURRENTLY IF NOT EXISTS clips_style_next_idx ON clips USING esr_ivf (style_next esr_vector_cosine_ops);

-- 5. The swap. Triggers and indexes follow their columns.
BEGIN;
SELECT esr_detach('clips', 'style');
ALTER TABLE clips RENAME style TO style_before;
ALTER TABLE clips RENAME style_next TO style;
COMMIT;

-- 6. Queries must be embedded by the new model too. Sessions that are open keep the old default.
SELECT format('ALTER DATABASE %I SET esr.default_model = %L', current_database(), :'model') \gexec

-- 7. When nothing asks for the old vectors any more, and with them goes their index:
ALTER TABLE clips DROP COLUMN style_before;
ALTER INDEX IF EXISTS clips_style_next_idx RENAME TO clips_style_idx;

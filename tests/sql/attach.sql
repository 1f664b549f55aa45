-- What esr_attach accepts and what it refuses; embedding itself is tested where there is a model.
\set SHOW_CONTEXT never
CREATE TABLE clips (id int PRIMARY KEY, audio bytea, words text, style esr_vector(8), made bytea GENERATED ALWAYS AS (audio) STORED);
CREATE VIEW seen AS SELECT * FROM clips;
SELECT esr_attach('clips', 'absent', 'style');
\echo :LAST_ERROR_SQLSTATE
SELECT esr_attach('clips', 'audio', 'absent');
\echo :LAST_ERROR_SQLSTATE
SELECT esr_attach('clips', 'words', 'style');
\echo :LAST_ERROR_SQLSTATE
SELECT esr_attach('clips', 'audio', 'words');
\echo :LAST_ERROR_SQLSTATE
SELECT esr_attach('clips', 'made', 'style');
\echo :LAST_ERROR_SQLSTATE
SELECT esr_attach('seen', 'audio', 'style');
\echo :LAST_ERROR_SQLSTATE
SELECT esr_attach('clips', 'audio', 'style', mode => 'sometimes');
\echo :LAST_ERROR_SQLSTATE
SELECT esr_attach('clips', 'audio', NULL);
\echo :LAST_ERROR_SQLSTATE
SELECT esr_detach('clips', 'style');
\echo :LAST_ERROR_SQLSTATE
CREATE ROLE regress_stranger;
GRANT ALL ON clips TO regress_stranger;
SET ROLE regress_stranger;
SELECT esr_attach('clips', 'audio', 'style');
\echo :LAST_ERROR_SQLSTATE
SELECT * FROM esr_stat_embedder;
\echo :LAST_ERROR_SQLSTATE
SHOW esr.embedder_program;
\echo :LAST_ERROR_SQLSTATE
SET esr.audio_max_seconds = 9999;
\echo :LAST_ERROR_SQLSTATE
RESET ROLE;
DROP OWNED BY regress_stranger;
DROP ROLE regress_stranger;
SET esr.embedder_program = '/bin/true';
\echo :LAST_ERROR_SQLSTATE
SET esr.no_such_setting = 1;
\echo :LAST_ERROR_SQLSTATE
SELECT esr_attach('clips', 'audio', 'style', model => 'calm');
SELECT pg_get_triggerdef(oid) FROM pg_trigger WHERE tgrelid = 'clips'::regclass ORDER BY tgname;
SELECT esr_attach('clips', 'audio', 'style');
\echo :LAST_ERROR_SQLSTATE
-- Rows without audio need no model.
INSERT INTO clips (id, words) VALUES (1, 'silent');
UPDATE clips SET words = 'still silent';
UPDATE clips SET audio = NULL;
SELECT id, audio, words, style FROM clips;
-- A column may be renamed.
ALTER TABLE clips RENAME style TO mood;
INSERT INTO clips (id) VALUES (2);
SELECT * FROM esr_attachments;
SELECT esr_detach('clips', 'style');
\echo :LAST_ERROR_SQLSTATE
ALTER TABLE clips DROP COLUMN mood;
\echo :LAST_ERROR_SQLSTATE
ALTER TABLE clips RENAME mood TO style;
SELECT esr_detach('clips', 'style');
-- Mode queue.
CREATE TABLE strict (audio bytea, style esr_vector NOT NULL);
SELECT esr_attach('strict', 'audio', 'style', mode => 'queue');
\echo :LAST_ERROR_SQLSTATE
CREATE TEMPORARY TABLE passing (audio bytea, style esr_vector);
SELECT esr_attach('passing', 'audio', 'style', mode => 'queue');
\echo :LAST_ERROR_SQLSTATE
SELECT esr_attach('clips', 'audio', 'style', mode => 'queue', model => 'calm');
SELECT pg_get_triggerdef(oid) FROM pg_trigger WHERE tgrelid = 'clips'::regclass ORDER BY tgname;
SELECT pg_get_indexdef(indexrelid) FROM pg_index WHERE indrelid = 'clips'::regclass AND NOT indisprimary;
SELECT * FROM esr_attachments;
SELECT esr_detach('clips', 'style');
SELECT count(*) FROM pg_index WHERE indrelid = 'clips'::regclass AND NOT indisprimary;
-- Where each row must have its vector at once, there is one trigger.
SELECT esr_attach('strict', 'audio', 'style', model => 'calm');
SELECT pg_get_triggerdef(oid) FROM pg_trigger WHERE tgrelid = 'strict'::regclass;
-- Refresh.
CALL esr_refresh('clips');
\echo :LAST_ERROR_SQLSTATE
CALL esr_refresh(NULL);
\echo :LAST_ERROR_SQLSTATE
CALL esr_refresh('clips', 'style', 'words');
\echo :LAST_ERROR_SQLSTATE
CALL esr_refresh('clips', 'style', 'absent');
\echo :LAST_ERROR_SQLSTATE
-- In a session that has not yet used the library, the default model is known all the same.
\c
SELECT esr_attach('clips', 'audio', 'style');
SELECT pg_get_triggerdef(oid) FROM pg_trigger WHERE tgrelid = 'clips'::regclass ORDER BY tgname;
SELECT esr_detach('clips', 'style');
SELECT count(*) FROM pg_trigger WHERE tgrelid = 'clips'::regclass;
-- The trigger function is of no other use.
CREATE TRIGGER wrong AFTER INSERT ON clips FOR EACH ROW EXECUTE FUNCTION esr_embed_row('default');
INSERT INTO clips (id) VALUES (3);
\echo :LAST_ERROR_SQLSTATE
DROP TRIGGER wrong ON clips;
CREATE TRIGGER wrong BEFORE INSERT OR UPDATE OF id, words ON clips FOR EACH ROW EXECUTE FUNCTION esr_embed_row('default');
INSERT INTO clips (id) VALUES (3);
\echo :LAST_ERROR_SQLSTATE

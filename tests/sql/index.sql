-- The index access method esr_ivf: what SQL sees of it, and what it says when something is wrong.
\pset format unaligned
\set VERBOSITY default
CREATE TABLE clips (id int, style esr_vector(3));
INSERT INTO clips VALUES (1, '[1,0,0]'), (2, '[0,1,0]'), (3, '[0,0,1]'), (4, '[1,1,0]'), (5, NULL), (6, '[0,0,0]');
CREATE INDEX clips_style ON clips USING esr_ivf (style);
SET enable_seqscan = off;
SET enable_sort = off;
EXPLAIN (COSTS OFF) SELECT id FROM clips ORDER BY style <=> '[1,0,0]' LIMIT 3;
SELECT id, round((style <=> '[1,0.1,0]')::numeric, 3) AS distance FROM clips ORDER BY style <=> '[1,0.1,0]';
\d clips
SELECT metric, dimension, model_tag, rows, is_trained FROM esr_index_info('clips_style');
SELECT rows, table_rows FROM esr_index_check('clips_style', true);
SELECT measured_recall, queries_measured FROM esr_index_recall('clips_style', 3, 2);
SELECT measured_recall, queries_measured FROM esr_index_recall('clips_style', query_vectors => ARRAY['[1,2,3]', NULL, '[3,2,1]']::esr_vector[]);
-- Other classes
DROP INDEX clips_style;
CREATE INDEX clips_l2 ON clips USING esr_ivf (style esr_vector_l2_ops) WITH (lists = 3);
EXPLAIN (COSTS OFF) SELECT id FROM clips ORDER BY style <-> '[1,0,0]' LIMIT 3;
SELECT id FROM clips ORDER BY style <-> '[0.9,0.2,0]' LIMIT 4;
DROP INDEX clips_l2;
CREATE INDEX clips_ip ON clips USING esr_ivf (style esr_vector_ip_ops);
EXPLAIN (COSTS OFF) SELECT id FROM clips ORDER BY style <#> '[1,0,0]' LIMIT 3;
SELECT id FROM clips ORDER BY style <#> '[1,2,0]' LIMIT 2;
-- Settings
SHOW esr.target_recall;
SET esr.target_recall = 1.5;
SET esr.target_recall = 0.99;
SET esr.probes = -1;
SET esr.probes = 12;
-- What is refused
CREATE INDEX ON clips USING esr_ivf (style) WITH (lists = -1);
CREATE INDEX ON clips USING esr_ivf (style) WITH (list = 1);
CREATE INDEX ON clips USING esr_ivf (style, style);
CREATE UNIQUE INDEX ON clips USING esr_ivf (style);
CREATE INDEX ON clips USING esr_ivf (id);
CREATE TABLE loose (style esr_vector);
CREATE INDEX loose_style ON loose USING esr_ivf (style);
\echo :LAST_ERROR_SQLSTATE
INSERT INTO loose VALUES ('[1,2]');
CREATE INDEX loose_style ON loose USING esr_ivf (style);
INSERT INTO loose VALUES ('[1,2,3]');
\echo :LAST_ERROR_SQLSTATE
INSERT INTO loose VALUES ('[1,2]@00000000000000aa');
INSERT INTO loose VALUES ('[1,2]@00000000000000bb');
\echo :LAST_ERROR_SQLSTATE
SELECT style FROM loose ORDER BY style <=> '[1,2]@00000000000000bb' LIMIT 1;
\echo :LAST_ERROR_SQLSTATE
SELECT style FROM loose ORDER BY style <=> '[1]' LIMIT 1;
\echo :LAST_ERROR_SQLSTATE
SELECT * FROM esr_index_info('clips');
\echo :LAST_ERROR_SQLSTATE
SELECT * FROM esr_index_recall('clips');
\echo :LAST_ERROR_SQLSTATE
SELECT * FROM esr_index_recall('clips_ip', 0);
-- Who may ask
CREATE ROLE index_reader;
GRANT SELECT ON clips TO index_reader;
SET ROLE index_reader;
SELECT metric FROM esr_index_info('clips_ip');
\echo :LAST_ERROR_SQLSTATE
SELECT rows FROM esr_index_check('clips_ip');
\echo :LAST_ERROR_SQLSTATE
SELECT measured_recall FROM esr_index_recall('clips_ip', 2);
RESET ROLE;
REVOKE SELECT ON clips FROM index_reader;
GRANT pg_read_all_stats TO index_reader;
SET ROLE index_reader;
SELECT metric FROM esr_index_info('clips_ip');
SELECT measured_recall FROM esr_index_recall('clips_ip', 2);
SELECT esr_index_probe('clips_ip', '[1,2,3]', 1);
\echo :LAST_ERROR_SQLSTATE
RESET ROLE;
DROP ROLE index_reader;

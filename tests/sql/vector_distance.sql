-- Distances, by operator and by name.
SELECT '[1,0]'::esr_vector <=> '[0,2]' AS orthogonal, '[1,1]'::esr_vector <=> '[2,2]' AS same, '[1,1]'::esr_vector <=> '[-3,-3]' AS opposite;
SELECT '[0,0]'::esr_vector <-> '[3,4]', esr_l2_distance('[0,0]', '[3,4]');
SELECT '[1,2]'::esr_vector <#> '[3,4]', esr_negative_inner_product('[1,2]', '[3,4]'), esr_inner_product('[1,2]', '[3,4]');
SELECT esr_cosine_distance('[1,0]', '[0,1]');
SELECT '[3e38,3e38]'::esr_vector <=> '[3e38,0]' > 0.29 AS no_overflow, '[3e38]'::esr_vector <-> '[-3e38]' > 5e38 AS nor_here;
-- A vector without direction is never the nearest: NaN sorts last.
SELECT '[0,0]'::esr_vector <=> '[1,1]';
CREATE TABLE t (id int, v esr_vector);
INSERT INTO t VALUES (1, '[0,0]'), (2, '[1,0]'), (3, '[1,1]'), (4, '[-1,0]'), (5, NULL);
SELECT id FROM t ORDER BY v <=> '[1,0.1]';
SELECT id FROM t ORDER BY v <-> '[1,0.1]' LIMIT 2;
-- An untagged vector compares with anything; two models do not compare.
SELECT '[1,0]@00000000000000aa'::esr_vector <=> '[1,0]', '[1,0]'::esr_vector <=> '[1,0]@00000000000000aa';
SELECT '[1,0]@00000000000000aa'::esr_vector <=> '[1,0]@00000000000000aa';
SELECT '[1,0]@00000000000000aa'::esr_vector <=> '[1,0]@00000000000000bb';
\echo :LAST_ERROR_SQLSTATE
SELECT '[1,0]@00000000000000aa'::esr_vector <-> '[1,0]@00000000000000bb';
\echo :LAST_ERROR_SQLSTATE
SELECT '[1,0]@00000000000000aa'::esr_vector <#> '[1,0]@00000000000000bb';
\echo :LAST_ERROR_SQLSTATE
SELECT '[1,0]'::esr_vector <=> '[1,0,0]';
\echo :LAST_ERROR_SQLSTATE
-- Values that TOAST has packed, compressed or moved out give the same answers.
CREATE TABLE big (storage text, v esr_vector);
ALTER TABLE big ALTER v SET STORAGE extended;
INSERT INTO big SELECT 'compressed', array_agg(1)::real[]::esr_vector FROM generate_series(1, 8000);
ALTER TABLE big ALTER v SET STORAGE external;
INSERT INTO big SELECT 'out of line', array_agg(i % 2)::real[]::esr_vector FROM generate_series(1, 8000) i;
SELECT storage, pg_column_size(v) < 2000 AS small, v <-> (SELECT v FROM big WHERE storage = 'compressed') AS distance FROM big ORDER BY 1;

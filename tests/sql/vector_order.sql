-- Order, equality, btree, hash.
SELECT '[1,2]'::esr_vector < '[1,3]' AS lt, '[1,2]'::esr_vector <= '[1,2]' AS le, '[1,2]'::esr_vector = '[1,2]' AS eq,
       '[1,2]'::esr_vector <> '[1,2]' AS ne, '[2]'::esr_vector >= '[1,9]' AS ge, '[1,2]'::esr_vector > '[1]' AS gt;
SELECT '[0]'::esr_vector = '[-0]' AS zeros_are_equal, '[1]'::esr_vector = '[1]@00000000000000aa' AS tag_matters;
CREATE TABLE t (v esr_vector);
INSERT INTO t VALUES ('[2]'), ('[1,2]'), (NULL), ('[1]@00000000000000bb'), ('[1]@00000000000000aa'), ('[1]'), ('[-1e30]'), ('[1]');
SELECT v FROM t ORDER BY v;
SELECT v FROM t ORDER BY v DESC NULLS LAST LIMIT 3;
SELECT v, count(*) FROM t GROUP BY v ORDER BY v;
SET enable_hashagg = off;
SELECT count(DISTINCT v) FROM t;
RESET enable_hashagg;
SET enable_sort = off;
SELECT count(*) FROM (SELECT DISTINCT v FROM t) d;
SELECT count(*) FROM (VALUES ('[0]'::esr_vector), ('[-0]')) a(v) JOIN (VALUES ('[0]'::esr_vector)) b(v) USING (v);
RESET enable_sort;
CREATE UNIQUE INDEX ON t (v) WHERE v <> '[1]';
INSERT INTO t VALUES ('[2]');
\echo :LAST_ERROR_SQLSTATE
CREATE INDEX ON t USING hash (v);
SET enable_seqscan = off;
SELECT v FROM t WHERE v = '[1,2]';
CREATE TABLE parted (v esr_vector) PARTITION BY HASH (v);
CREATE TABLE parted_0 PARTITION OF parted FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE parted_1 PARTITION OF parted FOR VALUES WITH (MODULUS 2, REMAINDER 1);
INSERT INTO parted SELECT ARRAY[i]::real[]::esr_vector FROM generate_series(1, 100) i;
SELECT count(*) > 0 FROM parted_0;
SELECT count(*) > 0 FROM parted_1;

-- avg and sum.
SELECT avg(v), sum(v) FROM (VALUES ('[1,2]'::esr_vector), ('[3,4]'), (NULL)) t(v);
SELECT avg(v), sum(v) FROM (VALUES (NULL::esr_vector)) t(v);
SELECT avg(v), sum(v) FROM (SELECT NULL::esr_vector WHERE false) t(v);
SELECT avg(v) FROM (VALUES ('[1]@00000000000000aa'::esr_vector), ('[3]@00000000000000aa')) t(v);
SELECT avg(v) FROM (VALUES ('[1]'::esr_vector), ('[3]@00000000000000aa')) t(v);
SELECT avg(v) AS no_overflow FROM (VALUES ('[3e38]'::esr_vector), ('[3e38]')) t(v);
SELECT g, sum(v) FROM (SELECT i % 3 AS g, ARRAY[i, 1]::real[]::esr_vector AS v FROM generate_series(1, 30) i) t GROUP BY g ORDER BY g;
SELECT i, sum(v) OVER (ORDER BY i ROWS 1 PRECEDING) FROM (SELECT i, ARRAY[i]::real[]::esr_vector AS v FROM generate_series(1, 4) i) t;
-- Errors.
SELECT sum(v) FROM (VALUES ('[3e38]'::esr_vector), ('[3e38]')) t(v);
\echo :LAST_ERROR_SQLSTATE
SELECT avg(v) FROM (VALUES ('[1]'::esr_vector), ('[1,2]')) t(v);
\echo :LAST_ERROR_SQLSTATE
SELECT avg(v) FROM (VALUES ('[1]@00000000000000aa'::esr_vector), ('[1]@00000000000000bb')) t(v);
\echo :LAST_ERROR_SQLSTATE
SELECT esr_vector_avg('\x01');
\echo :LAST_ERROR_SQLSTATE
-- The same in parallel, where partial sums travel between processes; with few elements they travel packed.
CREATE TABLE t AS SELECT i, ARRAY[i, 1]::real[]::esr_vector AS v FROM generate_series(1, 20000) i;
ANALYZE t;
SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0; SET max_parallel_workers_per_gather = 2;
EXPLAIN (COSTS off) SELECT sum(v) FROM t;
SELECT sum(v), avg(v) FROM t;
SELECT i % 2 AS odd, avg(v) FROM t GROUP BY 1 ORDER BY 1;

-- Casts to and from arrays.
\set SHOW_CONTEXT never
SELECT ARRAY[1,2.5]::real[]::esr_vector;
SELECT ARRAY[1,2.5]::double precision[]::esr_vector;
SELECT ARRAY[1,2.5]::real[]::esr_vector(2);
SELECT '[1,2.5]@0123456789abcdef'::esr_vector::real[];
SELECT '[1,2.5]@0123456789abcdef'::esr_vector::double precision[];
SELECT '{0.1}'::double precision[]::esr_vector::double precision[];
CREATE TABLE t (v esr_vector(2), r real[]);
INSERT INTO t VALUES (ARRAY[1,2]::real[], '[3,4]'::esr_vector);
SELECT * FROM t;
SELECT '[5e-1]'::esr_vector::esr_vector(1);
-- Errors.
SELECT '{}'::real[]::esr_vector;
\echo :LAST_ERROR_SQLSTATE
SELECT ARRAY[1,NULL,3]::real[]::esr_vector;
\echo :LAST_ERROR_SQLSTATE
SELECT '{{1,2},{3,4}}'::real[]::esr_vector;
\echo :LAST_ERROR_SQLSTATE
SELECT '{1,NaN}'::real[]::esr_vector;
\echo :LAST_ERROR_SQLSTATE
SELECT '{-Infinity}'::double precision[]::esr_vector;
\echo :LAST_ERROR_SQLSTATE
SELECT '{1,1e39}'::double precision[]::esr_vector;
\echo :LAST_ERROR_SQLSTATE
SELECT ARRAY[1,2]::real[]::esr_vector(3);
\echo :LAST_ERROR_SQLSTATE
SELECT array_agg(1.0)::real[]::esr_vector FROM generate_series(1, 16001);
\echo :LAST_ERROR_SQLSTATE
SELECT esr_enable_pgvector_casts();
\echo :LAST_ERROR_SQLSTATE

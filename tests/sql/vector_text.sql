-- Text form: what is read, what is printed, what is refused.
SELECT '[1,2,3]'::esr_vector;
SELECT ' [ 1 , 2.50 ,-3e-7 ] '::esr_vector;
SELECT '[0.1,-0,1e20,1e-20,16777216,3.4028235e38]'::esr_vector;
SELECT '[1,2]@0123456789ABCDEF'::esr_vector;
SELECT '[1,2]@0000000000000000'::esr_vector;
SELECT '[1,2,3]'::esr_vector(3);
SELECT esr_dims(('[' || repeat('1,', 15999) || '1]')::esr_vector);
-- Each of these is an error.
SELECT '[1,2,3]'::esr_vector(2);
\echo :LAST_ERROR_SQLSTATE
SELECT ''::esr_vector;
\echo :LAST_ERROR_SQLSTATE
SELECT '[]'::esr_vector;
\echo :LAST_ERROR_SQLSTATE
SELECT '[1,2'::esr_vector;
\echo :LAST_ERROR_SQLSTATE
SELECT '[1,,2]'::esr_vector;
\echo :LAST_ERROR_SQLSTATE
SELECT '[1,2]]'::esr_vector;
\echo :LAST_ERROR_SQLSTATE
SELECT '[1,two]'::esr_vector;
\echo :LAST_ERROR_SQLSTATE
SELECT '[1]@12'::esr_vector;
\echo :LAST_ERROR_SQLSTATE
SELECT '[1,NaN]'::esr_vector;
\echo :LAST_ERROR_SQLSTATE
SELECT '[Infinity]'::esr_vector;
\echo :LAST_ERROR_SQLSTATE
SELECT '[1,2,4e38]'::esr_vector;
\echo :LAST_ERROR_SQLSTATE
SELECT ('[' || repeat('1,', 16000) || '1]')::esr_vector;
\echo :LAST_ERROR_SQLSTATE
-- Type modifiers.
CREATE TABLE bad (v esr_vector(0));
\echo :LAST_ERROR_SQLSTATE
CREATE TABLE bad (v esr_vector(16001));
\echo :LAST_ERROR_SQLSTATE
CREATE TABLE bad (v esr_vector(1, 2));
\echo :LAST_ERROR_SQLSTATE
CREATE TABLE fits (v esr_vector(2));
INSERT INTO fits VALUES ('[1,2]');
INSERT INTO fits VALUES ('[1,2,3]');
\echo :LAST_ERROR_SQLSTATE
INSERT INTO fits VALUES ('[1]'::esr_vector);
\echo :LAST_ERROR_SQLSTATE
SELECT * FROM fits;
SELECT format_type(atttypid, atttypmod), attstorage FROM pg_attribute WHERE attrelid = 'fits'::regclass AND attname = 'v';

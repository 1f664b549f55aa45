-- Element-wise arithmetic keeps the model tag.
SELECT '[1,2,3]'::esr_vector + '[4,5,6]';
SELECT '[1,2,3]'::esr_vector - '[4,5,6]';
SELECT '[1,2,3]'::esr_vector * '[4,5,6]';
SELECT '[1,2,3]'::esr_vector * 2;
SELECT 0.5 * '[1,2,3]@00000000000000aa'::esr_vector;
SELECT '[1,2]@00000000000000aa'::esr_vector + '[1,1]';
SELECT '[1,1]'::esr_vector - '[1,2]@00000000000000aa';
SELECT esr_norm('[3,4]'), esr_norm('{3,4}'::real[]::esr_vector);
SELECT esr_norm('[3e38,3e38]');
SELECT esr_normalize('[3,4]@00000000000000aa'), esr_normalize('[0,0]'), esr_normalize('[1e-40,0]');
SELECT esr_dims('[1,2,3]'), esr_model_tag('[1]@00000000000000aa'), esr_model_tag('[1]') IS NULL;
-- Errors.
SELECT '[1,2]'::esr_vector + '[1,2,3]';
\echo :LAST_ERROR_SQLSTATE
SELECT '[1]@00000000000000aa'::esr_vector + '[1]@00000000000000bb';
\echo :LAST_ERROR_SQLSTATE
SELECT '[3e38]'::esr_vector + '[3e38]';
\echo :LAST_ERROR_SQLSTATE
SELECT '[1,3e38]'::esr_vector * 2;
\echo :LAST_ERROR_SQLSTATE
SELECT '[1]'::esr_vector * 'NaN'::float8;
\echo :LAST_ERROR_SQLSTATE

-- Find speech by how it was said.
--
-- Everything that CREATE EXTENSION esr makes, in reading order: the vector type, its casts, arithmetic, distances, order
-- and aggregates, the embedding functions, triggers, and views. Each public object carries a COMMENT; \dx+ esr lists
-- them and \df+ shows the comments.

\echo Use "CREATE EXTENSION esr" to load this file. \quit

-- =====================================================================================================================
-- The type
-- =====================================================================================================================

CREATE TYPE esr_vector;

CREATE FUNCTION esr_vector_in(cstring, oid, integer) RETURNS esr_vector
    AS 'MODULE_PATHNAME' LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE;
CREATE FUNCTION esr_vector_out(esr_vector) RETURNS cstring
    AS 'MODULE_PATHNAME' LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE;
CREATE FUNCTION esr_vector_recv(internal, oid, integer) RETURNS esr_vector
    AS 'MODULE_PATHNAME' LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE;
CREATE FUNCTION esr_vector_send(esr_vector) RETURNS bytea
    AS 'MODULE_PATHNAME' LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE;
CREATE FUNCTION esr_vector_typmod_in(cstring[]) RETURNS integer
    AS 'MODULE_PATHNAME' LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE;

-- STORAGE main keeps an embedding in its row: a scan that computes distances then reads pages in order instead of one
-- out-of-line value after the other.
CREATE TYPE esr_vector (
    INPUT = esr_vector_in,
    OUTPUT = esr_vector_out,
    RECEIVE = esr_vector_recv,
    SEND = esr_vector_send,
    TYPMOD_IN = esr_vector_typmod_in,
    ALIGNMENT = int4,
    STORAGE = main
);
COMMENT ON TYPE esr_vector IS
    'vector of 1 to 16,000 real numbers with the tag of the model that made it; esr_vector(512) fixes the dimension; text form [1,2,3] or [1,2,3]@0123456789abcdef (16 hexadecimal digits of model tag)';

-- =====================================================================================================================
-- Casts
-- =====================================================================================================================

CREATE FUNCTION esr_vector(esr_vector, integer, boolean) RETURNS esr_vector
    AS 'MODULE_PATHNAME', 'esr_vector_resize' LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION esr_vector(esr_vector, integer, boolean) IS 'check that a vector has the declared number of dimensions';
CREATE CAST (esr_vector AS esr_vector) WITH FUNCTION esr_vector(esr_vector, integer, boolean) AS IMPLICIT;

CREATE FUNCTION esr_vector(real[], integer, boolean) RETURNS esr_vector
    AS 'MODULE_PATHNAME', 'esr_real_array_to_vector' LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION esr_vector(real[], integer, boolean) IS 'untagged vector with these elements';
CREATE CAST (real[] AS esr_vector) WITH FUNCTION esr_vector(real[], integer, boolean) AS ASSIGNMENT;

CREATE FUNCTION esr_vector(double precision[], integer, boolean) RETURNS esr_vector
    AS 'MODULE_PATHNAME', 'esr_double_array_to_vector' LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION esr_vector(double precision[], integer, boolean) IS
    'untagged vector with these elements, rounded to real';
CREATE CAST (double precision[] AS esr_vector)
    WITH FUNCTION esr_vector(double precision[], integer, boolean) AS ASSIGNMENT;

CREATE FUNCTION esr_to_real_array(esr_vector) RETURNS real[]
    AS 'MODULE_PATHNAME', 'esr_vector_to_real_array' LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION esr_to_real_array(esr_vector) IS 'elements of a vector, without its model tag';
CREATE CAST (esr_vector AS real[]) WITH FUNCTION esr_to_real_array(esr_vector) AS ASSIGNMENT;

CREATE FUNCTION esr_to_double_array(esr_vector) RETURNS double precision[]
    AS 'MODULE_PATHNAME', 'esr_vector_to_double_array' LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION esr_to_double_array(esr_vector) IS 'elements of a vector, without its model tag';
CREATE CAST (esr_vector AS double precision[]) WITH FUNCTION esr_to_double_array(esr_vector) AS ASSIGNMENT;

-- pgvector's type may be installed before esr, after it or never, so these casts are made on request. They belong to the
-- database, not to the extension, so that pg_dump saves them.
CREATE FUNCTION esr_enable_pgvector_casts() RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    ours text;
    theirs text;
BEGIN
    SELECT format('%I', n.nspname) INTO ours
        FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'esr';
    SELECT format('%I', n.nspname) INTO theirs
        FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'vector';
    IF theirs IS NULL THEN
        RAISE EXCEPTION 'extension "vector" is not installed in this database'
            USING ERRCODE = 'undefined_object', HINT = 'Run CREATE EXTENSION vector first.';
    END IF;
    IF EXISTS (SELECT FROM pg_cast
               WHERE castsource = format('%s.vector', theirs)::regtype
                 AND casttarget = format('%s.esr_vector', ours)::regtype) THEN
        RETURN;
    END IF;
    EXECUTE format(
        'CREATE FUNCTION %1$s.esr_from_pgvector(%2$s.vector, integer, boolean) RETURNS %1$s.esr_vector '
        'LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE '
        'AS $f$ SELECT %1$s.esr_vector(%2$s.vector_to_float4($1, -1, false), $2, $3) $f$', ours, theirs);
    EXECUTE format(
        'CREATE FUNCTION %1$s.esr_to_pgvector(%1$s.esr_vector, integer, boolean) RETURNS %2$s.vector '
        'LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE '
        'AS $f$ SELECT %2$s.array_to_vector(%1$s.esr_to_real_array($1), $2, $3) $f$', ours, theirs);
    EXECUTE format(
        'CREATE CAST (%2$s.vector AS %1$s.esr_vector) '
        'WITH FUNCTION %1$s.esr_from_pgvector(%2$s.vector, integer, boolean) AS ASSIGNMENT', ours, theirs);
    EXECUTE format(
        'CREATE CAST (%1$s.esr_vector AS %2$s.vector) '
        'WITH FUNCTION %1$s.esr_to_pgvector(%1$s.esr_vector, integer, boolean) AS ASSIGNMENT', ours, theirs);
END
$$;
COMMENT ON FUNCTION esr_enable_pgvector_casts() IS
    'create the casts between esr_vector and the type "vector" of the extension pgvector; may be called again';

-- =====================================================================================================================
-- Arithmetic
-- =====================================================================================================================
-- The result carries the model tag of its arguments; an untagged argument takes part in anything; two different tags are
-- an error (22023). An element that leaves the range of real is an error (22003).

CREATE FUNCTION esr_vector_add(esr_vector, esr_vector) RETURNS esr_vector
    AS 'MODULE_PATHNAME' LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION esr_vector_add(esr_vector, esr_vector) IS 'implementation of + operator';
CREATE OPERATOR + (LEFTARG = esr_vector, RIGHTARG = esr_vector, FUNCTION = esr_vector_add, COMMUTATOR = +);
COMMENT ON OPERATOR + (esr_vector, esr_vector) IS 'add element by element';

CREATE FUNCTION esr_vector_subtract(esr_vector, esr_vector) RETURNS esr_vector
    AS 'MODULE_PATHNAME' LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION esr_vector_subtract(esr_vector, esr_vector) IS 'implementation of - operator';
CREATE OPERATOR - (LEFTARG = esr_vector, RIGHTARG = esr_vector, FUNCTION = esr_vector_subtract);
COMMENT ON OPERATOR - (esr_vector, esr_vector) IS 'subtract element by element';

CREATE FUNCTION esr_vector_multiply(esr_vector, esr_vector) RETURNS esr_vector
    AS 'MODULE_PATHNAME' LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION esr_vector_multiply(esr_vector, esr_vector) IS 'implementation of * operator';
CREATE OPERATOR * (LEFTARG = esr_vector, RIGHTARG = esr_vector, FUNCTION = esr_vector_multiply, COMMUTATOR = *);
COMMENT ON OPERATOR * (esr_vector, esr_vector) IS 'multiply element by element';

CREATE FUNCTION esr_vector_scale(esr_vector, double precision) RETURNS esr_vector
    AS 'MODULE_PATHNAME' LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION esr_vector_scale(esr_vector, double precision) IS 'implementation of * operator';
CREATE FUNCTION esr_vector_scale(double precision, esr_vector) RETURNS esr_vector
    AS 'MODULE_PATHNAME', 'esr_vector_scale_commuted' LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION esr_vector_scale(double precision, esr_vector) IS 'implementation of * operator';
CREATE OPERATOR * (LEFTARG = esr_vector, RIGHTARG = double precision, FUNCTION = esr_vector_scale, COMMUTATOR = *);
COMMENT ON OPERATOR * (esr_vector, double precision) IS 'multiply every element by a number';
CREATE OPERATOR * (LEFTARG = double precision, RIGHTARG = esr_vector, FUNCTION = esr_vector_scale, COMMUTATOR = *);
COMMENT ON OPERATOR * (double precision, esr_vector) IS 'multiply every element by a number';

CREATE FUNCTION esr_norm(esr_vector) RETURNS double precision
    AS 'MODULE_PATHNAME' LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION esr_norm(esr_vector) IS 'Euclidean length';

CREATE FUNCTION esr_normalize(esr_vector) RETURNS esr_vector
    AS 'MODULE_PATHNAME' LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION esr_normalize(esr_vector) IS 'same direction with length 1; the zero vector stays as it is';

CREATE FUNCTION esr_dims(esr_vector) RETURNS integer
    AS 'MODULE_PATHNAME' LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION esr_dims(esr_vector) IS 'number of elements';

CREATE FUNCTION esr_model_tag(esr_vector) RETURNS text
    AS 'MODULE_PATHNAME' LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION esr_model_tag(esr_vector) IS
    'tag of the model that made the vector, 16 hexadecimal digits; NULL if no model did, as after a cast from an array';

-- =====================================================================================================================
-- Distances
-- =====================================================================================================================
-- Comparing embeddings of two different models is an error (22023) that names both tags; an untagged vector compares with
-- anything. The cosine distance to a zero vector is NaN, which sorts after every number.

CREATE FUNCTION esr_cosine_distance(esr_vector, esr_vector) RETURNS double precision
    AS 'MODULE_PATHNAME' LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION esr_cosine_distance(esr_vector, esr_vector) IS 'cosine distance, 0 to 2; NaN if either vector is zero';
CREATE OPERATOR <=> (LEFTARG = esr_vector, RIGHTARG = esr_vector, FUNCTION = esr_cosine_distance, COMMUTATOR = <=>);
COMMENT ON OPERATOR <=> (esr_vector, esr_vector) IS 'cosine distance';

CREATE FUNCTION esr_l2_distance(esr_vector, esr_vector) RETURNS double precision
    AS 'MODULE_PATHNAME' LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION esr_l2_distance(esr_vector, esr_vector) IS 'Euclidean distance';
CREATE OPERATOR <-> (LEFTARG = esr_vector, RIGHTARG = esr_vector, FUNCTION = esr_l2_distance, COMMUTATOR = <->);
COMMENT ON OPERATOR <-> (esr_vector, esr_vector) IS 'Euclidean distance';

CREATE FUNCTION esr_negative_inner_product(esr_vector, esr_vector) RETURNS double precision
    AS 'MODULE_PATHNAME' LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION esr_negative_inner_product(esr_vector, esr_vector) IS 'negative inner product, so that nearer is smaller';
CREATE OPERATOR <#> (LEFTARG = esr_vector, RIGHTARG = esr_vector, FUNCTION = esr_negative_inner_product, COMMUTATOR = <#>);
COMMENT ON OPERATOR <#> (esr_vector, esr_vector) IS 'negative inner product';

CREATE FUNCTION esr_inner_product(esr_vector, esr_vector) RETURNS double precision
    AS 'MODULE_PATHNAME' LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION esr_inner_product(esr_vector, esr_vector) IS 'inner product';

-- =====================================================================================================================
-- Order and equality
-- =====================================================================================================================
-- Element by element, then the shorter one, then the model tag: vectors of two models are different values, not an error.

CREATE FUNCTION esr_vector_lt(esr_vector, esr_vector) RETURNS boolean
    AS 'MODULE_PATHNAME' LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE;
CREATE FUNCTION esr_vector_le(esr_vector, esr_vector) RETURNS boolean
    AS 'MODULE_PATHNAME' LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE;
CREATE FUNCTION esr_vector_eq(esr_vector, esr_vector) RETURNS boolean
    AS 'MODULE_PATHNAME' LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE;
CREATE FUNCTION esr_vector_ne(esr_vector, esr_vector) RETURNS boolean
    AS 'MODULE_PATHNAME' LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE;
CREATE FUNCTION esr_vector_ge(esr_vector, esr_vector) RETURNS boolean
    AS 'MODULE_PATHNAME' LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE;
CREATE FUNCTION esr_vector_gt(esr_vector, esr_vector) RETURNS boolean
    AS 'MODULE_PATHNAME' LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE;
CREATE FUNCTION esr_vector_cmp(esr_vector, esr_vector) RETURNS integer
    AS 'MODULE_PATHNAME' LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE;
CREATE FUNCTION esr_vector_hash(esr_vector) RETURNS integer
    AS 'MODULE_PATHNAME' LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE;
CREATE FUNCTION esr_vector_hash_extended(esr_vector, bigint) RETURNS bigint
    AS 'MODULE_PATHNAME' LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION esr_vector_lt(esr_vector, esr_vector) IS 'implementation of < operator';
COMMENT ON FUNCTION esr_vector_le(esr_vector, esr_vector) IS 'implementation of <= operator';
COMMENT ON FUNCTION esr_vector_eq(esr_vector, esr_vector) IS 'implementation of = operator';
COMMENT ON FUNCTION esr_vector_ne(esr_vector, esr_vector) IS 'implementation of <> operator';
COMMENT ON FUNCTION esr_vector_ge(esr_vector, esr_vector) IS 'implementation of >= operator';
COMMENT ON FUNCTION esr_vector_gt(esr_vector, esr_vector) IS 'implementation of > operator';

CREATE OPERATOR < (LEFTARG = esr_vector, RIGHTARG = esr_vector, FUNCTION = esr_vector_lt,
    COMMUTATOR = >, NEGATOR = >=, RESTRICT = scalarltsel, JOIN = scalarltjoinsel);
CREATE OPERATOR <= (LEFTARG = esr_vector, RIGHTARG = esr_vector, FUNCTION = esr_vector_le,
    COMMUTATOR = >=, NEGATOR = >, RESTRICT = scalarlesel, JOIN = scalarlejoinsel);
CREATE OPERATOR = (LEFTARG = esr_vector, RIGHTARG = esr_vector, FUNCTION = esr_vector_eq,
    COMMUTATOR = =, NEGATOR = <>, RESTRICT = eqsel, JOIN = eqjoinsel, HASHES, MERGES);
CREATE OPERATOR <> (LEFTARG = esr_vector, RIGHTARG = esr_vector, FUNCTION = esr_vector_ne,
    COMMUTATOR = <>, NEGATOR = =, RESTRICT = neqsel, JOIN = neqjoinsel);
CREATE OPERATOR >= (LEFTARG = esr_vector, RIGHTARG = esr_vector, FUNCTION = esr_vector_ge,
    COMMUTATOR = <=, NEGATOR = <, RESTRICT = scalargesel, JOIN = scalargejoinsel);
CREATE OPERATOR > (LEFTARG = esr_vector, RIGHTARG = esr_vector, FUNCTION = esr_vector_gt,
    COMMUTATOR = <, NEGATOR = <=, RESTRICT = scalargtsel, JOIN = scalargtjoinsel);
COMMENT ON OPERATOR < (esr_vector, esr_vector) IS 'less than, element by element';
COMMENT ON OPERATOR <= (esr_vector, esr_vector) IS 'less than or equal, element by element';
COMMENT ON OPERATOR = (esr_vector, esr_vector) IS 'same elements and same model tag';
COMMENT ON OPERATOR <> (esr_vector, esr_vector) IS 'different elements or different model tags';
COMMENT ON OPERATOR >= (esr_vector, esr_vector) IS 'greater than or equal, element by element';
COMMENT ON OPERATOR > (esr_vector, esr_vector) IS 'greater than, element by element';

CREATE OPERATOR CLASS esr_vector_ops DEFAULT FOR TYPE esr_vector USING btree AS
    OPERATOR 1 <, OPERATOR 2 <=, OPERATOR 3 =, OPERATOR 4 >=, OPERATOR 5 >,
    FUNCTION 1 esr_vector_cmp(esr_vector, esr_vector);
COMMENT ON OPERATOR CLASS esr_vector_ops USING btree IS 'order of esr_vector values; for sorting, DISTINCT and unique keys';

CREATE OPERATOR CLASS esr_vector_hash_ops DEFAULT FOR TYPE esr_vector USING hash AS
    OPERATOR 1 =,
    FUNCTION 1 esr_vector_hash(esr_vector),
    FUNCTION 2 esr_vector_hash_extended(esr_vector, bigint);
COMMENT ON OPERATOR CLASS esr_vector_hash_ops USING hash IS 'equality of esr_vector values; for hash joins and grouping';

-- =====================================================================================================================
-- Aggregates
-- =====================================================================================================================

CREATE FUNCTION esr_vector_accumulate(bytea, esr_vector) RETURNS bytea
    AS 'MODULE_PATHNAME' LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE;
CREATE FUNCTION esr_vector_combine(bytea, bytea) RETURNS bytea
    AS 'MODULE_PATHNAME' LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE;
CREATE FUNCTION esr_vector_avg(bytea) RETURNS esr_vector
    AS 'MODULE_PATHNAME' LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE;
CREATE FUNCTION esr_vector_sum(bytea) RETURNS esr_vector
    AS 'MODULE_PATHNAME' LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE;

CREATE AGGREGATE avg(esr_vector) (
    SFUNC = esr_vector_accumulate, STYPE = bytea, INITCOND = '',
    COMBINEFUNC = esr_vector_combine, FINALFUNC = esr_vector_avg, PARALLEL = safe
);
COMMENT ON AGGREGATE avg(esr_vector) IS 'average of vectors of one model, summed in double precision; NULLs are skipped';

CREATE AGGREGATE sum(esr_vector) (
    SFUNC = esr_vector_accumulate, STYPE = bytea, INITCOND = '',
    COMBINEFUNC = esr_vector_combine, FINALFUNC = esr_vector_sum, PARALLEL = safe
);
COMMENT ON AGGREGATE sum(esr_vector) IS 'sum of vectors of one model, in double precision; NULLs are skipped';

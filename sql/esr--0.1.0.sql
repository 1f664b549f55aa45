-- Find speech by how it was said.
--
-- Everything that CREATE EXTENSION esr makes, in reading order: the vector type, its casts, arithmetic, distances, order
-- and aggregates, the index, the embedding functions, triggers, and views. Each public object carries a COMMENT; \dx+ esr
-- lists them and \df+ shows the comments.

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
COMMENT ON FUNCTION esr_vector_in(cstring, oid, integer) IS 'text to esr_vector';
COMMENT ON FUNCTION esr_vector_out(esr_vector) IS 'esr_vector to text';
COMMENT ON FUNCTION esr_vector_recv(internal, oid, integer) IS
    'binary form to esr_vector: dimensions, kind (0 untagged, 1 tagged), 8 bytes of tag if tagged, elements; all big-endian';
COMMENT ON FUNCTION esr_vector_send(esr_vector) IS 'esr_vector to binary form';
COMMENT ON FUNCTION esr_vector_typmod_in(cstring[]) IS 'the n of esr_vector(n)';

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
COMMENT ON FUNCTION esr_vector(esr_vector, integer, boolean) IS
    'check that a vector has the declared number of dimensions';
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
    ours text := '@extschema@';
    theirs text;
BEGIN
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
    -- By way of real[], which both types can be cast to and from, so that nothing depends on how pgvector stores a value.
    EXECUTE format(
        'CREATE FUNCTION %1$s.esr_from_pgvector(%2$s.vector) RETURNS %1$s.esr_vector '
        'LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE RETURN ($1::real[])::%1$s.esr_vector', ours, theirs);
    EXECUTE format(
        'CREATE FUNCTION %1$s.esr_to_pgvector(%1$s.esr_vector) RETURNS %2$s.vector '
        'LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE RETURN ($1::real[])::%2$s.vector', ours, theirs);
    EXECUTE format(
        'CREATE CAST (%2$s.vector AS %1$s.esr_vector) '
        'WITH FUNCTION %1$s.esr_from_pgvector(%2$s.vector) AS ASSIGNMENT', ours, theirs);
    EXECUTE format(
        'CREATE CAST (%1$s.esr_vector AS %2$s.vector) '
        'WITH FUNCTION %1$s.esr_to_pgvector(%1$s.esr_vector) AS ASSIGNMENT', ours, theirs);
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

CREATE FUNCTION esr_distance_support(internal) RETURNS internal
    AS 'MODULE_PATHNAME' LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION esr_distance_support(internal) IS
    'planner support of the distances: makes PostgreSQL load the library, and with it the plan node "Esr Exact Scan", before it plans a session''s first query';

CREATE FUNCTION esr_cosine_distance(esr_vector, esr_vector) RETURNS double precision
    AS 'MODULE_PATHNAME' LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE SUPPORT esr_distance_support;
COMMENT ON FUNCTION esr_cosine_distance(esr_vector, esr_vector) IS 'cosine distance, 0 to 2; NaN if either vector is zero';
CREATE OPERATOR <=> (LEFTARG = esr_vector, RIGHTARG = esr_vector, FUNCTION = esr_cosine_distance, COMMUTATOR = <=>);
COMMENT ON OPERATOR <=> (esr_vector, esr_vector) IS 'cosine distance';

CREATE FUNCTION esr_l2_distance(esr_vector, esr_vector) RETURNS double precision
    AS 'MODULE_PATHNAME' LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE SUPPORT esr_distance_support;
COMMENT ON FUNCTION esr_l2_distance(esr_vector, esr_vector) IS 'Euclidean distance';
CREATE OPERATOR <-> (LEFTARG = esr_vector, RIGHTARG = esr_vector, FUNCTION = esr_l2_distance, COMMUTATOR = <->);
COMMENT ON OPERATOR <-> (esr_vector, esr_vector) IS 'Euclidean distance';

CREATE FUNCTION esr_negative_inner_product(esr_vector, esr_vector) RETURNS double precision
    AS 'MODULE_PATHNAME' LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE SUPPORT esr_distance_support;
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
COMMENT ON FUNCTION esr_vector_cmp(esr_vector, esr_vector) IS 'less than 0, 0, or more than 0, as btree wants it';
COMMENT ON FUNCTION esr_vector_hash(esr_vector) IS 'hash that agrees with =';
COMMENT ON FUNCTION esr_vector_hash_extended(esr_vector, bigint) IS 'hash that agrees with =, with a seed';
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

COMMENT ON FUNCTION esr_vector_accumulate(bytea, esr_vector) IS 'adds a vector to the state of avg and sum';
COMMENT ON FUNCTION esr_vector_combine(bytea, bytea) IS 'adds up two states of avg and sum, from parallel workers';
COMMENT ON FUNCTION esr_vector_avg(bytea) IS 'result of avg';
COMMENT ON FUNCTION esr_vector_sum(bytea) IS 'result of sum';

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

-- =====================================================================================================================
-- The index
-- =====================================================================================================================
-- CREATE INDEX ON clips USING esr_ivf (style esr_vector_cosine_ops); then ORDER BY style <=> query LIMIT k uses it. One
-- column, one distance, one model. NULLs and vectors without a distance are in it too: they come last, as they do without it.
--
-- Errors: XX002 damaged index (REINDEX), 22000 wrong number of dimensions, 22023 embeddings of two models, 55000 number of
-- dimensions not known; 42501 and 42809 from the functions below.

CREATE FUNCTION esr_ivf_handler(internal) RETURNS index_am_handler
    AS 'MODULE_PATHNAME' LANGUAGE c;
COMMENT ON FUNCTION esr_ivf_handler(internal) IS 'callbacks of index access method esr_ivf';

CREATE ACCESS METHOD esr_ivf TYPE INDEX HANDLER esr_ivf_handler;
COMMENT ON ACCESS METHOD esr_ivf IS
    'approximate nearest neighbours of esr_vector, at the recall that esr.target_recall declares';

-- The strategy number names the distance: 1 cosine, 2 Euclidean, 3 negative inner product.
CREATE OPERATOR CLASS esr_vector_cosine_ops DEFAULT FOR TYPE esr_vector USING esr_ivf AS
    OPERATOR 1 <=> (esr_vector, esr_vector) FOR ORDER BY float_ops;
CREATE OPERATOR CLASS esr_vector_l2_ops FOR TYPE esr_vector USING esr_ivf AS
    OPERATOR 2 <-> (esr_vector, esr_vector) FOR ORDER BY float_ops;
CREATE OPERATOR CLASS esr_vector_ip_ops FOR TYPE esr_vector USING esr_ivf AS
    OPERATOR 3 <#> (esr_vector, esr_vector) FOR ORDER BY float_ops;
COMMENT ON OPERATOR CLASS esr_vector_cosine_ops USING esr_ivf IS 'ORDER BY column <=> query';
COMMENT ON OPERATOR CLASS esr_vector_l2_ops USING esr_ivf IS 'ORDER BY column <-> query';
COMMENT ON OPERATOR CLASS esr_vector_ip_ops USING esr_ivf IS 'ORDER BY column <#> query';
COMMENT ON OPERATOR FAMILY esr_vector_cosine_ops USING esr_ivf IS 'cosine distance of esr_vector';
COMMENT ON OPERATOR FAMILY esr_vector_l2_ops USING esr_ivf IS 'Euclidean distance of esr_vector';
COMMENT ON OPERATOR FAMILY esr_vector_ip_ops USING esr_ivf IS 'negative inner product of esr_vector';

CREATE FUNCTION esr_index_summary(regclass) RETURNS json
    AS 'MODULE_PATHNAME' LANGUAGE c VOLATILE STRICT PARALLEL RESTRICTED;
COMMENT ON FUNCTION esr_index_summary(regclass) IS 'what esr_index_info shows, as JSON';

CREATE FUNCTION esr_index_info(
    index regclass, OUT metric text, OUT dimension integer, OUT model_tag text, OUT rows bigint, OUT lists integer,
    OUT largest_list bigint, OUT imbalance double precision, OUT is_trained boolean, OUT directions integer,
    OUT code_bytes integer, OUT target_recall double precision, OUT expected_lists double precision,
    OUT memory_bytes bigint, OUT disk_bytes bigint
) RETURNS record
    LANGUAGE sql VOLATILE STRICT PARALLEL RESTRICTED
BEGIN ATOMIC
    SELECT s.metric, s.dimension, s.model_tag, s.rows, s.lists, s.largest_list, s.imbalance, s.is_trained, s.directions,
           s.code_bytes, s.target_recall, s.expected_lists, s.memory_bytes, s.disk_bytes
    FROM json_to_record(esr_index_summary(index)) AS s(
        metric text, dimension integer, model_tag text, rows bigint, lists integer, largest_list bigint,
        imbalance double precision, is_trained boolean, directions integer, code_bytes integer,
        target_recall double precision, expected_lists double precision, memory_bytes bigint, disk_bytes bigint);
END;
COMMENT ON FUNCTION esr_index_info(regclass) IS
    'one row about an index: rows when it was built or last vacuumed, lists, the longest of them, imbalance (1: all equally long), whether codes were learned from rows, directions kept, bytes of a code, lists that a query for ten rows is expected to read at esr.target_recall, memory in each session, bytes on disk; for the owner and pg_read_all_stats';

CREATE FUNCTION esr_index_probe(regclass, esr_vector, integer) RETURNS json
    AS 'MODULE_PATHNAME' LANGUAGE c VOLATILE STRICT PARALLEL RESTRICTED;
COMMENT ON FUNCTION esr_index_probe(regclass, esr_vector, integer) IS
    'distances of the first rows that a scan of an index finds in this session, whatever the planner would do, and how much it read; for whoever may read the whole table';

CREATE FUNCTION esr_index_measure(regclass, integer, integer, bigint, esr_vector[]) RETURNS json
    AS 'MODULE_PATHNAME' LANGUAGE c VOLATILE PARALLEL RESTRICTED;
COMMENT ON FUNCTION esr_index_measure(regclass, integer, integer, bigint, esr_vector[]) IS
    'what esr_index_recall shows, as JSON';

CREATE FUNCTION esr_index_recall(
    index regclass, queries integer DEFAULT 100, k integer DEFAULT 10, seed bigint DEFAULT 0,
    query_vectors esr_vector[] DEFAULT NULL,
    OUT target_recall double precision, OUT measured_recall double precision, OUT worst_recall double precision,
    OUT queries_measured integer, OUT mean_lists double precision, OUT mean_rows_measured double precision
) RETURNS record
    LANGUAGE sql VOLATILE PARALLEL RESTRICTED
BEGIN ATOMIC
    SELECT s.target_recall, s.measured_recall, s.worst_recall, s.queries_measured, s.mean_lists, s.mean_rows_measured
    FROM json_to_record(esr_index_measure(index, queries, k, seed, query_vectors)) AS s(
        target_recall double precision, measured_recall double precision, worst_recall double precision,
        queries_measured integer, mean_lists double precision, mean_rows_measured double precision);
END;
COMMENT ON FUNCTION esr_index_recall(regclass, integer, integer, bigint, esr_vector[]) IS
    'recall of an index against an exact scan, at this session''s esr.target_recall and esr.probes: mean and worst over some of its rows, or over the given vectors, as queries for k rows; also lists and rows of the table that a query read; for whoever may read the whole table';

CREATE FUNCTION esr_index_verify(regclass, boolean) RETURNS json
    AS 'MODULE_PATHNAME' LANGUAGE c VOLATILE STRICT PARALLEL RESTRICTED;
COMMENT ON FUNCTION esr_index_verify(regclass, boolean) IS 'what esr_index_check does, with its result as JSON';

CREATE FUNCTION esr_index_check(
    index regclass, heapallindexed boolean DEFAULT false, OUT rows bigint, OUT lists integer, OUT pages integer,
    OUT free_pages integer, OUT lost_pages integer, OUT table_rows bigint
) RETURNS record
    LANGUAGE sql VOLATILE STRICT PARALLEL RESTRICTED
BEGIN ATOMIC
    SELECT s.rows, s.lists, s.pages, s.free_pages, s.lost_pages, s.table_rows
    FROM json_to_record(esr_index_verify(index, heapallindexed)) AS s(
        rows bigint, lists integer, pages integer, free_pages integer, lost_pages integer, table_rows bigint);
END;
COMMENT ON FUNCTION esr_index_check(regclass, boolean) IS
    'verify every page of an index, and with heapallindexed that each row of the table is in it; an error (XX002) says what is wrong; writers wait meanwhile; for the owner';

-- =====================================================================================================================
-- Embedding
-- =====================================================================================================================
-- STABLE, because a model may be replaced between two statements. COST is in units of about one comparison. A plain scan
-- calls esr_embed_text for every row, but only the first call asks the model and the others find its answer remembered:
-- 100 is what those cost. (10,000 made PostgreSQL compile every exact scan over more than 4,000 rows just in time, which took
-- longer than the scan.) A clip is embedded by each call of esr_embed_speech, so the planner should call it last.
--
-- Errors: 22P03 unreadable or unsupported audio, 22000 nothing to hear, 54000 over a limit of esr.audio_max_*,
-- 22023 unusable text, 42704 no such model, F0000 damaged model, 58P01 ONNX Runtime (or its CUDA) missing, 53000 and 53200 overload and
-- memory, 53400 no worker slot, 58000 no embedder, or one that ended or did not answer in time: try again.

CREATE FUNCTION esr_embed_text(text) RETURNS esr_vector
    AS 'MODULE_PATHNAME' LANGUAGE c STABLE STRICT PARALLEL SAFE COST 100;
COMMENT ON FUNCTION esr_embed_text(text) IS
    'embedding of a description of speaking style, made by the model that esr.default_model names';

CREATE FUNCTION esr_embed_text(text, model text) RETURNS esr_vector
    AS 'MODULE_PATHNAME' LANGUAGE c STABLE STRICT PARALLEL SAFE COST 100;
COMMENT ON FUNCTION esr_embed_text(text, text) IS 'embedding of a description of speaking style, made by the named model';

CREATE FUNCTION esr_embed_text(text[]) RETURNS esr_vector[]
    AS 'MODULE_PATHNAME', 'esr_embed_text_array' LANGUAGE c STABLE STRICT PARALLEL SAFE COST 100000;
COMMENT ON FUNCTION esr_embed_text(text[]) IS
    'embeddings of descriptions of speaking style, in one batch; a NULL element stays NULL';

CREATE FUNCTION esr_embed_text(text[], model text) RETURNS esr_vector[]
    AS 'MODULE_PATHNAME', 'esr_embed_text_array' LANGUAGE c STABLE STRICT PARALLEL SAFE COST 100000;
COMMENT ON FUNCTION esr_embed_text(text[], text) IS
    'embeddings of descriptions of speaking style, in one batch, made by the named model; a NULL element stays NULL';

CREATE FUNCTION esr_embed_speech(bytea) RETURNS esr_vector
    AS 'MODULE_PATHNAME' LANGUAGE c STABLE STRICT PARALLEL SAFE COST 100000;
COMMENT ON FUNCTION esr_embed_speech(bytea) IS
    'embedding of the speaking style of an audio file (WAV, FLAC, Ogg Vorbis, MP3, M4A), made by the model that esr.default_model names';

CREATE FUNCTION esr_embed_speech(bytea, model text) RETURNS esr_vector
    AS 'MODULE_PATHNAME' LANGUAGE c STABLE STRICT PARALLEL SAFE COST 100000;
COMMENT ON FUNCTION esr_embed_speech(bytea, text) IS
    'embedding of the speaking style of an audio file, made by the named model';

CREATE FUNCTION esr_embed_speech(bytea[]) RETURNS esr_vector[]
    AS 'MODULE_PATHNAME', 'esr_embed_speech_array' LANGUAGE c STABLE STRICT PARALLEL SAFE COST 1000000;
COMMENT ON FUNCTION esr_embed_speech(bytea[]) IS
    'embeddings of audio files, in batches; a NULL element stays NULL';

CREATE FUNCTION esr_embed_speech(bytea[], model text) RETURNS esr_vector[]
    AS 'MODULE_PATHNAME', 'esr_embed_speech_array' LANGUAGE c STABLE STRICT PARALLEL SAFE COST 1000000;
COMMENT ON FUNCTION esr_embed_speech(bytea[], text) IS
    'embeddings of audio files, in batches, made by the named model; a NULL element stays NULL';

-- =====================================================================================================================
-- Recordings and labels
-- =====================================================================================================================

CREATE FUNCTION esr_describe_audio(bytea) RETURNS json
    AS 'MODULE_PATHNAME' LANGUAGE c STABLE STRICT PARALLEL SAFE COST 10000;
COMMENT ON FUNCTION esr_describe_audio(bytea) IS 'what an audio file holds; esr_audio_info shows it in columns';

CREATE FUNCTION esr_audio_info(
    audio bytea, OUT container text, OUT codec text, OUT seconds double precision, OUT sample_rate integer, OUT channels integer
)
    LANGUAGE sql STABLE STRICT PARALLEL SAFE COST 10000
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT i.container, i.codec, i.seconds, i.sample_rate, i.channels FROM json_to_record(@extschema@.esr_describe_audio(audio))
        AS i(container text, codec text, seconds double precision, sample_rate integer, channels integer)
$$;
COMMENT ON FUNCTION esr_audio_info(bytea) IS
    'file format, codec, length in seconds, samples per second and channels of an audio file, found by decoding it';

CREATE FUNCTION esr_cut_segments(bytea, double precision, double precision, text) RETURNS json
    AS 'MODULE_PATHNAME' LANGUAGE c STABLE STRICT PARALLEL SAFE COST 1000000;
COMMENT ON FUNCTION esr_cut_segments(bytea, double precision, double precision, text) IS
    'windows of a recording with their embeddings; esr_segments shows them as rows';

CREATE FUNCTION esr_segments(audio bytea, "window" double precision, hop double precision, model text)
    RETURNS TABLE (start_s double precision, end_s double precision, style esr_vector)
    LANGUAGE sql STABLE STRICT PARALLEL SAFE COST 1000000 ROWS 100
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT s.start_s, s.end_s, s.style FROM json_to_recordset(@extschema@.esr_cut_segments(audio, "window", hop, model))
        AS s(start_s double precision, end_s double precision, style @extschema@.esr_vector)
$$;
COMMENT ON FUNCTION esr_segments(bytea, double precision, double precision, text) IS
    'embeddings of windows of a recording: length of a window and step from one to the next, in seconds; the last window ends with the recording, the style of a silent one is NULL';

-- Without SET, so that PostgreSQL can inline it; every name is full instead.
CREATE FUNCTION esr_segments(audio bytea, "window" double precision DEFAULT 4, hop double precision DEFAULT 2)
    RETURNS TABLE (start_s double precision, end_s double precision, style esr_vector)
    LANGUAGE sql STABLE STRICT PARALLEL SAFE COST 1000000 ROWS 100
AS $$
    SELECT s.start_s, s.end_s, s.style
    FROM @extschema@.esr_segments(audio, "window", hop, pg_catalog.current_setting('esr.default_model')) s
$$;
COMMENT ON FUNCTION esr_segments(bytea, double precision, double precision) IS
    'the same with the model that esr.default_model names';

CREATE FUNCTION esr_classify(clip esr_vector, labels text[], model text)
    RETURNS TABLE (label text, score double precision)
    LANGUAGE sql STABLE STRICT PARALLEL SAFE COST 100000 ROWS 10
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT l.label, 1 - (clip OPERATOR(@extschema@.<=>) l.style)
    FROM unnest(labels, @extschema@.esr_embed_text(labels, model)) AS l(label, style)
    WHERE l.label IS NOT NULL
    ORDER BY 2 DESC, 1
$$;
COMMENT ON FUNCTION esr_classify(esr_vector, text[], text) IS
    'how well each label describes a clip: cosine similarity, -1 to 1, the best first; labels are descriptions such as ''an angry voice''';

CREATE FUNCTION esr_classify(clip esr_vector, labels text[])
    RETURNS TABLE (label text, score double precision)
    LANGUAGE sql STABLE STRICT PARALLEL SAFE COST 100000 ROWS 10
AS $$
    SELECT c.label, c.score FROM @extschema@.esr_classify(clip, labels, pg_catalog.current_setting('esr.default_model')) c
$$;
COMMENT ON FUNCTION esr_classify(esr_vector, text[]) IS 'the same with the model that esr.default_model names';

-- =====================================================================================================================
-- Embedding what is written
-- =====================================================================================================================
-- The triggers of esr_attach name both columns in UPDATE OF audio, style: PostgreSQL keeps them by number, so that RENAME,
-- partitions, pg_dump and DROP COLUMN ... CASCADE need nothing of ours. Their one argument is the model.

CREATE FUNCTION esr_embed_row() RETURNS trigger
    AS 'MODULE_PATHNAME' LANGUAGE c;
COMMENT ON FUNCTION esr_embed_row() IS
    'trigger function of mode sync, BEFORE ROW: embeds the row, or leaves it for the end of the statement';

CREATE FUNCTION esr_embed_later() RETURNS trigger
    AS 'MODULE_PATHNAME' LANGUAGE c;
COMMENT ON FUNCTION esr_embed_later() IS
    'trigger function of mode sync, AFTER ROW: remembers a row that was left for the end of the statement';

CREATE FUNCTION esr_embed_statement() RETURNS trigger
    AS 'MODULE_PATHNAME' LANGUAGE c;
COMMENT ON FUNCTION esr_embed_statement() IS
    'trigger function of mode sync, BEFORE and AFTER STATEMENT: embeds the rows that were left, in batches';

CREATE FUNCTION esr_queue_row() RETURNS trigger
    AS 'MODULE_PATHNAME' LANGUAGE c;
COMMENT ON FUNCTION esr_queue_row() IS 'trigger function of mode queue, BEFORE ROW: leaves the row to a background worker';

-- PostgreSQL cuts names at 63 bytes, where two long ones may become one.
CREATE FUNCTION esr_object_name(kind text, of_what text) RETURNS name
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN (CASE WHEN octet_length(kind || of_what) < 64 THEN kind || of_what ELSE kind || md5(of_what) END)::name;
COMMENT ON FUNCTION esr_object_name(text, text) IS 'name of a trigger or index that esr_attach makes';

-- One row for each style column of each table, partitions included. A trigger's arguments end in a zero byte each.
CREATE VIEW esr_attached_trigger AS
    SELECT t.tgrelid AS relation, t.tgattr[0] AS audio_attnum, t.tgattr[1] AS style_attnum,
           convert_from(substring(t.tgargs FROM 1 FOR octet_length(t.tgargs) - 1), getdatabaseencoding()) AS model,
           CASE t.tgfoid WHEN '@extschema@.esr_queue_row'::regproc THEN 'queue' ELSE 'sync' END AS mode,
           t.tgparentid <> 0 AS is_inherited, t.tgenabled IN ('O', 'A') AS is_enabled
    FROM pg_trigger t
    WHERE t.tgfoid IN ('@extschema@.esr_queue_row'::regproc, '@extschema@.esr_embed_row'::regproc)
      AND t.tgnargs = 1 AND array_length(t.tgattr::smallint[], 1) = 2;
COMMENT ON VIEW esr_attached_trigger IS 'what the triggers of esr_attach say; esr_attachments shows it with names';
GRANT SELECT ON esr_attached_trigger TO PUBLIC;

CREATE VIEW esr_attachments AS
    SELECT t.relation::regclass AS "table", a.attname AS audio_column, s.attname AS style_column, t.mode, t.model, t.is_enabled
    FROM @extschema@.esr_attached_trigger t
         JOIN pg_attribute a ON a.attrelid = t.relation AND a.attnum = t.audio_attnum
         JOIN pg_attribute s ON s.attrelid = t.relation AND s.attnum = t.style_attnum
    WHERE NOT t.is_inherited;
COMMENT ON VIEW esr_attachments IS 'tables whose rows are embedded when they are written';
COMMENT ON COLUMN esr_attachments."table" IS 'the table, for partitions the one they are part of';
COMMENT ON COLUMN esr_attachments.audio_column IS 'column with audio files';
COMMENT ON COLUMN esr_attachments.style_column IS 'column for their embeddings';
COMMENT ON COLUMN esr_attachments.mode IS 'sync or queue';
COMMENT ON COLUMN esr_attachments.model IS 'model that embeds';
COMMENT ON COLUMN esr_attachments.is_enabled IS 'whether its trigger is enabled; ALTER TABLE ... DISABLE TRIGGER pauses a queue';
GRANT SELECT ON esr_attachments TO PUBLIC;

CREATE FUNCTION esr_queue_targets() RETURNS TABLE (relation oid, audio smallint, style smallint, model text)
    LANGUAGE sql STABLE PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT t.relation, t.audio_attnum, t.style_attnum, t.model
    FROM @extschema@.esr_attached_trigger t JOIN pg_class c ON c.oid = t.relation
    WHERE t.mode = 'queue' AND t.is_enabled AND c.relkind = 'r' AND c.relpersistence <> 't'
    ORDER BY t.relation, t.style_attnum
$$;
COMMENT ON FUNCTION esr_queue_targets() IS 'what the background worker of mode queue looks after; partitions one by one';

CREATE FUNCTION esr_attach(
    "table" regclass, audio_column name, style_column name, mode text DEFAULT 'sync', model text DEFAULT NULL
) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    ours text := '@extschema@';
    relation pg_class;
    audio pg_attribute;
    style pg_attribute;
    events text;
    waiting text;
BEGIN
    IF "table" IS NULL OR audio_column IS NULL OR style_column IS NULL THEN
        RAISE EXCEPTION 'table, audio_column and style_column must not be NULL'
            USING ERRCODE = 'null_value_not_allowed', HINT = 'As in: SELECT esr_attach(''clips'', ''audio'', ''style'');';
    END IF;
    IF mode IS NULL OR mode NOT IN ('sync', 'queue') THEN
        RAISE EXCEPTION 'unknown mode "%" of esr_attach', mode
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Use mode => ''sync'', where the statement waits for its vectors, or mode => ''queue'', where they follow.';
    END IF;
    SELECT * INTO relation FROM pg_class c WHERE c.oid = "table";
    IF relation.relkind NOT IN ('r', 'p', 'f') THEN
        RAISE EXCEPTION '% is not a table', "table"
            USING ERRCODE = 'wrong_object_type', HINT = 'Attach the table that holds the audio itself.';
    END IF;
    IF NOT pg_has_role(relation.relowner, 'USAGE') THEN
        RAISE EXCEPTION 'must be owner of table %', "table" USING ERRCODE = 'insufficient_privilege';
    END IF;
    SELECT * INTO audio FROM pg_attribute a
        WHERE a.attrelid = "table" AND a.attname = audio_column AND a.attnum > 0 AND NOT a.attisdropped;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'column "%" of table % does not exist', audio_column, "table" USING ERRCODE = 'undefined_column';
    END IF;
    SELECT * INTO style FROM pg_attribute a
        WHERE a.attrelid = "table" AND a.attname = style_column AND a.attnum > 0 AND NOT a.attisdropped;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'column "%" of table % does not exist', style_column, "table"
            USING ERRCODE = 'undefined_column',
                  HINT = format('ALTER TABLE %s ADD COLUMN %I esr_vector(512);', "table", style_column);
    END IF;
    IF @extschema@.esr_base_type(audio.atttypid) <> 'bytea'::regtype THEN
        RAISE EXCEPTION 'column "%" of table % has type %, not bytea', audio_column, "table", format_type(audio.atttypid, audio.atttypmod)
            USING ERRCODE = 'datatype_mismatch', HINT = 'The column must hold whole audio files.';
    END IF;
    IF audio.attgenerated <> '' THEN
        RAISE EXCEPTION 'column "%" of table % is generated', audio_column, "table"
            USING ERRCODE = 'wrong_object_type', HINT = 'PostgreSQL computes it only after the trigger has run.';
    END IF;
    IF style.attgenerated <> '' THEN
        RAISE EXCEPTION 'column "%" of table % is generated', style_column, "table"
            USING ERRCODE = 'wrong_object_type', HINT = 'Nothing can be written into a generated column.';
    END IF;
    IF @extschema@.esr_base_type(style.atttypid) <> format('%s.esr_vector', ours)::regtype THEN
        RAISE EXCEPTION 'column "%" of table % has type %, not esr_vector', style_column, "table", format_type(style.atttypid, style.atttypmod)
            USING ERRCODE = 'datatype_mismatch', HINT = 'Declare the column as esr_vector(n) with the model''s dimension n.';
    END IF;
    IF mode = 'queue' AND (style.attnotnull OR relation.relkind = 'f' OR relation.relpersistence = 't') THEN
        RAISE EXCEPTION 'table % cannot be attached in mode "queue"', "table"
            USING ERRCODE = 'wrong_object_type',
                  DETAIL = CASE WHEN style.attnotnull THEN format('Column "%s" is NOT NULL, but rows are visible before they have a vector.', style_column)
                           WHEN relation.relkind = 'f' THEN 'It is a foreign table.'
                           ELSE 'It is a temporary table, which no other process can read.' END,
                  HINT = 'Use mode => ''sync''.';
    END IF;
    IF EXISTS (SELECT FROM @extschema@.esr_attached_trigger t WHERE t.relation = "table" AND t.style_attnum = style.attnum) THEN
        RAISE EXCEPTION 'column "%" of table % is attached already', style_column, "table"
            USING ERRCODE = 'duplicate_object',
                  HINT = format('SELECT esr_detach(%L, %L); comes first.', "table", style_column);
    END IF;
    -- Any function of the library loads it, and loading it defines the settings.
    PERFORM @extschema@.esr_dims('[0]');
    -- The model is fixed now, not looked up by each session: one column must not mix models.
    model := coalesce(model, current_setting('esr.default_model'));
    IF NOT @extschema@.esr_may_use_model(model) THEN
        RAISE EXCEPTION 'permission denied for model "%"', model
            USING ERRCODE = 'insufficient_privilege',
                  HINT = format('Its owner can GRANT USAGE ON FOREIGN SERVER %I TO a role.', model);
    END IF;
    events := format('INSERT OR UPDATE OF %I, %I ON %s', audio_column, style_column, "table");
    waiting := format('%I IS NULL AND %I IS NOT NULL', style_column, audio_column);
    IF mode = 'queue' THEN
        EXECUTE format('CREATE TRIGGER %I BEFORE %s FOR EACH ROW EXECUTE FUNCTION %s.esr_queue_row(%L)',
            @extschema@.esr_object_name('esr_queue_', style_column), events, ours, model);
        -- The queue: what is pending, however it came there. All keys are equal, and equal keys take little room.
        EXECUTE format('CREATE INDEX IF NOT EXISTS %I ON %s ((true)) WHERE %s',
            @extschema@.esr_queue_index_name("table", style_column), "table", waiting);
        PERFORM @extschema@.esr_wake_queue();
        RETURN;
    END IF;
    EXECUTE format('CREATE TRIGGER %I BEFORE %s FOR EACH ROW EXECUTE FUNCTION %s.esr_embed_row(%L)',
        @extschema@.esr_object_name('esr_embed_', style_column), events, ours, model);
    IF relation.relkind = 'f' OR style.attnotnull THEN
        -- Each row must have its vector before it is stored.
        RETURN;
    END IF;
    EXECUTE format('CREATE TRIGGER %I BEFORE %s FOR EACH STATEMENT EXECUTE FUNCTION %s.esr_embed_statement(%L)',
        @extschema@.esr_object_name('esr_open_', style_column), events, ours, model);
    EXECUTE format('CREATE TRIGGER %I AFTER %s FOR EACH ROW WHEN (new.%I IS NULL AND new.%I IS NOT NULL) EXECUTE FUNCTION %s.esr_embed_later(%L)',
        @extschema@.esr_object_name('esr_later_', style_column), events, style_column, audio_column, ours, model);
    EXECUTE format('CREATE TRIGGER %I AFTER %s FOR EACH STATEMENT EXECUTE FUNCTION %s.esr_embed_statement(%L)',
        @extschema@.esr_object_name('esr_close_', style_column), events, ours, model);
END
$$;
COMMENT ON FUNCTION esr_attach(regclass, name, name, text, text) IS
    'embed the audio column into the style column whenever a row is inserted or its audio changes: sync, before the statement ends, or queue, soon after its commit';

CREATE FUNCTION esr_detach("table" regclass, style_column name) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    style smallint;
    made name;
BEGIN
    SELECT a.attnum INTO style FROM pg_attribute a
        WHERE a.attrelid = "table" AND a.attname = style_column AND NOT a.attisdropped;
    IF NOT EXISTS (SELECT FROM @extschema@.esr_attached_trigger t WHERE t.relation = "table" AND t.style_attnum = style) THEN
        RAISE EXCEPTION 'column "%" of table % is not attached', style_column, "table"
            USING ERRCODE = 'undefined_object', HINT = 'The view esr_attachments shows what is.';
    END IF;
    FOR made IN
        SELECT t.tgname FROM pg_trigger t
        WHERE t.tgrelid = "table" AND t.tgparentid = 0 AND array_length(t.tgattr::smallint[], 1) = 2 AND t.tgattr[1] = style
          AND t.tgfoid IN ('@extschema@.esr_queue_row'::regproc, '@extschema@.esr_embed_row'::regproc,
                           '@extschema@.esr_embed_later'::regproc, '@extschema@.esr_embed_statement'::regproc)
    LOOP
        EXECUTE format('DROP TRIGGER %I ON %s', made, "table");
    END LOOP;
    -- The queue's index: a name of ours, and a condition on the style column.
    FOR made IN
        SELECT format('%I.%I', n.nspname, c.relname) FROM pg_index i
            JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE i.indrelid = "table" AND c.relname LIKE 'esr\_queue\_%' AND i.indpred IS NOT NULL
          AND EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid
                      AND d.refclassid = 'pg_class'::regclass AND d.refobjid = "table" AND d.refobjsubid = style)
    LOOP
        EXECUTE format('DROP INDEX %s', made);
    END LOOP;
END
$$;
COMMENT ON FUNCTION esr_detach(regclass, name) IS
    'remove the triggers, and the index, that esr_attach made; the embeddings that are there stay';

CREATE FUNCTION esr_base_type(type oid) RETURNS oid
    LANGUAGE sql STABLE STRICT PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
AS $$
    WITH RECURSIVE chain AS (
        SELECT t.oid, t.typbasetype FROM pg_type t WHERE t.oid = type
        UNION ALL SELECT t.oid, t.typbasetype FROM chain c JOIN pg_type t ON t.oid = c.typbasetype
    ) SELECT oid FROM chain WHERE typbasetype = 0
$$;
COMMENT ON FUNCTION esr_base_type(oid) IS 'the type under a domain';

-- An index lies in its table's schema, beside those of other tables.
CREATE FUNCTION esr_queue_index_name("table" regclass, style_column name) RETURNS name
    LANGUAGE sql STABLE STRICT PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT @extschema@.esr_object_name('esr_queue_', (c.relname || '_' || style_column)::text) FROM pg_class c WHERE c.oid = "table"
$$;
COMMENT ON FUNCTION esr_queue_index_name(regclass, name) IS
    'name of the index of pending rows that esr_attach makes in mode queue, unless it is there already';

CREATE FUNCTION esr_wake_queue() RETURNS void
    AS 'MODULE_PATHNAME' LANGUAGE c VOLATILE;
COMMENT ON FUNCTION esr_wake_queue() IS
    'start the background worker of mode queue in this database, if none runs; every write to an attached table does';

-- ---------------------------------------------------------------------------------------------------------------------
-- Failures
-- ---------------------------------------------------------------------------------------------------------------------
-- A row is known by where it lies and which transaction wrote it there, which together mean one version of it. Not part of
-- a dump: in a restored database, rows without a vector are pending anyway.

CREATE TABLE esr_failure (
    relation oid NOT NULL,
    style_column smallint NOT NULL,
    place tid,
    version xid,
    clip bytea,
    model text NOT NULL,
    sqlstate text NOT NULL,
    reason text NOT NULL,
    hint text,
    attempts integer NOT NULL,
    first_failed timestamptz NOT NULL DEFAULT clock_timestamp(),
    last_failed timestamptz NOT NULL DEFAULT clock_timestamp(),
    retry_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    UNIQUE NULLS NOT DISTINCT (relation, style_column, place)
);
CREATE INDEX esr_failure_clip ON esr_failure (relation, style_column, clip);
COMMENT ON TABLE esr_failure IS 'what the view esr_failures shows';

CREATE TABLE esr_refresh_state (
    relation oid NOT NULL,
    style_column smallint NOT NULL,
    model text NOT NULL,
    started timestamptz NOT NULL DEFAULT clock_timestamp(),
    updated timestamptz NOT NULL DEFAULT clock_timestamp(),
    finished timestamptz,
    pid integer,
    next_block bigint NOT NULL DEFAULT 0,
    blocks bigint NOT NULL DEFAULT 0,
    touched bigint NOT NULL DEFAULT 0,
    embedded bigint NOT NULL DEFAULT 0,
    failed bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (relation, style_column)
);
COMMENT ON TABLE esr_refresh_state IS 'what the view esr_progress shows';

CREATE VIEW esr_failures AS
    SELECT f.relation::regclass AS "table", a.attname AS style_column, f.place AS ctid_of_row, f.model, f.sqlstate, f.reason,
           f.hint, f.attempts, f.first_failed, f.last_failed, f.retry_at
    FROM @extschema@.esr_failure f
         JOIN pg_class c ON c.oid = f.relation
         JOIN pg_attribute a ON a.attrelid = f.relation AND a.attnum = f.style_column AND NOT a.attisdropped
    WHERE pg_has_role(c.relowner, 'USAGE')
      AND (EXISTS (SELECT FROM @extschema@.esr_attached_trigger t WHERE t.relation = f.relation AND t.style_attnum = f.style_column)
           OR EXISTS (SELECT FROM @extschema@.esr_refresh_state s WHERE s.relation = f.relation AND s.style_column = f.style_column));
COMMENT ON VIEW esr_failures IS 'clips that could not be embedded, in tables of one''s own';
COMMENT ON COLUMN esr_failures."table" IS 'table, or partition';
COMMENT ON COLUMN esr_failures.style_column IS 'column that has no vector';
COMMENT ON COLUMN esr_failures.ctid_of_row IS
    'where the row lies: SELECT ... FROM table WHERE ctid = ...; NULL if it is about no row, such as a model that is missing';
COMMENT ON COLUMN esr_failures.model IS 'model that was to embed it';
COMMENT ON COLUMN esr_failures.sqlstate IS 'SQLSTATE of the failure';
COMMENT ON COLUMN esr_failures.reason IS 'what is wrong';
COMMENT ON COLUMN esr_failures.hint IS 'what to do about it';
COMMENT ON COLUMN esr_failures.attempts IS 'how often it was tried';
COMMENT ON COLUMN esr_failures.first_failed IS 'when it failed first';
COMMENT ON COLUMN esr_failures.last_failed IS 'when it failed last';
COMMENT ON COLUMN esr_failures.retry_at IS
    'when mode queue tries it again: after 1 second, doubled with each attempt up to an hour; at once when the row is updated';
GRANT SELECT ON esr_failures TO PUBLIC;

-- ---------------------------------------------------------------------------------------------------------------------
-- Refresh
-- ---------------------------------------------------------------------------------------------------------------------

CREATE VIEW esr_progress AS
    SELECT s.relation::regclass AS "table", a.attname AS style_column, s.model,
           CASE WHEN s.finished IS NOT NULL THEN 'finished'
                WHEN EXISTS (SELECT FROM pg_stat_get_activity(s.pid)) THEN 'running' ELSE 'interrupted' END AS state,
           CASE WHEN s.finished IS NOT NULL THEN s.blocks ELSE s.next_block END AS blocks_done, s.blocks AS blocks_total,
           s.embedded, s.failed, s.started, s.updated, s.finished, s.pid
    FROM @extschema@.esr_refresh_state s
         JOIN pg_class c ON c.oid = s.relation
         JOIN pg_attribute a ON a.attrelid = s.relation AND a.attnum = s.style_column AND NOT a.attisdropped
    WHERE pg_has_role(c.relowner, 'USAGE') OR pg_has_role('pg_monitor', 'USAGE');
COMMENT ON VIEW esr_progress IS 'refreshes of tables of one''s own: running, interrupted, and the last that finished';
COMMENT ON COLUMN esr_progress."table" IS 'table, or partition';
COMMENT ON COLUMN esr_progress.style_column IS 'column that is refreshed';
COMMENT ON COLUMN esr_progress.model IS 'model that embeds';
COMMENT ON COLUMN esr_progress.state IS 'running, finished, or interrupted: CALL esr_refresh goes on with it';
COMMENT ON COLUMN esr_progress.blocks_done IS 'blocks of the table that this walk has passed; a refresh ends with a walk that finds nothing';
COMMENT ON COLUMN esr_progress.blocks_total IS 'blocks of the table';
COMMENT ON COLUMN esr_progress.embedded IS 'rows embedded';
COMMENT ON COLUMN esr_progress.failed IS 'rows that failed; esr_failures says why';
COMMENT ON COLUMN esr_progress.started IS 'when it was started';
COMMENT ON COLUMN esr_progress.updated IS 'when its last batch was committed';
COMMENT ON COLUMN esr_progress.finished IS 'when it finished';
COMMENT ON COLUMN esr_progress.pid IS 'process of the session that works at it, or did last';
GRANT SELECT ON esr_progress TO PUBLIC;

CREATE FUNCTION esr_refresh_step(relation oid, audio integer, style integer, model text) RETURNS boolean
    AS 'MODULE_PATHNAME' LANGUAGE c VOLATILE STRICT;
COMMENT ON FUNCTION esr_refresh_step(oid, integer, integer, text) IS
    'one batch of esr_refresh, for the owner of the table; false when nothing is left to do';

-- Which columns of which tables to refresh: what is attached, unless the caller says otherwise.
CREATE FUNCTION esr_refresh_jobs(
    "table" regclass, style_column name, audio_column name, model text,
    OUT relation oid, OUT audio integer, OUT style integer, OUT model_name text, OUT label text
) RETURNS SETOF record
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    found_any boolean := false;
    job record;
BEGIN
    IF "table" IS NULL THEN
        RAISE EXCEPTION 'table must not be NULL'
            USING ERRCODE = 'null_value_not_allowed', HINT = 'As in: CALL esr_refresh(''clips'');';
    END IF;
    FOR job IN
        SELECT a.attname AS audio, s.attname AS style, t.model FROM @extschema@.esr_attached_trigger t
            JOIN pg_attribute a ON a.attrelid = t.relation AND a.attnum = t.audio_attnum
            JOIN pg_attribute s ON s.attrelid = t.relation AND s.attnum = t.style_attnum
        WHERE t.relation = "table" AND (style_column IS NULL OR s.attname = style_column)
        UNION ALL
        SELECT audio_column, style_column, NULL WHERE audio_column IS NOT NULL AND style_column IS NOT NULL
            AND NOT EXISTS (SELECT FROM @extschema@.esr_attachments t WHERE t."table" = esr_refresh_jobs."table" AND t.style_column = esr_refresh_jobs.style_column)
    LOOP
        found_any := true;
        model_name := coalesce(model, job.model, current_setting('esr.default_model', true), 'default');
        FOR relation, audio, style, label IN
            SELECT c.oid, a.attnum, s.attnum, c.oid::regclass::text
            FROM (SELECT p.relid FROM pg_partition_tree("table") p WHERE p.isleaf UNION SELECT "table") leaf
                JOIN pg_class c ON c.oid = leaf.relid AND c.relkind = 'r'
                LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = coalesce(audio_column, job.audio) AND NOT a.attisdropped
                LEFT JOIN pg_attribute s ON s.attrelid = c.oid AND s.attname = job.style AND NOT s.attisdropped
            ORDER BY c.oid
        LOOP
            IF audio IS NULL OR style IS NULL THEN
                RAISE EXCEPTION 'column "%" of table % does not exist',
                    CASE WHEN audio IS NULL THEN coalesce(audio_column, job.audio) ELSE job.style END, label
                    USING ERRCODE = 'undefined_column';
            END IF;
            IF @extschema@.esr_base_type((SELECT x.atttypid FROM pg_attribute x WHERE x.attrelid = relation AND x.attnum = audio)) <> 'bytea'::regtype
               OR @extschema@.esr_base_type((SELECT x.atttypid FROM pg_attribute x WHERE x.attrelid = relation AND x.attnum = style)) <> '@extschema@.esr_vector'::regtype THEN
                RAISE EXCEPTION 'columns of table % have other types than bytea and esr_vector', label
                    USING ERRCODE = 'datatype_mismatch', HINT = 'The audio column holds whole audio files, the style column their embeddings.';
            END IF;
            RETURN NEXT;
        END LOOP;
    END LOOP;
    IF NOT found_any THEN
        RAISE EXCEPTION 'table % has no attached column to refresh', "table"
            USING ERRCODE = 'undefined_object',
                  HINT = 'Attach one with esr_attach, or name both: CALL esr_refresh(''clips'', ''style'', ''audio'');';
    END IF;
END
$$;
COMMENT ON FUNCTION esr_refresh_jobs(regclass, name, name, text) IS 'what CALL esr_refresh does: one row for each table, or partition, and style column';

-- Neither SECURITY DEFINER nor SET may stand here: PostgreSQL then refuses COMMIT. So operators are named in full.
CREATE PROCEDURE esr_refresh(
    "table" regclass, style_column name DEFAULT NULL, audio_column name DEFAULT NULL, model text DEFAULT NULL
)
    LANGUAGE plpgsql
AS $$
DECLARE
    job record;
    report record;
    reported timestamptz := pg_catalog.clock_timestamp();
    goes_on boolean;
BEGIN
    FOR job IN SELECT * FROM @extschema@.esr_refresh_jobs("table", style_column, audio_column, model) LOOP
        goes_on := true;
        WHILE goes_on LOOP
            goes_on := @extschema@.esr_refresh_step(job.relation, job.audio, job.style, job.model_name);
            COMMIT;
            IF NOT goes_on OR pg_catalog.timestamptz_gt(pg_catalog.clock_timestamp(), pg_catalog.timestamptz_pl_interval(reported, '10 s')) THEN
                reported := pg_catalog.clock_timestamp();
                SELECT p.embedded, p.failed, p.blocks_done, p.blocks_total INTO report FROM @extschema@.esr_progress p
                    JOIN pg_catalog.pg_attribute a ON a.attrelid OPERATOR(pg_catalog.=) p."table" AND a.attname OPERATOR(pg_catalog.=) p.style_column
                    WHERE p."table" OPERATOR(pg_catalog.=) job.relation AND a.attnum OPERATOR(pg_catalog.=) job.style;
                RAISE NOTICE 'esr_refresh: %: % rows embedded, % failed, block % of %', job.label, report.embedded, report.failed, report.blocks_done, report.blocks_total;
            END IF;
        END LOOP;
    END LOOP;
END
$$;
COMMENT ON PROCEDURE esr_refresh(regclass, name, name, text) IS
    'embed every row whose vector is missing or made by another model, in committed batches; goes on where an interrupted one was; progress in esr_progress, rows that fail in esr_failures';

-- =====================================================================================================================
-- Views
-- =====================================================================================================================

CREATE FUNCTION esr_embedder_status() RETURNS json
    AS 'MODULE_PATHNAME' LANGUAGE c VOLATILE STRICT PARALLEL RESTRICTED;
COMMENT ON FUNCTION esr_embedder_status() IS 'counters of the embedder; what the view esr_stat_embedder shows';
-- Failures name files of the server.
REVOKE ALL ON FUNCTION esr_embedder_status() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION esr_embedder_status() TO pg_monitor;

CREATE VIEW esr_stat_embedder AS
    SELECT s.pid, make_interval(secs => s.uptime_s) AS uptime, s.requests, s.failures, s.cancelled, s.refused, s.expired,
           s.queued, s.running, s.texts, s.clips, s.batches, s.mean_batch, s.halved, s.device, s.memory, s.peak_memory, s.models,
           s.p50_ms, s.p99_ms, s.restarts, s.last_failure
    FROM json_to_record(esr_embedder_status()) AS s(
        pid integer, uptime_s double precision, requests bigint, failures bigint, cancelled bigint, refused bigint,
        expired bigint, queued integer, running integer, texts bigint, clips bigint, batches bigint, mean_batch real,
        halved bigint, device text, memory bigint, peak_memory bigint, models text[], p50_ms real, p99_ms real,
        restarts bigint, last_failure text);
COMMENT ON VIEW esr_stat_embedder IS 'one row: the embedder process of this cluster, with NULL for pid while none runs';
COMMENT ON COLUMN esr_stat_embedder.pid IS 'process id; NULL while no embedder runs';
COMMENT ON COLUMN esr_stat_embedder.uptime IS 'time since it was started';
COMMENT ON COLUMN esr_stat_embedder.requests IS 'requests answered, failures included';
COMMENT ON COLUMN esr_stat_embedder.failures IS 'requests answered with an error';
COMMENT ON COLUMN esr_stat_embedder.cancelled IS 'requests whose session was cancelled or left before the answer';
COMMENT ON COLUMN esr_stat_embedder.refused IS 'requests refused (53000) because the queue or the memory for requests was full';
COMMENT ON COLUMN esr_stat_embedder.expired IS 'requests given up because statement_timeout or esr.embedder_timeout of their session was over';
COMMENT ON COLUMN esr_stat_embedder.queued IS 'requests that wait now';
COMMENT ON COLUMN esr_stat_embedder.running IS 'batches that are being computed now: at most one of texts and one of clips';
COMMENT ON COLUMN esr_stat_embedder.texts IS 'texts embedded';
COMMENT ON COLUMN esr_stat_embedder.clips IS 'clips embedded';
COMMENT ON COLUMN esr_stat_embedder.batches IS 'runs of a network';
COMMENT ON COLUMN esr_stat_embedder.mean_batch IS 'texts and windows of clips per run of a network';
COMMENT ON COLUMN esr_stat_embedder.halved IS 'runs that failed and were tried again with half of their rows, until the bad row failed alone';
COMMENT ON COLUMN esr_stat_embedder.memory IS 'resident memory of the process, bytes';
COMMENT ON COLUMN esr_stat_embedder.peak_memory IS 'the most it has been, bytes';
COMMENT ON COLUMN esr_stat_embedder.device IS 'where the networks run, such as cpu or cuda:0 float32; NULL before the first model is loaded';
COMMENT ON COLUMN esr_stat_embedder.models IS 'models in memory';
COMMENT ON COLUMN esr_stat_embedder.p50_ms IS 'median time of the last thousand requests, milliseconds';
COMMENT ON COLUMN esr_stat_embedder.p99_ms IS '99th percentile of the same';
COMMENT ON COLUMN esr_stat_embedder.restarts IS 'how often an embedder ended by itself since the supervisor started';
COMMENT ON COLUMN esr_stat_embedder.last_failure IS 'why the last embedder ended, or could not be started';
GRANT SELECT ON esr_stat_embedder TO pg_monitor;

-- A foreign server of this wrapper stands for the model of its name: whoever has no USAGE on it may not use the model.
CREATE FOREIGN DATA WRAPPER esr_model NO HANDLER NO VALIDATOR;
COMMENT ON FOREIGN DATA WRAPPER esr_model IS
    'CREATE SERVER name FOREIGN DATA WRAPPER esr_model; lets only those use the model of that name who are granted USAGE on the server; other models are everybody''s';

CREATE FUNCTION esr_may_use_model(model text) RETURNS boolean
    AS 'MODULE_PATHNAME' LANGUAGE c STABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION esr_may_use_model(text) IS 'whether the current user may use a model; see the foreign data wrapper esr_model';

CREATE FUNCTION esr_list_models() RETURNS json
    AS 'MODULE_PATHNAME' LANGUAGE c VOLATILE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION esr_list_models() IS 'model bundles in esr.model_directory; what the view esr_models shows';

CREATE VIEW esr_models AS
    SELECT m.name, m.version, m.dimension, m.tag, m.licence, m.description, m.problem
    FROM json_to_recordset(esr_list_models()) AS m(
        name text, version text, dimension integer, tag text, licence text, description text, problem text);
COMMENT ON VIEW esr_models IS
    'model bundles in esr.model_directory that the current user may use, as their manifests describe them';
COMMENT ON COLUMN esr_models.name IS 'name to use in esr.default_model and in the second argument of esr_embed_*';
COMMENT ON COLUMN esr_models.version IS 'version in the manifest';
COMMENT ON COLUMN esr_models.dimension IS 'elements of an embedding';
COMMENT ON COLUMN esr_models.tag IS 'identity that its embeddings carry, as esr_model_tag shows it';
COMMENT ON COLUMN esr_models.licence IS 'licence of the weights';
COMMENT ON COLUMN esr_models.description IS 'what it is';
COMMENT ON COLUMN esr_models.problem IS 'why its manifest cannot be read, if so';
GRANT SELECT ON esr_models TO PUBLIC;

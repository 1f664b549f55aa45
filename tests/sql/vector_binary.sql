-- Binary form, COPY, dump and restore.
\set SHOW_CONTEXT never
SELECT esr_vector_send('[1,-2]');
SELECT esr_vector_send('[1]@0123456789abcdef');
CREATE TABLE a (id int, v esr_vector);
INSERT INTO a VALUES (1, '[1,2,3]'), (2, '[0.1,-3e-7]@0123456789abcdef'), (3, NULL);
CREATE TABLE b (LIKE a);
SELECT format('COPY a TO PROGRAM %L (FORMAT binary)', 'cat > esr_binary.copy') AS command \gexec
COPY b FROM 'esr_binary.copy' (FORMAT binary);
SELECT * FROM b ORDER BY id;
SELECT count(*) FROM a JOIN b USING (id, v);
CREATE TABLE c (id int, v esr_vector(2));
COPY c FROM 'esr_binary.copy' (FORMAT binary);
\echo :LAST_ERROR_SQLSTATE
COPY b FROM PROGRAM 'cat esr_binary.copy; rm esr_binary.copy' (FORMAT binary);
SELECT count(*) FROM b;
COPY a TO STDOUT;

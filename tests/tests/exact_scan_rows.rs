//! The plan node "Esr Exact Scan" on unusual tables: vectors stored out of line or compressed, columns added and dropped,
//! rows that a policy hides, vectors that do not fit, scans that are cancelled.

mod common;

use std::time::{Duration, Instant};

use common::{
    ranking::{check, cluster, fill, plan, ranking, switch, uses_node},
    state, words,
};
use postgres::{Client, error::SqlState};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

#[test]
fn vectors_out_of_line_compressed_and_packed_are_measured() {
    let cluster = cluster();
    let mut session = cluster.connect().unwrap();
    for storage in ["plain", "main", "extended", "external"] {
        // Short, middling and long; long ones that compress well and others that do not. 4,000 dimensions fit no page.
        let dimensions: &[i32] = if storage == "plain" { &[3, 500] } else { &[3, 500, 4000] };
        for dimension in dimensions {
            session
                .batch_execute(&format!(
                    "CREATE TABLE t (id int, note text, style esr_vector);
                     ALTER TABLE t ALTER style SET STORAGE {storage};
                     INSERT INTO t
                         SELECT i, repeat('n', i), (SELECT array_agg(CASE WHEN i % 2 = 0 AND j > 2 THEN 1
                                                                     ELSE sin(i * 7919 + j * j) END)::real[]::esr_vector
                                                    FROM generate_series(1, {dimension}) j)
                         FROM generate_series(1, 60) i;
                     CREATE TABLE q AS SELECT style FROM t WHERE id = 30;"
                ))
                .unwrap();
            for operator in ["<=>", "<->", "<#>"] {
                let distance = format!("style {operator} (SELECT style FROM q)");
                let sql = format!("SELECT id, {distance} FROM t WHERE id <> 31 ORDER BY {distance} LIMIT 12");
                assert_eq!(check(&mut session, &sql).len(), 12);
            }
            session.batch_execute("DROP TABLE t, q").unwrap();
        }
    }
}

#[test]
fn columns_dropped_and_added_do_not_move_the_vector() {
    let cluster = cluster();
    let mut session = cluster.connect().unwrap();
    fill(&mut session, "t", 100, &mut ChaCha8Rng::seed_from_u64(1));
    let query = "SELECT id, style <-> '[1,0,1,0,1]' AS d FROM t ORDER BY d LIMIT 30";
    let before = check(&mut session, query);
    session.batch_execute("ALTER TABLE t ADD COLUMN a int DEFAULT 7; ALTER TABLE t DROP COLUMN note").unwrap();
    assert_eq!(check(&mut session, query), before);
    session.batch_execute("INSERT INTO t SELECT id + 1000, kind, style, NULL FROM t").unwrap();
    check(&mut session, query);
    session.batch_execute("ALTER TABLE t DROP COLUMN kind; UPDATE t SET a = 8 WHERE id % 2 = 0").unwrap();
    check(&mut session, query);
    // Rows that are older than the column have its value only in the catalog.
    session.batch_execute("ALTER TABLE t ADD COLUMN late esr_vector(2) DEFAULT '[3,4]'").unwrap();
    session.batch_execute("INSERT INTO t (id, late) VALUES (5000, '[0,1]'), (5001, NULL)").unwrap();
    let found =
        check(&mut session, "SELECT id, late <-> '[0,0]' AS d FROM t WHERE id > 4990 OR id = 3 ORDER BY d LIMIT 9");
    let expected = [(5000, Some("1.0".to_owned())), (3, Some("5.0".into())), (5001, None)];
    assert_eq!(found, expected);
    // The vector first, in the middle, and last among columns of every alignment.
    session
        .batch_execute(
            "CREATE TABLE wide (a \"char\", style esr_vector, b smallint, c bool, d bigint, e esr_vector, id int);
             INSERT INTO wide SELECT 'x', style, 1, true, 2, style * -1, id FROM t;",
        )
        .unwrap();
    for column in ["style", "e"] {
        check(
            &mut session,
            &format!(
                "SELECT id, {column} <=> '[1,2,0,0,1]' AS d FROM wide ORDER BY {column} <=> '[1,2,0,0,1]' LIMIT 20"
            ),
        );
    }
}

fn refusal(session: &mut Client, sql: &str) -> (SqlState, String) {
    let error = session.query(sql, &[]).map(|rows| rows.len()).unwrap_err();
    (state(&error), words(&error))
}

#[test]
fn vectors_that_do_not_compare_are_the_operators_errors() {
    let cluster = cluster();
    let mut session = cluster.connect().unwrap();
    session
        .batch_execute(
            "CREATE TABLE t (id int, style esr_vector);
             INSERT INTO t VALUES (1, '[1,2,3]@00000000000000aa'), (2, '[1,2]'), (3, NULL), (4, '[1,2,3]');",
        )
        .unwrap();
    for (filter, left, right) in [
        ("true", "style", "'[1,2,3]'"),
        ("true", "'[1,2,3]'", "style"),
        ("id = 1", "style", "'[1,2,3]@00000000000000bb'"),
        ("id = 1", "'[1,2,3]@00000000000000bb'", "style"),
        ("id > 2", "style", "'[1,2,3,4]'"),
    ] {
        let sql = format!("SELECT id FROM t WHERE {filter} ORDER BY {left} <=> {right} LIMIT 2");
        let refusals = [true, false].map(|on| {
            switch(&mut session, on);
            assert_eq!(uses_node(&mut session, &sql), on);
            refusal(&mut session, &sql)
        });
        assert_eq!(refusals[0], refusals[1], "{sql}");
    }
    switch(&mut session, true);
    // What the filter keeps out is not measured, and a query vector that nothing is compared with is not evaluated.
    for sql in [
        "SELECT id FROM t WHERE id <> 2 ORDER BY style <=> '[1,2,3]' LIMIT 9",
        "SELECT id FROM t WHERE id > 9 ORDER BY style <=> ARRAY[1, random() / 0]::real[]::esr_vector LIMIT 9",
        "SELECT id FROM t WHERE id > 9 ORDER BY style <=> (SELECT ARRAY[1 / (id - 1)]::real[]::esr_vector FROM t LIMIT 1) LIMIT 9",
    ] {
        session.query(sql, &[]).unwrap_or_else(|error| panic!("{sql}: {}", words(&error)));
    }
}

#[test]
fn rows_that_a_policy_hides_are_neither_returned_nor_measured() {
    let cluster = cluster();
    let mut session = cluster.connect().unwrap();
    fill(&mut session, "t", 300, &mut ChaCha8Rng::seed_from_u64(2));
    session
        .batch_execute(
            "ALTER TABLE t ALTER style TYPE esr_vector;
             INSERT INTO t VALUES (999, 4, 'hidden', '[1,2]');
             CREATE ROLE reader; GRANT SELECT (id, kind, style) ON t TO reader;
             ALTER TABLE t ENABLE ROW LEVEL SECURITY;
             CREATE POLICY visible ON t TO reader USING (kind < 3 AND note IS NOT NULL);
             ANALYZE t;
             SET ROLE reader;",
        )
        .unwrap();
    // The hidden row has another dimension: measuring it would be an error that tells of it.
    for filter in ["true", "kind <> 1"] {
        let sql = format!("SELECT id, style <=> '[1,2,3,4,5]' AS d FROM t WHERE {filter} ORDER BY d LIMIT 25");
        assert_eq!(check(&mut session, &sql).len(), 25);
    }
    // The condition of a reader, who may write any function, comes after the policy's.
    session
        .batch_execute(
            "CREATE FUNCTION pg_temp.look(esr_vector) RETURNS boolean LANGUAGE plpgsql COST 0.0001 AS
             $$ BEGIN IF esr_dims($1) <> 5 THEN RAISE EXCEPTION 'saw it'; END IF; RETURN true; END $$;",
        )
        .unwrap();
    check(
        &mut session,
        "SELECT id, style <=> '[1,2,3,4,5]' AS d FROM t WHERE style IS NULL OR pg_temp.look(style) ORDER BY d LIMIT 25",
    );
    let denied = refusal(&mut session, "SELECT note FROM t ORDER BY style <=> '[1,2,3,4,5]' LIMIT 1");
    assert_eq!(denied.0, SqlState::INSUFFICIENT_PRIVILEGE);
}

#[test]
fn filtered_rows_are_counted_and_a_scan_can_be_cancelled() {
    let cluster = cluster();
    let mut session = cluster.connect().unwrap();
    session
        .batch_execute(
            "CREATE TABLE t (id int, style esr_vector);
             INSERT INTO t SELECT i, style FROM generate_series(1, 30000) i,
                 (SELECT array_agg(sin(j))::real[]::esr_vector AS style FROM generate_series(1, 512) j) AS one;
             ANALYZE t;",
        )
        .unwrap();
    let sql = "SELECT id FROM t WHERE id > 100 ORDER BY style <=> (SELECT style FROM t LIMIT 1) LIMIT 5";
    let lines = session.query(&format!("EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF) {sql}"), &[]).unwrap();
    let text: String = lines.iter().map(|line| line.get::<_, String>(0) + "\n").collect();
    assert!(text.contains("Custom Scan (Esr Exact Scan) on t (actual rows=5 loops=1)"), "{text}");
    assert!(text.contains("Rows Removed by Filter: 100"), "{text}");
    assert!(text.contains("Limit (actual rows=5 loops=1)"), "{text}");

    let slow = "SELECT id FROM t WHERE length(repeat(id::text, 3000)) > 3 ORDER BY style <=> '[1]'::esr_vector LIMIT 5";
    let slow = slow.replace("'[1]'::esr_vector", "(SELECT style FROM t LIMIT 1)");
    assert!(uses_node(&mut session, &slow), "{}", plan(&mut session, &slow));
    session.batch_execute("SET statement_timeout = '20ms'").unwrap();
    let start = Instant::now();
    assert_eq!(refusal(&mut session, &slow).0, SqlState::QUERY_CANCELED);
    assert!(start.elapsed() < Duration::from_secs(2));
    // The session lives, and nothing is still held: the table can be dropped.
    session.batch_execute("SET statement_timeout = 0").unwrap();
    assert_eq!(session.query(sql, &[]).unwrap().len(), 5);
    session.batch_execute("DROP TABLE t").unwrap();
    assert_eq!(ranking(&mut session, "SELECT 1, 1::float8").len(), 1);
    assert!(!cluster.log().contains("leak"), "{}", cluster.log());
}

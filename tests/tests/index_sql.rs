//! `esr_ivf` indexes in SQL: how they are made, which queries use them, and transactions around them.

mod common;

use std::time::Duration;

use common::vectors::{ask, check, cluster_without_model, clustered, copy, plan, run, table, text};
use common::{state, words};
use esr_tests::cluster::{Options, wait_until};
use postgres::Client;

/// The three nearest rows through the index.
fn nearest(session: &mut Client, source: &str, query: &[f32]) -> Vec<i32> {
    session.batch_execute("SET enable_seqscan = off; SET enable_sort = off; SET jit = off").unwrap();
    let select = format!("SELECT id FROM {source} ORDER BY v <=> '{}' LIMIT 3", text(query));
    let plan = plan(session, &select);
    assert!(plan.contains("Index Scan"), "{plan}");
    let ids = session.query(&select, &[]).unwrap().iter().map(|row| row.get(0)).collect();
    session.batch_execute("RESET ALL").unwrap();
    ids
}

#[test]
fn every_way_of_making_an_index_makes_the_same_one() {
    let cluster = cluster_without_model(Options::default());
    let mut session = cluster.connect().unwrap();
    let vectors = clustered(3000, 16, 20, 1);
    table(&mut session, &vectors);
    let query = &vectors[77];
    session.batch_execute("CREATE INDEX i ON t USING esr_ivf (v esr_vector_cosine_ops)").unwrap();
    let want = nearest(&mut session, "t", query);
    assert_eq!(want[0], 77);
    for statement in [
        "REINDEX INDEX i",
        "REINDEX INDEX CONCURRENTLY i",
        "DROP INDEX i; CREATE INDEX i ON t USING esr_ivf (v) WITH (lists = 20)",
        "DROP INDEX i",
        "CREATE INDEX CONCURRENTLY i ON t USING esr_ivf (v)",
        "ALTER INDEX i SET (lists = 7); REINDEX INDEX i",
        "VACUUM FULL t",
        "SET maintenance_work_mem = '1MB'; SET max_parallel_maintenance_workers = 0; REINDEX INDEX i; RESET ALL",
        "ALTER TABLE t SET (parallel_workers = 4); SET max_parallel_maintenance_workers = 4; REINDEX INDEX i; RESET ALL",
        "DROP INDEX i; ALTER TABLE t SET UNLOGGED; CREATE INDEX i ON t USING esr_ivf (v)",
        "ALTER TABLE t SET LOGGED",
    ] {
        run(&mut session, statement);
        if statement == "DROP INDEX i" {
            continue;
        }
        assert_eq!(nearest(&mut session, "t", query)[0], 77, "{statement}");
        assert_eq!(check(&mut session, "i"), 3000, "{statement}");
    }
    let mut lists = |statements: &str| -> i32 {
        run(&mut session, statements);
        session.query_one("SELECT lists FROM esr_index_info('i')", &[]).unwrap().get(0)
    };
    let few = lists("ALTER INDEX i SET (lists = 7); REINDEX INDEX i");
    let chosen = lists("ALTER INDEX i RESET (lists); REINDEX INDEX i");
    assert!(few <= 8 && chosen > 20, "{few} {chosen}");
    for bad in ["lists = -1", "lists = 100000000", "lists = many", "probes = 1"] {
        let error = session.batch_execute(&format!("CREATE INDEX ON t USING esr_ivf (v) WITH ({bad})")).unwrap_err();
        assert_eq!(state(&error).code(), "22023", "{bad}: {}", words(&error));
    }
    for bad in ["(v, v)", "(v) INCLUDE (id)", "(v DESC)", "(id)"] {
        assert!(session.batch_execute(&format!("CREATE INDEX ON t USING esr_ivf {bad}")).is_err(), "{bad}");
    }
    assert!(session.batch_execute("CREATE UNIQUE INDEX ON t USING esr_ivf (v)").is_err());
    let valid: bool = session
        .query_one("SELECT bool_and(amvalidate(c.oid)) FROM pg_opclass c JOIN pg_am m ON m.oid = opcmethod WHERE amname = 'esr_ivf'", &[])
        .unwrap()
        .get(0);
    assert!(valid);
}

#[test]
fn an_index_made_on_an_empty_table_is_filled_later() {
    let cluster = cluster_without_model(Options::default());
    let mut session = cluster.connect().unwrap();
    let vectors = clustered(3000, 16, 20, 2);
    session.batch_execute("CREATE TABLE t (id int, v esr_vector(16)); CREATE INDEX i ON t USING esr_ivf (v)").unwrap();
    copy(&mut session, "t", 0, &vectors);
    assert_eq!(check(&mut session, "i"), 3000);
    assert_eq!(nearest(&mut session, "t", &vectors[5])[0], 5);
    session.batch_execute("VACUUM ANALYZE t").unwrap();
    assert_eq!(check(&mut session, "i"), 3000);
    assert_eq!(nearest(&mut session, "t", &vectors[5])[0], 5);
    let trained: bool = session.query_one("SELECT is_trained FROM esr_index_info('i')", &[]).unwrap().get(0);
    assert!(trained, "VACUUM makes up for the training that an empty table did not allow");
}

#[test]
fn partitions_expressions_and_conditions() {
    let cluster = cluster_without_model(Options::default());
    let mut session = cluster.connect().unwrap();
    let vectors = clustered(2000, 8, 10, 3);
    session
        .batch_execute(
            "CREATE TABLE p (id int, v esr_vector(8)) PARTITION BY RANGE (id);
             CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (1000);
             CREATE TABLE p2 PARTITION OF p FOR VALUES FROM (1000) TO (2000);
             CREATE INDEX ON p USING esr_ivf (v)",
        )
        .unwrap();
    copy(&mut session, "p", 0, &vectors);
    session.batch_execute("ANALYZE p").unwrap();
    assert_eq!(nearest(&mut session, "p", &vectors[3])[0], 3);
    assert_eq!(nearest(&mut session, "p", &vectors[1500])[0], 1500);
    assert_eq!(check(&mut session, "p1_v_idx") + check(&mut session, "p2_v_idx"), 2000);

    table(&mut session, &vectors);
    // An expression: vectors that are stored as arrays.
    session
        .batch_execute(
            "CREATE TABLE a AS SELECT id, v::real[] AS r FROM t;
             CREATE INDEX a_i ON a USING esr_ivf ((r::esr_vector(8)) esr_vector_cosine_ops);
             INSERT INTO a SELECT id + 2000, r FROM a WHERE id < 100; ANALYZE a",
        )
        .unwrap();
    assert_eq!(check(&mut session, "a_i"), 2100);
    let select = format!("SELECT id FROM a ORDER BY r::esr_vector(8) <=> '{}' LIMIT 2", text(&vectors[9]));
    session.batch_execute("SET enable_seqscan = off").unwrap();
    assert!(plan(&mut session, &select).contains("a_i"), "{}", plan(&mut session, &select));
    let mut ids: Vec<i32> = session.query(&select, &[]).unwrap().iter().map(|row| row.get(0)).collect();
    ids.sort_unstable();
    assert_eq!(ids, [9, 2009]);

    // A condition.
    session.batch_execute("CREATE INDEX t_i ON t USING esr_ivf (v) WHERE id % 2 = 0; ANALYZE t").unwrap();
    assert_eq!(check(&mut session, "t_i"), 1000);
    let select = format!("SELECT id FROM t WHERE id % 2 = 0 ORDER BY v <=> '{}' LIMIT 1", text(&vectors[10]));
    assert!(plan(&mut session, &select).contains("t_i"), "{}", plan(&mut session, &select));
    assert_eq!(session.query_one(&select, &[]).unwrap().get::<_, i32>(0), 10);
    // Without an order it has nothing to offer, whatever else costs.
    let unordered = plan(&mut session, "SELECT id FROM t WHERE id % 2 = 0");
    assert!(!unordered.contains("Index"), "{unordered}");
}

#[test]
fn the_planner_takes_the_index_when_it_is_faster_and_only_then() {
    let cluster = cluster_without_model(Options::default());
    let mut session = cluster.connect().unwrap();
    let vectors = clustered(20_000, 64, 40, 4);
    table(&mut session, &vectors);
    session.batch_execute("CREATE INDEX ON t USING esr_ivf (v); CREATE INDEX ON t (id); ANALYZE t").unwrap();
    let query = text(&vectors[0]);
    let order = format!("ORDER BY v <=> '{query}'");
    let l2 = format!("ORDER BY v <-> '{query}'");
    let cases = [
        (format!("SELECT id FROM t {order} LIMIT 1"), true),
        (format!("SELECT id FROM t {order} LIMIT 10"), true),
        (format!("SELECT id FROM t {order} LIMIT 100"), true),
        (format!("SELECT id FROM t WHERE id % 2 = 0 {order} LIMIT 10"), true),
        (format!("SELECT id FROM t WHERE id > 10000 {order} LIMIT 10"), true),
        // All rows: sorting them is faster.
        (format!("SELECT id FROM t {order}"), false),
        (format!("SELECT id FROM t {order} LIMIT 19000"), false),
        // Few rows pass, and another index names them.
        (format!("SELECT id FROM t WHERE id < 30 {order} LIMIT 10"), false),
        // Another distance, two orders, backwards, no order.
        (format!("SELECT id FROM t {l2} LIMIT 10"), false),
        (format!("SELECT id FROM t {order}, v <=> '{query}' DESC LIMIT 10"), true),
        (format!("SELECT id FROM t {order}, v <=> '{}' LIMIT 10", text(&vectors[1])), false),
        (format!("SELECT id FROM t {order} DESC LIMIT 10"), false),
        ("SELECT count(*) FROM t".into(), false),
        (format!("SELECT id FROM t WHERE v <=> '{query}' < 0.1"), false),
    ];
    for (select, expected) in cases {
        let plan = plan(&mut session, &select);
        let uses = plan.contains("t_v_idx");
        assert_eq!(uses, expected, "{}\n{plan}", select.replace(&query, "..."));
    }
    // A table of a few pages is read at once.
    session
        .batch_execute("CREATE TABLE s AS SELECT * FROM t LIMIT 50; CREATE INDEX ON s USING esr_ivf (v); ANALYZE s")
        .unwrap();
    let small = plan(&mut session, &format!("SELECT id FROM s {order} LIMIT 5"));
    assert!(!small.contains("Index Scan"), "{small}");
    // Prepared statements and joins.
    session.batch_execute("SET plan_cache_mode = force_generic_plan").unwrap();
    let prepared = session.prepare("SELECT id FROM t ORDER BY v <=> $1::real[]::esr_vector(64) LIMIT 3").unwrap();
    for id in [7usize, 8] {
        let rows = session.query(&prepared, &[&vectors[id]]).unwrap();
        assert_eq!(rows[0].get::<_, i32>(0), id as i32);
    }
    let lateral = "SELECT q.id, n.id FROM (SELECT * FROM t WHERE id < 20) q,
                   LATERAL (SELECT t.id FROM t ORDER BY t.v <=> q.v LIMIT 1) n";
    assert!(plan(&mut session, lateral).contains("t_v_idx"), "{}", plan(&mut session, lateral));
    let rows = session.query(lateral, &[]).unwrap();
    assert!(rows.len() == 20 && rows.iter().all(|row| row.get::<_, i32>(0) == row.get::<_, i32>(1)));
    let scans = "SELECT pg_stat_force_next_flush()::text; SELECT idx_scan FROM pg_stat_user_indexes WHERE indexrelname = 't_v_idx'";
    wait_until(Duration::from_secs(10), || {
        let answers = session.simple_query(scans).unwrap();
        let counts = answers.iter().filter_map(|message| match message {
            postgres::SimpleQueryMessage::Row(row) => row.get(0).and_then(|text| text.parse::<i64>().ok()),
            _ => None,
        });
        counts.max().unwrap_or(0) >= 22
    })
    .unwrap();
}

#[test]
fn rows_are_seen_as_their_transactions_want() {
    let cluster = cluster_without_model(Options::default());
    let mut session = cluster.connect().unwrap();
    let mut other = cluster.connect().unwrap();
    let vectors = clustered(1500, 8, 10, 5);
    table(&mut session, &vectors);
    run(&mut session, "CREATE INDEX i ON t USING esr_ivf (v); ALTER TABLE t SET (fillfactor = 50); VACUUM FULL t");
    let place: Vec<f32> = vec![30.0; 8];
    let insert = format!("INSERT INTO t VALUES (9001, '{}')", text(&place));
    // Not before the commit, and not after a rollback.
    session.batch_execute(&format!("BEGIN; {insert}")).unwrap();
    assert_ne!(nearest(&mut other, "t", &place)[0], 9001);
    session.batch_execute("ROLLBACK").unwrap();
    assert_ne!(nearest(&mut session, "t", &place)[0], 9001);
    // Savepoints; one's own rows at once.
    session
        .batch_execute(&format!("BEGIN; SAVEPOINT s; {insert}; ROLLBACK TO s; {}", insert.replace("9001", "9002")))
        .unwrap();
    assert_eq!(nearest(&mut session, "t", &place)[0], 9002);
    session.batch_execute("COMMIT").unwrap();
    assert_eq!(nearest(&mut other, "t", &place)[0], 9002);
    // Updates of another column keep the index entry (HOT); an update of the vector adds one.
    for round in 0..5 {
        session.batch_execute(&format!("UPDATE t SET id = {} WHERE id = {}", 9003 + round, 9002 + round)).unwrap();
        assert_eq!(nearest(&mut other, "t", &place)[0], 9003 + round);
    }
    let entries = "SELECT rows FROM esr_index_check('i')";
    let before: i64 = session.query_one(entries, &[]).unwrap().get(0);
    session.batch_execute(&format!("UPDATE t SET v = '{}' WHERE id = 9007", text(&vectors[0]))).unwrap();
    let after: i64 = session.query_one(entries, &[]).unwrap().get(0);
    assert_eq!((before, after), (1503, 1504), "1,500 rows, two rolled back, one more; one updated");
    assert_ne!(nearest(&mut other, "t", &place)[0], 9007);
    // A snapshot that is kept sees what it saw, and so does a cursor.
    other.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SET enable_seqscan = off").unwrap();
    let declare = format!("DECLARE c CURSOR FOR SELECT id FROM t ORDER BY v <=> '{}'", text(&vectors[3]));
    other.batch_execute(&declare).unwrap();
    let first: i32 = other.query_one("FETCH 1 FROM c", &[]).unwrap().get(0);
    assert_eq!(first, 3);
    run(&mut session, "DELETE FROM t WHERE id < 1000; VACUUM t");
    let rest = other.query("FETCH ALL FROM c", &[]).unwrap().len();
    assert_eq!(rest, 1500);
    other.batch_execute("COMMIT").unwrap();
    session.batch_execute("VACUUM t").unwrap();
    assert_eq!(check(&mut session, "i"), 501);
    assert_eq!(ask(&mut session, "t", "<=>", &place, 1000).found.len(), 501);
}

#[test]
fn a_build_shows_its_progress_and_can_be_cancelled() {
    let cluster = cluster_without_model(Options::default());
    let mut session = cluster.connect().unwrap();
    table(&mut session, &clustered(20_000, 64, 20, 6));
    // Until it is slow enough to be looked at on this machine.
    session.batch_execute("INSERT INTO t SELECT id + 20000 * n, v FROM t, generate_series(1, 2) n").unwrap();
    let mut watcher = cluster.connect().unwrap();
    let cancel = session.cancel_token();
    let mut phases = Vec::new();
    std::thread::scope(|scope| {
        let build = scope.spawn(|| session.batch_execute("CREATE INDEX i ON t USING esr_ivf (v)"));
        wait_until(Duration::from_secs(120), || {
            let progress = "SELECT phase, tuples_done, tuples_total FROM pg_stat_progress_create_index";
            for row in watcher.query(progress, &[]).unwrap() {
                let phase: String = row.get(0);
                if phases.last() != Some(&phase) {
                    phases.push(phase);
                }
            }
            phases.iter().any(|phase| phase == "building index: loading rows") || build.is_finished()
        })
        .unwrap();
        let _ = cancel.cancel_query(postgres::NoTls);
        match build.join().unwrap() {
            Err(error) => assert_eq!(state(&error).code(), "57014", "{}", words(&error)),
            Ok(()) => println!("the build was faster than its cancellation"),
        }
    });
    println!("{phases:?}");
    assert!(phases.iter().any(|phase| phase.starts_with("building index: ")), "{phases:?}");
    session.batch_execute("DROP INDEX IF EXISTS i; SET statement_timeout = '50ms'").unwrap();
    let error = session.batch_execute("CREATE INDEX i ON t USING esr_ivf (v)").unwrap_err();
    assert_eq!(state(&error).code(), "57014");
    // The session is as good as before.
    session.batch_execute("RESET statement_timeout; TRUNCATE t; CREATE INDEX i ON t USING esr_ivf (v)").unwrap();
    assert_eq!(check(&mut session, "i"), 0);
}

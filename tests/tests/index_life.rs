//! An `esr_ivf` index in use: rows come and go, it grows, and many sessions work on it at once.

mod common;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use common::vectors::{
    ask, check, cluster_without_model, clustered, copy, mean_recall, normal, run, seeded, table, text,
};
use common::words;
use esr_tests::cluster::{Cluster, Options};
use postgres::Client;
use rand::Rng;

fn info(session: &mut Client, column: &str) -> f64 {
    session.query_one(&format!("SELECT {column}::float8 FROM esr_index_info('i')"), &[]).unwrap().get(0)
}

fn index_bytes(session: &mut Client) -> i64 {
    session.query_one("SELECT pg_relation_size('i')", &[]).unwrap().get(0)
}

#[test]
fn vacuum_gives_space_back_and_it_is_used_again() {
    let cluster = cluster_without_model(Options::default());
    let mut session = cluster.connect().unwrap();
    let vectors = clustered(6000, 16, 20, 1);
    table(&mut session, &vectors);
    run(&mut session, "CREATE TABLE copy AS SELECT * FROM t; CREATE INDEX i ON t USING esr_ivf (v)");
    let queries = clustered(20, 16, 20, 2);
    let mut sizes = vec![index_bytes(&mut session)];
    for round in 0..6 {
        run(&mut session, "DELETE FROM t WHERE id % 2 = 0; VACUUM t");
        assert_eq!(check(&mut session, "i"), 3000, "round {round}");
        let lost: i32 = session.query_one("SELECT lost_pages FROM esr_index_check('i')", &[]).unwrap().get(0);
        assert_eq!(lost, 0, "round {round}");
        run(&mut session, "INSERT INTO t SELECT * FROM copy WHERE id % 2 = 0");
        assert_eq!(check(&mut session, "i"), 6000, "round {round}");
        sizes.push(index_bytes(&mut session));
    }
    println!("bytes after each round: {sizes:?}");
    assert!(sizes[6] <= sizes[0] * 2 && sizes[6] <= sizes[2] * 5 / 4, "the index keeps growing: {sizes:?}");
    let recall = mean_recall(&mut session, "t", "<=>", &queries, 10);
    assert!(recall >= 0.9, "recall {recall}");
    // VACUUM tells PostgreSQL the truth.
    run(&mut session, "DELETE FROM t; VACUUM t");
    assert_eq!(check(&mut session, "i"), 0);
    assert!(ask(&mut session, "t", "<=>", &queries[0], 10).found.is_empty());
    let told: f32 = session.query_one("SELECT reltuples FROM pg_class WHERE relname = 'i'", &[]).unwrap().get(0);
    assert_eq!(told, 0.0);
}

#[test]
fn an_index_that_grew_tenfold_is_as_good_as_a_new_one() {
    let cluster = cluster_without_model(Options::default());
    let mut session = cluster.connect().unwrap();
    let mut vectors = clustered(20_100, 32, 40, 3);
    let queries = vectors.split_off(20_000);
    table(&mut session, &vectors[..2000]);
    run(&mut session, "CREATE INDEX i ON t USING esr_ivf (v)");
    for (part, rows) in vectors[2000..].chunks(3000).enumerate() {
        copy(&mut session, "t", 2000 + part * 3000, rows);
        run(&mut session, "VACUUM t");
    }
    assert_eq!(check(&mut session, "i"), 20_000);
    let mut measure = |name: &str| {
        let recall = mean_recall(&mut session, "t", "<=>", &queries, 10);
        let read: f64 = queries
            .iter()
            .map(|query| {
                let probe = format!("SELECT (esr_index_probe('i', '{}', 10) ->> 'rows_scanned')::float8", text(query));
                session.query_one(&probe, &[]).unwrap().get::<_, f64>(0)
            })
            .sum();
        let read = read / queries.len() as f64;
        let lists = info(&mut session, "lists");
        let imbalance = info(&mut session, "imbalance");
        println!("{name}: recall {recall:.3}, {read:.0} rows looked at, {lists} lists, imbalance {imbalance:.2}");
        (recall, read)
    };
    let grown = measure("grown");
    measure("grown, again");
    let mut other = cluster.connect().unwrap();
    run(&mut other, "REINDEX INDEX i");
    let built = measure("built");
    assert!(grown.0 >= 0.93 && grown.0 >= built.0 - 0.03, "recall {} after growing, {} rebuilt", grown.0, built.0);
    assert!(grown.1 <= built.1 * 1.5, "{} rows looked at after growing, {} rebuilt", grown.1, built.1);
}

/// What each row's vector is, as far as committed; the naive oracle.
struct Writer {
    session: Client,
    rows: HashMap<i32, Vec<f32>>,
    next: i32,
}

impl Writer {
    /// Writers have ids of their own, so each knows its rows.
    fn new(cluster: &Cluster, number: i32) -> Self {
        Self { session: cluster.connect().unwrap(), rows: HashMap::new(), next: number * 1_000_000 }
    }

    /// One transaction: inserts, deletes, updates; one in five is rolled back.
    fn step(&mut self, random: &mut rand_chacha::ChaCha8Rng) {
        let mut transaction = self.session.transaction().unwrap();
        let mut rows = self.rows.clone();
        for _ in 0..random.random_range(1..20) {
            let vector: Vec<f32> = (0..8).map(|_| normal(random)).collect();
            let known: Vec<i32> = rows.keys().copied().collect();
            let some = (!known.is_empty()).then(|| known[random.random_range(0..known.len())]);
            let literal = text(&vector);
            let failed = |error: postgres::Error| panic!("{}", words(&error));
            match (random.random_range(0..4), some) {
                (0, Some(id)) => {
                    transaction.execute(&format!("DELETE FROM t WHERE id = {id}"), &[]).unwrap_or_else(failed);
                    rows.remove(&id);
                }
                (1, Some(id)) => {
                    let update = format!("UPDATE t SET v = '{literal}' WHERE id = {id}");
                    transaction.execute(&update, &[]).unwrap_or_else(failed);
                    rows.insert(id, vector);
                }
                _ => {
                    let insert = format!("INSERT INTO t VALUES ({}, '{literal}')", self.next);
                    transaction.execute(&insert, &[]).unwrap_or_else(failed);
                    rows.insert(self.next, vector);
                    self.next += 1;
                }
            }
        }
        if random.random_range(0..5) == 0 {
            transaction.rollback().unwrap();
        } else {
            transaction.commit().unwrap();
            self.rows = rows;
        }
    }
}

#[test]
fn readers_writers_and_vacuum_work_at_once_without_wrong_rows() {
    const SECONDS: u64 = 12;
    let settings = [("autovacuum", "off"), ("deadlock_timeout", "200ms"), ("max_wal_size", "256MB")];
    let options = settings.iter().fold(Options::default(), |options, (name, value)| options.set(name, value));
    let cluster = cluster_without_model(options);
    let mut session = cluster.connect().unwrap();
    table(&mut session, &clustered(2000, 8, 20, 5));
    run(&mut session, "CREATE INDEX i ON t USING esr_ivf (v)");
    let end = Instant::now() + Duration::from_secs(SECONDS);
    let (is_over, searches) = (AtomicBool::new(false), AtomicU64::new(0));
    let mut all: HashMap<i32, Vec<f32>> = HashMap::new();
    std::thread::scope(|scope| {
        let writers: Vec<_> = (1..=3)
            .map(|number| {
                let mut writer = Writer::new(&cluster, number);
                scope.spawn(move || {
                    let mut random = seeded(number as u64);
                    while Instant::now() < end {
                        writer.step(&mut random);
                    }
                    writer.rows
                })
            })
            .collect();
        for number in 0..2 {
            let mut reader = cluster.connect().unwrap();
            let (is_over, searches) = (&is_over, &searches);
            scope.spawn(move || {
                let mut random = seeded(100 + number);
                // In one snapshot: a search that finds all rows finds those that a plain scan finds, each once.
                reader.batch_execute("SET esr.target_recall = 1; SET jit = off").unwrap();
                while !is_over.load(Ordering::Relaxed) {
                    let query: Vec<f32> = (0..8).map(|_| normal(&mut random)).collect();
                    let mut transaction = reader
                        .build_transaction()
                        .isolation_level(postgres::IsolationLevel::RepeatableRead)
                        .start()
                        .unwrap();
                    let mut ids = |settings: &str, order: &str| -> Vec<i32> {
                        transaction.batch_execute(settings).unwrap();
                        let rows = transaction.query(&format!("SELECT id FROM t {order}"), &[]);
                        rows.unwrap_or_else(|error| panic!("{}", words(&error))).iter().map(|row| row.get(0)).collect()
                    };
                    let order = format!("ORDER BY v <=> '{}'", text(&query));
                    let off = "SET LOCAL enable_seqscan = off; SET LOCAL enable_sort = off";
                    let mut found = ids(off, &order);
                    let mut exact = ids("SET LOCAL enable_seqscan = on; SET LOCAL enable_indexscan = off", "");
                    found.sort_unstable();
                    exact.sort_unstable();
                    assert!(found == exact, "found {} rows of {}", found.len(), exact.len());
                    transaction.commit().unwrap();
                    searches.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let mut vacuum = cluster.connect().unwrap();
        let is_over = &is_over;
        scope.spawn(move || {
            while !is_over.load(Ordering::Relaxed) {
                run(&mut vacuum, "VACUUM t");
                std::thread::sleep(Duration::from_millis(100));
            }
        });
        // Whatever fails, the others must end.
        let ends: Vec<_> = writers.into_iter().map(|writer| writer.join()).collect();
        is_over.store(true, Ordering::Relaxed);
        for rows in ends {
            all.extend(rows.expect("a writer failed"));
        }
    });
    let searches = searches.load(Ordering::Relaxed);
    println!("{} rows left by the writers, {searches} searches compared", all.len());
    assert!(searches > 5 && all.len() > 20);
    // Every committed row is found where it lies, and no other.
    run(&mut session, "VACUUM t");
    let rows: i64 = session.query_one("SELECT count(*) FROM t", &[]).unwrap().get(0);
    assert_eq!(check(&mut session, "i"), rows);
    run(&mut session, "SET esr.target_recall = 1; SET enable_seqscan = off; SET enable_sort = off");
    for (id, vector) in all.iter().take(200) {
        let nearest = format!("SELECT id FROM t ORDER BY v <=> '{}' LIMIT 1", text(vector));
        assert_eq!(session.query_one(&nearest, &[]).unwrap().get::<_, i32>(0), *id);
    }
    assert!(!cluster.log().contains("deadlock detected"), "index pages are locked in circles");
}

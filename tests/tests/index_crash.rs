//! `esr_ivf` indexes after crashes, on standbys, and with damaged pages.

mod common;

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::Duration;

use common::vectors::{check, cluster_without_model, clustered, copy, run, seeded, table, text};
use common::{state, words};
use esr_tests::cluster::{Cluster, Options, Stop, wait_until};
use postgres::Client;
use rand::Rng;

/// The ten nearest rows with their distances, through the index.
fn answer(session: &mut Client, query: &[f32]) -> Vec<(i32, Option<f64>)> {
    let query = text(query);
    session.batch_execute("SET enable_seqscan = off; SET enable_sort = off; SET jit = off").unwrap();
    let select = format!("SELECT id, v <=> '{query}' FROM t ORDER BY v <=> '{query}' LIMIT 10");
    let rows = session.query(&select, &[]).unwrap_or_else(|error| panic!("{}", words(&error)));
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

/// Everything a session does when the postmaster may die at any moment.
fn work_until_the_end(cluster: &Cluster, seed: u64) {
    let Ok(mut session) = cluster.connect() else { return };
    let mut random = seeded(seed);
    let vectors = clustered(500, 8, 5, seed);
    for round in 0.. {
        let first = (seed as i32) * 100_000 + round * 10;
        let literal = text(&vectors[random.random_range(0..vectors.len())]);
        let statement = match random.random_range(0..6) {
            0 => format!("DELETE FROM t WHERE id % 11 = {}", random.random_range(0..11)),
            1 => format!("UPDATE t SET v = '{literal}' WHERE id % 17 = {}", random.random_range(0..17)),
            2 if seed == 1 => "VACUUM t".into(),
            3 if seed == 2 && random.random_range(0..4) == 0 => "REINDEX INDEX CONCURRENTLY i".into(),
            _ => format!(
                "INSERT INTO t SELECT {first} + n, '{literal}' FROM generate_series(0, {}) n",
                random.random_range(0..100)
            ),
        };
        if let Err(error) = session.batch_execute(&statement) {
            // Refusals are none of the postmaster's death: deadlocks of REINDEX with others aside, nothing may be refused.
            let allowed = error
                .as_db_error()
                .is_none_or(|refusal| ["57P01", "57P02", "57P03", "40P01"].contains(&refusal.code().code()));
            assert!(allowed, "{statement:.60}: {}", words(&error));
            if session.is_closed() {
                return;
            }
        }
    }
}

#[test]
fn a_killed_server_comes_back_with_a_sound_index() {
    let options =
        Options::default().set("autovacuum", "off").set("restart_after_crash", "off").set("max_wal_size", "64MB");
    let mut cluster = cluster_without_model(options);
    let mut session = cluster.connect().unwrap();
    table(&mut session, &clustered(1500, 8, 5, 9));
    run(&mut session, "CREATE INDEX i ON t USING esr_ivf (v)");
    drop(session);
    let mut random = seeded(10);
    for round in 0..6 {
        std::thread::scope(|scope| {
            for seed in 1..4 {
                let cluster = &cluster;
                scope.spawn(move || work_until_the_end(cluster, seed));
            }
            std::thread::sleep(Duration::from_millis(random.random_range(200..2000)));
            cluster.kill_postmaster().unwrap();
        });
        cluster.start_again().unwrap();
        let mut session = cluster.connect().unwrap();
        // A concurrent reindex that was interrupted leaves an index marked invalid, as for any access method.
        let invalid = session
            .query(
                "SELECT indexrelid::regclass::text FROM pg_index WHERE indrelid = 't'::regclass AND NOT indisvalid",
                &[],
            )
            .unwrap();
        for row in invalid {
            run(&mut session, &format!("DROP INDEX IF EXISTS {}", row.get::<_, String>(0)));
        }
        let rows = check(&mut session, "i");
        println!("round {round}: {rows} rows in the index");
        if round % 2 == 1 {
            run(&mut session, "VACUUM t");
            check(&mut session, "i");
        }
    }
}

#[test]
fn standbys_and_base_backups_answer_like_their_primary() {
    let primary = cluster_without_model(Options::default().set("wal_level", "replica").set("autovacuum", "off"));
    let mut session = primary.connect().unwrap();
    let vectors = clustered(4000, 16, 20, 2);
    table(&mut session, &vectors[..3000]);
    run(&mut session, "CREATE INDEX i ON t USING esr_ivf (v)");
    let folder = tempfile::Builder::new().prefix("standby-").tempdir_in(primary.folder().parent().unwrap()).unwrap();
    primary.give_to_owner(folder.path()).unwrap();
    let data: PathBuf = folder.path().join("data");
    let mut backup = primary.command("pg_basebackup");
    backup.args(["-U", "postgres", "-X", "stream", "--write-recovery-conf", "--checkpoint=fast", "--no-sync", "-h"]);
    let made = backup.arg(primary.socket_folder()).arg("-D").arg(&data).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let standby = Cluster::start(Options { folder: Some(folder.path().to_path_buf()), ..Options::default() }).unwrap();
    let mut reader = standby.connect().unwrap();
    let mut compare = |session: &mut Client, what: &str| {
        // What is inserted, not what is written yet: VACUUM leaves its last records in the buffers.
        let position: String = session.query_one("SELECT pg_current_wal_insert_lsn()::text", &[]).unwrap().get(0);
        let reached = format!("SELECT pg_last_wal_replay_lsn() >= '{position}'");
        wait_until(Duration::from_secs(30), || reader.query_one(&reached, &[]).unwrap().get::<_, bool>(0)).unwrap();
        for query in clustered(10, 16, 20, 3) {
            assert_eq!(answer(session, &query), answer(&mut reader, &query), "{what}");
        }
        assert_eq!(check(session, "i"), check(&mut reader, "i"), "{what}");
        reader.batch_execute("RESET ALL").unwrap();
        session.batch_execute("RESET ALL").unwrap();
    };
    compare(&mut session, "after the backup");
    copy(&mut session, "t", 3000, &vectors[3000..]);
    compare(&mut session, "after inserts");
    run(&mut session, "DELETE FROM t WHERE id % 3 = 0; VACUUM t");
    compare(&mut session, "after vacuum");
    run(&mut session, "INSERT INTO t SELECT id + 10000, v FROM t; VACUUM t");
    compare(&mut session, "after more inserts");
    run(&mut session, "REINDEX INDEX i");
    compare(&mut session, "after reindex");
    run(&mut session, "TRUNCATE t; INSERT INTO t VALUES (1, NULL); VACUUM t");
    compare(&mut session, "after truncate");
}

#[test]
fn an_unlogged_table_is_empty_after_a_crash_and_its_index_works() {
    let mut cluster = cluster_without_model(Options::default());
    let mut session = cluster.connect().unwrap();
    let vectors = clustered(1000, 8, 5, 4);
    run(
        &mut session,
        "CREATE UNLOGGED TABLE t (id int, v esr_vector(8)); CREATE UNLOGGED TABLE w (id int, v esr_vector)",
    );
    copy(&mut session, "t", 0, &vectors);
    copy(&mut session, "w", 0, &vectors);
    run(&mut session, "CREATE INDEX i ON t USING esr_ivf (v); CREATE INDEX w_i ON w USING esr_ivf (v)");
    assert_eq!(answer(&mut session, &vectors[7])[0].0, 7);
    drop(session);
    cluster.kill_postmaster().unwrap();
    cluster.start_again().unwrap();
    let mut session = cluster.connect().unwrap();
    assert_eq!(check(&mut session, "i"), 0);
    assert!(answer(&mut session, &vectors[7]).is_empty());
    copy(&mut session, "t", 0, &vectors);
    copy(&mut session, "w", 0, &vectors);
    assert_eq!(answer(&mut session, &vectors[7])[0].0, 7);
    assert_eq!(check(&mut session, "i"), 1000);
    assert_eq!(check(&mut session, "w_i"), 1000);
}

#[test]
fn an_immediate_stop_during_a_build_leaves_nothing_behind() {
    let mut cluster = cluster_without_model(Options::default());
    let mut session = cluster.connect().unwrap();
    table(&mut session, &clustered(10_000, 32, 5, 5));
    std::thread::scope(|scope| {
        scope.spawn(|| assert!(session.batch_execute("CREATE INDEX i ON t USING esr_ivf (v)").is_err()));
        std::thread::sleep(Duration::from_millis(300));
        cluster.stop(Stop::Immediate).unwrap();
    });
    cluster.start_again().unwrap();
    let mut session = cluster.connect().unwrap();
    run(&mut session, "CREATE INDEX i ON t USING esr_ivf (v)");
    assert_eq!(check(&mut session, "i"), 10_000);
}

#[test]
fn a_damaged_page_is_an_error_that_names_index_and_block() {
    const TABLES: u64 = 10;
    let mut cluster = cluster_without_model(Options::default().set("autovacuum", "off"));
    let mut session = cluster.connect().unwrap();
    table(&mut session, &clustered(1200, 8, 5, 6));
    for number in 0..TABLES {
        run(
            &mut session,
            &format!(
                "CREATE TABLE t{number} AS SELECT * FROM t; CREATE INDEX i{number} ON t{number} USING esr_ivf (v)"
            ),
        );
    }
    let literal = text(&clustered(1, 8, 5, 6)[0]);
    let mut random = seeded(11);
    let mut refused = 0;
    for round in 0..4 {
        let mut damages = Vec::new();
        for number in 0..TABLES {
            let query = format!("SELECT pg_relation_filepath('i{number}'), pg_relation_size('i{number}') / 8192");
            let row = session.query_one(&query, &[]).unwrap();
            let (path, blocks): (String, i64) = (row.get(0), row.get(1));
            // The meta page and the first behind it, and any other.
            let block = if number < 4 { number as i64 / 2 } else { random.random_range(0..blocks) };
            let length = [8192, 64, 4, 1][(round + number as usize) % 4];
            let mut bytes = vec![0u8; length];
            if number % 3 > 0 {
                random.fill(&mut bytes[..]);
            }
            // PostgreSQL checks its own header itself: damage lies behind it, or the page is blank in front.
            let header = length.min(24) * usize::from(length == 8192);
            bytes[..header].fill(0);
            let offset = if length == 8192 { 0 } else { random.random_range(24..=8192 - length) };
            damages.push((path, block as u64 * 8192 + offset as u64, bytes));
        }
        drop(session);
        cluster.stop(Stop::Fast).unwrap();
        for (path, offset, bytes) in damages {
            let file = OpenOptions::new().write(true).open(cluster.data().join(path)).unwrap();
            file.write_all_at(&bytes, offset).unwrap();
        }
        cluster.start_again().unwrap();
        session = cluster.connect().unwrap();
        for number in 0..TABLES {
            run(&mut session, "SET enable_seqscan = off; SET enable_sort = off; SET jit = off");
            let search = format!("SELECT id FROM t{number} ORDER BY v <=> '{literal}' LIMIT 2000");
            let outcomes = [
                ("search", session.query(&search, &[]).map(drop)),
                ("insert", session.batch_execute(&format!("INSERT INTO t{number} VALUES (-1, '{literal}')"))),
                ("vacuum", session.batch_execute(&format!("VACUUM t{number}"))),
                ("check", session.query(&format!("SELECT esr_index_check('i{number}', true)"), &[]).map(drop)),
            ];
            for (what, outcome) in outcomes {
                let Err(error) = outcome else { continue };
                refused += 1;
                let (message, code) = (words(&error), state(&error));
                // XX001 is PostgreSQL's own "invalid page in block ... of relation ...".
                let is_ours = ["XX002", "55000"].contains(&code.code());
                assert!(is_ours || code.code() == "XX001", "round {round}, {what}: {code:?} {message}");
                let says_all = message.contains(&format!("\"i{number}\"")) && message.contains("REINDEX INDEX");
                assert!(says_all || !is_ours, "round {round}, {what}: {message}");
            }
            run(
                &mut session,
                &format!("RESET ALL; DELETE FROM t{number} WHERE id = -1; REINDEX INDEX i{number}; VACUUM t{number}"),
            );
            assert_eq!(check(&mut session, &format!("i{number}")), 1200, "round {round}, table {number}");
        }
    }
    println!("{refused} refusals");
    assert!(refused > 20);
    assert!(!cluster.log().contains("terminated by signal"), "a damaged page has killed a backend");
}

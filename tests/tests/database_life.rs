//! Embeddings in the life of a database: dump and restore, standbys, parallel plans, prepared statements.

mod common;

use std::{path::PathBuf, time::Duration};

use common::{cluster, embed_text, same, tone};
use esr_tests::{
    cluster::{Cluster, Options, wait_until},
    models::use_tiny_model,
};

#[test]
fn dump_and_restore_keep_every_bit_and_the_model_tag() {
    let cluster = cluster();
    let mut session = cluster.connect().unwrap();
    session
        .batch_execute(
            "CREATE TABLE q (id int, audio bytea, v esr_vector(8));
             SELECT esr_attach('q', 'audio', 'v', mode => 'queue');
             ALTER TABLE q DISABLE TRIGGER USER;
             CREATE TABLE t (id int, audio bytea, v esr_vector(8));
             SELECT esr_attach('t', 'audio', 'v');
             INSERT INTO t SELECT i, NULL, NULL FROM generate_series(1, 5) i;
             UPDATE t SET v = esr_embed_text('text ' || id);
             CREATE INDEX i ON t USING esr_ivf (v esr_vector_l2_ops) WITH (lists = 3);",
        )
        .unwrap();
    // Pending when the dump is made, and therefore pending in what it restores.
    session.execute("INSERT INTO q SELECT i, $1 FROM generate_series(1, 40) i", &[&tone(200.0, 0.5)]).unwrap();
    session.batch_execute("ALTER TABLE q ENABLE TRIGGER USER").unwrap();
    session.batch_execute("CREATE DATABASE restored").unwrap();
    let dump =
        cluster.command("pg_dump").args(["-U", "postgres", "-h"]).arg(cluster.socket_folder()).arg("postgres").output();
    let dump = String::from_utf8(dump.unwrap().stdout).unwrap();
    let printed = cluster.psql("restored", &["-q", "-v", "ON_ERROR_STOP=1"], &dump).unwrap();
    assert!(!printed.contains("ERROR"), "{printed}");
    let query = "SELECT md5(string_agg(encode(esr_vector_send(v), 'hex') || esr_model_tag(v), ',' ORDER BY id)) FROM t";
    let before: Option<String> = session.query_one(query, &[]).unwrap().get(0);
    let mut restored = cluster.connect_to("restored").unwrap();
    let after: Option<String> = restored.query_one(query, &[]).unwrap().get(0);
    assert!(before.is_some() && before == after, "{before:?} {after:?}");
    // The index was made again, and the trigger came along and works.
    let rows: i64 = restored.query_one("SELECT rows FROM esr_index_check('i', true)", &[]).unwrap().get(0);
    assert_eq!(rows, 5);
    restored.execute("INSERT INTO t VALUES (9, $1, NULL)", &[&tone(300.0, 0.5)]).unwrap();
    assert_eq!(restored.query("SELECT FROM t WHERE id = 9 AND v IS NOT NULL", &[]).unwrap().len(), 1);
    restored.execute("INSERT INTO t SELECT 100 + i, $1 FROM generate_series(1, 40) i", &[&tone(300.0, 0.5)]).unwrap();
    assert_eq!(restored.query("SELECT FROM t WHERE id > 100 AND v IS NOT NULL", &[]).unwrap().len(), 40);
    restored.execute("SELECT esr_wake_queue()", &[]).unwrap();
    wait_until(Duration::from_secs(60), || restored.query("SELECT FROM q WHERE v IS NULL", &[]).unwrap().is_empty())
        .expect("restored rows stay pending");
}

#[test]
fn a_hot_standby_answers_by_itself() {
    let primary = cluster();
    let want = embed_text(&mut primary.connect().unwrap(), "sleepy").unwrap();
    let folder = tempfile::Builder::new().prefix("standby-").tempdir_in(primary.folder().parent().unwrap()).unwrap();
    primary.give_to_owner(folder.path()).unwrap();
    let data: PathBuf = folder.path().join("data");
    let mut copy = primary.command("pg_basebackup");
    copy.args(["-U", "postgres", "-X", "stream", "--write-recovery-conf", "--checkpoint=fast", "--no-sync", "-h"]);
    let copied = copy.arg(primary.socket_folder()).arg("-D").arg(&data).output().unwrap();
    assert!(copied.status.success(), "{}", String::from_utf8_lossy(&copied.stderr));
    assert!(!data.join("esr_embedder.sock").exists(), "a socket was copied");
    let options = Options { folder: Some(folder.path().to_path_buf()), ..Options::default() };
    let mut standby = Cluster::create(options).unwrap();
    use_tiny_model(&standby, &[]).unwrap();
    standby.start_again().unwrap();
    let mut session = standby.connect().unwrap();
    let recovering: bool = session.query_one("SELECT pg_is_in_recovery()", &[]).unwrap().get(0);
    assert!(recovering);
    assert!(same(&embed_text(&mut session, "sleepy").unwrap(), &want));
    assert_ne!(standby.embedders(), primary.embedders(), "each server has an embedder of its own");
}

#[test]
fn parallel_plans_and_just_in_time_compilation_change_nothing() {
    let cluster = cluster();
    let mut session = cluster.connect().unwrap();
    session
        .batch_execute(
            "CREATE TABLE t AS SELECT i AS id, esr_embed_text('seed ' || i) AS v FROM generate_series(1, 40) i;
             INSERT INTO t SELECT id + 40 * n, v FROM t, generate_series(1, 100) n;
             ANALYZE t;",
        )
        .unwrap();
    let query = "SELECT id FROM t ORDER BY v <=> esr_embed_text('seed 17'), id LIMIT 20";
    let mut ids = |settings: &str| -> Vec<i32> {
        session.batch_execute(settings).unwrap();
        session.query(query, &[]).unwrap().iter().map(|row| row.get(0)).collect()
    };
    let serial = ids("SET max_parallel_workers_per_gather = 0; SET jit = off");
    let parallel =
        ids("SET max_parallel_workers_per_gather = 2; SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0;
                        SET min_parallel_table_scan_size = 0");
    let compiled = ids("SET jit = on; SET jit_above_cost = 0");
    assert_eq!(serial.len(), 20);
    assert!(serial.iter().all(|id| id % 40 == 17), "{serial:?}");
    assert_eq!(serial, parallel);
    assert_eq!(serial, compiled);
    let plan: Vec<String> =
        session.query(&format!("EXPLAIN {query}"), &[]).unwrap().iter().map(|row| row.get(0)).collect();
    assert!(plan.iter().any(|line| line.contains("Gather")), "the plan was not parallel: {plan:?}");
    // avg over workers combines partial states.
    let average = "SELECT esr_norm(avg(v)) FROM t";
    let parallel: f64 = session.query_one(average, &[]).unwrap().get(0);
    session.batch_execute("SET max_parallel_workers_per_gather = 0").unwrap();
    let serial: f64 = session.query_one(average, &[]).unwrap().get(0);
    assert!((parallel - serial).abs() < 1e-6, "{parallel} {serial}");
}

//! The embedder under many sessions at once, and the ends a waiting statement can come to.

mod common;

use std::time::{Duration, Instant};

use common::{cluster_with, embed_speech, embed_text, same, state, tone, words};
use esr_tests::{
    cluster::{Cluster, Options, Stop, wait_until},
    models::{copy_bundle, repository},
    processes,
    storm::{self, Storm},
};
use postgres::Client;

/// More than sixteen tokens: keeps the slow bundle busy for minutes.
const SLOW_TEXT: &str = "a text of many more than sixteen tokens";

#[test]
fn every_call_of_a_storm_is_answered_rightly_or_fails_as_documented() {
    let cluster = cluster_with(Options::default().set("max_connections", 120), &[]);
    let postmaster = cluster.postmaster().unwrap();
    let clips = [0.4f32, 0.45, 0.9, 1.6, 3.1].map(|seconds| tone(100.0 + 90.0 * seconds, seconds)).into();
    let storm = Storm { connections: 60, calls: 3_000, kills: 4, seed: 7, clips };
    let outcome = storm::run(&cluster, &storm).unwrap();
    println!(
        "{} calls: {} answered, failed {:?}; embedder killed {} times, {} cancels, {} terminations, {:.1} s",
        storm.calls,
        outcome.answered,
        outcome.failed,
        outcome.killed,
        outcome.cancelled,
        outcome.terminated,
        outcome.took.as_secs_f64()
    );
    assert_eq!(outcome.answered + outcome.failed.values().sum::<usize>(), storm.calls);
    assert!(outcome.killed >= 2 && outcome.answered > storm.calls / 2, "{outcome:?}");
    assert_eq!(cluster.postmaster(), Some(postmaster), "the cluster restarted");
    assert!(!cluster.log().contains("reinitializing"), "the cluster went through crash recovery");
    let mut session = cluster.connect().unwrap();
    wait_until(Duration::from_secs(30), || embed_text(&mut session, "calm").is_ok()).unwrap();
    assert_eq!(cluster.embedders().len(), 1, "one process has the one copy of the model");
    wait_until(Duration::from_secs(30), || waiting(&mut session) == (0, 0)).expect("requests of nobody are left");
    let data = cluster.data().display().to_string();
    cluster.stop(Stop::Fast).unwrap();
    assert!(processes::matching(&data).is_empty(), "{:?}", processes::matching(&data));
    assert!(!cluster.data().join("esr_embedder.sock").exists());
}

/// Requests that wait and batches that run, as the view tells them.
fn waiting(session: &mut Client) -> (i32, i32) {
    let row = session.query_one("SELECT queued, running FROM esr_stat_embedder", &[]).unwrap();
    (row.get(0), row.get(1))
}

/// A cluster with the models `tiny` and `slow`, whose queue has room for two.
fn narrow_cluster() -> Cluster {
    let cluster = cluster_with(Options::default(), &[("esr.embedder_queue", "2")]);
    let slow = repository().join("extension/crates/encoder/tests/fixtures/slow-bundle");
    copy_bundle(&slow, &cluster.folder().join("models/slow")).unwrap();
    let mut session = cluster.connect().unwrap();
    session.query_one("SELECT esr_embed_text('short', 'slow')", &[]).unwrap();
    cluster
}

struct Waiting {
    backend: i32,
    thread: std::thread::JoinHandle<(postgres::Error, Duration)>,
}

/// A session that asks for what takes minutes, after `set`.
fn ask_slowly(cluster: &Cluster, set: &str) -> Waiting {
    let mut session = cluster.connect().unwrap();
    let backend = session.query_one("SELECT pg_backend_pid(), esr_dims('[1]')", &[]).unwrap().get(0);
    session.batch_execute(set).unwrap();
    let thread = std::thread::spawn(move || {
        let start = Instant::now();
        let error = session.query_one("SELECT esr_embed_text($1, 'slow')", &[&SLOW_TEXT]).unwrap_err();
        (error, start.elapsed())
    });
    Waiting { backend, thread }
}

#[test]
fn a_statement_ends_at_once_while_queued_and_while_running_and_a_full_queue_says_so() {
    let cluster = narrow_cluster();
    let mut session = cluster.connect().unwrap();
    let until = |session: &mut Client, state: (i32, i32)| {
        wait_until(Duration::from_secs(20), || waiting(session) == state).unwrap_or_else(|_| panic!("not {state:?}"))
    };
    let runs = ask_slowly(&cluster, "");
    until(&mut session, (0, 1));
    let (cancelled, late) = (ask_slowly(&cluster, ""), ask_slowly(&cluster, "SET statement_timeout = '3s'"));
    until(&mut session, (2, 1));
    let event: Option<String> = session
        .query_one("SELECT wait_event_type FROM pg_stat_activity WHERE pid = $1", &[&cancelled.backend])
        .unwrap()
        .get(0);
    assert_eq!(event.as_deref(), Some("Extension"));
    // Full: refused at once, with what to do about it.
    let start = Instant::now();
    let error = embed_text(&mut session, "never seen before").unwrap_err();
    assert_eq!(state(&error).code(), "53000", "{}", words(&error));
    assert!(
        words(&error).contains("2 requests wait") && words(&error).contains("esr.embedder_queue"),
        "{}",
        words(&error)
    );
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    // Clips do not wait behind texts.
    assert_eq!(embed_speech(&mut session, &tone(200.0, 0.5)).unwrap().len(), 8);
    session.query_one("SELECT pg_cancel_backend($1)", &[&cancelled.backend]).unwrap();
    let (error, _) = cancelled.thread.join().unwrap();
    assert_eq!(state(&error).code(), "57014");
    let (error, took) = late.thread.join().unwrap();
    assert_eq!(state(&error).code(), "57014", "{}", words(&error));
    assert!(words(&error).contains("statement timeout"), "{}", words(&error));
    assert!(took < Duration::from_secs(6), "{took:?}");
    until(&mut session, (0, 1));
    // The one that runs is terminated: nobody waits for its batch, which is stopped.
    session.query_one("SELECT pg_terminate_backend($1)", &[&runs.backend]).unwrap();
    let (error, _) = runs.thread.join().unwrap();
    assert!(error.code().is_none_or(|code| code.code() == "57P01"), "{error:?}");
    until(&mut session, (0, 0));
    assert_eq!(embed_text(&mut session, "never seen before").unwrap().len(), 8);
    let row = session
        .query_one(
            "SELECT refused, cancelled + expired, memory > 0, mean_batch >= 1, halved FROM esr_stat_embedder",
            &[],
        )
        .unwrap();
    assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1)), (1, 3));
    assert!(row.get::<_, bool>(2) && row.get::<_, bool>(3) && row.get::<_, i64>(4) == 0);
    assert!(cluster.log().contains("raise esr.embedder_queue"), "the log does not tell the operator");
}

#[test]
fn an_embedding_does_not_depend_on_what_it_is_batched_with() {
    let cluster = cluster_with(Options::default(), &[]);
    let mut session = cluster.connect().unwrap();
    let clips: Vec<Vec<u8>> = (0..12).map(|at| tone(90.0 + 40.0 * at as f32, 0.5 + 0.04 * at as f32)).collect();
    let alone: Vec<Vec<f32>> = clips.iter().map(|clip| embed_speech(&mut session, clip).unwrap()).collect();
    let clips: Vec<&[u8]> = clips.iter().map(Vec::as_slice).collect();
    let rows = session
        .query(
            "SELECT v::real[] FROM unnest(esr_embed_speech($1::bytea[])) WITH ORDINALITY AS u(v, n) ORDER BY n",
            &[&clips],
        )
        .unwrap();
    for (row, alone) in rows.iter().zip(&alone) {
        assert!(same(&row.get::<_, Vec<f32>>(0), alone));
    }
    assert_eq!(rows.len(), 12);
}

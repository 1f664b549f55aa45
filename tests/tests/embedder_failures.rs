//! Embedders that do not start, abort, or belong to another release; what registers and is rolled back; a model that changes in the
//! middle of a backfill.

mod common;

use std::{
    os::unix::fs::PermissionsExt,
    time::{Duration, Instant},
};

use common::{change_identity, cluster, cluster_with, embed_text, state, tone, words};
use esr_tests::{
    cluster::{Options, Stop, wait_until},
    models::{copy_bundle, use_tiny_model},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

#[test]
fn a_program_that_ends_at_once_is_started_ever_more_rarely_and_callers_hear_why() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let program = folder.path().join("broken-embedder");
    std::fs::write(&program, "#!/bin/sh\necho 'no licence for this machine' >&2\nexit 3\n").unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let more = [("esr.embedder_program", program.to_str().unwrap()), ("esr.embedder_timeout", "20s")];
    let cluster = cluster_with(Options::default(), &more);
    let mut session = cluster.connect().unwrap();
    let error = embed_text(&mut session, "hello").unwrap_err();
    assert_eq!(state(&error).code(), "58000", "{}", words(&error));
    assert!(words(&error).contains("no licence for this machine"), "{}", words(&error));
    let pauses = || -> Vec<u64> {
        let log = cluster.log();
        let after = log.split("starting it again in ").skip(1);
        after.filter_map(|rest| rest.split(' ').next()?.parse().ok()).collect()
    };
    wait_until(Duration::from_secs(60), || pauses().len() >= 4).unwrap();
    let pauses = pauses();
    assert!(
        pauses.windows(2).all(|pair| pair[1] >= 2 * pair[0] || pair[1] == pair[0] && pair[0] >= 5000),
        "{pauses:?}"
    );
    let restarts: i64 = session.query_one("SELECT restarts FROM esr_stat_embedder", &[]).unwrap().get(0);
    assert!(restarts >= 4);
    // Callers hear of it at once, not when their patience is over.
    let start = Instant::now();
    assert!(embed_text(&mut session, "hello").is_err());
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
}

#[test]
fn aborted_and_crashed_embedders_are_replaced() {
    let cluster = cluster();
    let mut session = cluster.connect().unwrap();
    session.batch_execute("SET esr.text_cache_size = 0").unwrap();
    let truth = embed_text(&mut session, "calm").unwrap();
    for signal in [Signal::SIGABRT, Signal::SIGILL, Signal::SIGTERM] {
        let pid = cluster.embedders()[0];
        kill(Pid::from_raw(pid), signal).unwrap();
        wait_until(Duration::from_secs(30), || cluster.embedders().iter().any(|other| *other != pid)).unwrap();
        let answered = wait_until(Duration::from_secs(30), || match embed_text(&mut session, "calm") {
            Ok(vector) => common::same(&vector, &truth),
            Err(error) => {
                assert!(["58000", "57P03"].contains(&state(&error).code()), "{signal}: {}", words(&error));
                false
            }
        });
        answered.unwrap_or_else(|_| panic!("no embedder after {signal}"));
    }
    let row = session.query_one("SELECT restarts, last_failure FROM esr_stat_embedder", &[]).unwrap();
    assert_eq!(row.get::<_, i64>(0), 3);
    assert!(row.get::<_, &str>(1).contains("ended"), "{}", row.get::<_, &str>(1));
}

#[test]
fn a_helper_of_another_release_is_named_and_a_smart_shutdown_ends_it() {
    let program = env!("CARGO_BIN_EXE_embedder-of-another-release");
    let cluster =
        cluster_with(Options::default(), &[("esr.embedder_program", program), ("esr.embedder_timeout", "10s")]);
    let mut session = cluster.connect().unwrap();
    let error = embed_text(&mut session, "hello").unwrap_err();
    assert_eq!(state(&error).code(), "58000", "{}", words(&error));
    let hint = error.as_db_error().unwrap().hint().unwrap_or_default();
    assert!(words(&error).contains("0.0.1") && hint.contains("same release"), "{} {hint}", words(&error));
    // With the right program installed and the settings read again, the next call works.
    use_tiny_model(&cluster, &[]).unwrap();
    session.batch_execute("SELECT pg_reload_conf()").unwrap();
    wait_until(Duration::from_secs(30), || embed_text(&mut session, "hello").is_ok()).expect("it did not recover");
    let embedder = cluster.embedders()[0];
    drop(session);
    cluster.stop(Stop::Smart).unwrap();
    let ended = wait_until(Duration::from_secs(5), || !esr_tests::processes::is_running(embedder));
    ended.expect("an embedder was left behind by a smart shutdown");
}

#[test]
fn an_attachment_that_is_rolled_back_leaves_nothing() {
    let cluster = cluster();
    let mut session = cluster.connect().unwrap();
    session.batch_execute("CREATE TABLE clips (id int, audio bytea, style esr_vector(8))").unwrap();
    for mode in ["sync", "queue"] {
        session
            .batch_execute(&format!(
                "BEGIN; SELECT esr_attach('clips', 'audio', 'style', '{mode}'); INSERT INTO clips VALUES (0, NULL, NULL); ROLLBACK"
            ))
            .unwrap();
        let left = "SELECT (SELECT count(*) FROM pg_trigger WHERE tgrelid = 'clips'::regclass) + (SELECT count(*) FROM esr_attachments)
                    + (SELECT count(*) FROM pg_index WHERE indrelid = 'clips'::regclass)";
        assert_eq!(session.query_one(left, &[]).unwrap().get::<_, i64>(0), 0, "{mode}");
        session.execute("INSERT INTO clips (id, audio) VALUES (1, $1)", &[&tone(300.0, 0.2)]).unwrap();
    }
    assert_eq!(
        session.query_one("SELECT count(*) FROM clips WHERE style IS NOT NULL", &[]).unwrap().get::<_, i64>(0),
        0
    );
}

#[test]
fn a_model_that_changes_in_the_middle_of_a_backfill_is_never_mixed_in() {
    let cluster = cluster();
    let mut session = cluster.connect().unwrap();
    session.batch_execute("CREATE TABLE clips (id int, audio bytea, style esr_vector(8))").unwrap();
    for id in 1..=300 {
        session
            .execute("INSERT INTO clips (id, audio) VALUES ($1, $2)", &[&id, &tone(100.0 + id as f32, 0.2)])
            .unwrap();
    }
    let mut worker = cluster.connect().unwrap();
    let call = std::thread::spawn(move || worker.batch_execute("CALL esr_refresh('clips', 'style', 'audio')"));
    let filled = "SELECT count(*) FROM clips WHERE style IS NOT NULL";
    wait_until(Duration::from_secs(60), || session.query_one(filled, &[]).unwrap().get::<_, i64>(0) > 0).unwrap();
    // Other files under the same name, as an upgrade of a bundle leaves them, and an embedder that has read them.
    let (model, other) = (cluster.folder().join("models/tiny"), cluster.folder().join("models/other"));
    copy_bundle(&model, &other).unwrap();
    change_identity(&other, &mut session);
    copy_bundle(&other, &model).unwrap();
    for pid in cluster.embedders() {
        kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    }
    // The call may have met the killed embedder; what it left is finished by the next one.
    let _ = call.join().unwrap();
    let finished = wait_until(Duration::from_secs(60), || {
        session.batch_execute("CALL esr_refresh('clips', 'style', 'audio')").is_ok()
    });
    finished.unwrap();
    let tags =
        "SELECT count(DISTINCT esr_model_tag(style)), bool_and(style <=> esr_embed_speech(audio) < 1e-4) FROM clips";
    let row = session.query_one(tags, &[]).unwrap();
    assert_eq!((row.get::<_, i64>(0), row.get::<_, bool>(1)), (1, true), "vectors of two models, or wrong ones");
}

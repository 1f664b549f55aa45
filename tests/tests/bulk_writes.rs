//! Mode `sync` of `esr_attach` with more rows than fit one request: several requests are on their way while rows are stored.

mod common;

use std::{io::Write, time::Duration};

use common::{attached, cluster_with, same, state, tone, words};
use esr_tests::cluster::{Options, wait_until};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use postgres::Client;

const TABLE: &str = "CREATE TABLE clips (id int PRIMARY KEY, note text, audio bytea, style esr_vector(8));
                     SELECT esr_attach('clips', 'audio', 'style');";

fn number(session: &mut Client, sql: &str) -> i64 {
    session.query_one(sql, &[]).unwrap().get(0)
}

/// COPY of clips that all differ, with the ids from 1; `bad` is none.
fn copy(session: &mut Client, count: i32, bad: Option<i32>) -> Result<u64, postgres::Error> {
    let mut writer = session.copy_in("COPY clips (id, audio) FROM STDIN")?;
    for id in 1..=count {
        let clip = if bad == Some(id) { vec![0] } else { tone(100.0 + id as f32 * 3.0, 0.1) };
        let hex: String = clip.iter().map(|byte| format!("{byte:02x}")).collect();
        writer.write_all(format!("{id}\t\\\\x{hex}\n").as_bytes()).unwrap();
    }
    writer.finish()
}

/// Every row has the vector of its own audio.
fn check_all(session: &mut Client, rows: i64) {
    let right = "SELECT count(*) FROM clips WHERE style <=> esr_embed_speech(audio) < 1e-4";
    assert_eq!((number(session, "SELECT count(*) FROM clips"), number(session, right)), (rows, rows));
}

fn trigger(session: &mut Client, when: &str, body: &str) {
    session
        .batch_execute(&format!(
            "CREATE OR REPLACE FUNCTION act() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body} RETURN NEW; END $$;
             CREATE OR REPLACE TRIGGER act {when} ON clips FOR EACH ROW EXECUTE FUNCTION act();"
        ))
        .unwrap();
}

#[test]
fn a_bad_clip_far_behind_is_named_and_leaves_nothing() {
    let (_cluster, mut session) = attached("sync");
    // Of the second, third and last request.
    for bad in [40, 90, 150] {
        let error = copy(&mut session, 150, Some(bad)).unwrap_err();
        assert!(state(&error).code().starts_with("22"), "{}", words(&error));
        assert!(words(&error).contains(&format!("row (id = {bad})")), "{}", words(&error));
        assert_eq!(number(&mut session, "SELECT count(*) FROM clips"), 0);
    }
    copy(&mut session, 150, None).unwrap();
    check_all(&mut session, 150);
}

#[test]
fn a_statement_that_ends_early_takes_its_requests_with_it() {
    let (cluster, mut session) = attached("sync");
    // While others are on their way, since so many rows are many requests.
    for (what, code) in [("pg_cancel_backend", "57014"), ("pg_terminate_backend", "57P01")] {
        trigger(
            &mut session,
            "AFTER UPDATE",
            &format!("IF NEW.id = 40 THEN PERFORM {what}(pg_backend_pid()); PERFORM pg_sleep(10); END IF;"),
        );
        let error = copy(&mut session, 200, None).unwrap_err();
        assert!(error.code().is_none_or(|found| found.code() == code), "{error:?}");
        session = cluster.connect().unwrap();
        assert_eq!(number(&mut session, "SELECT count(*) FROM clips"), 0);
        let idle = "SELECT queued + running FROM esr_stat_embedder";
        wait_until(Duration::from_secs(20), || session.query_one(idle, &[]).unwrap().get::<_, i32>(0) == 0)
            .expect("a request was left in the embedder");
    }
    session.batch_execute("DROP TRIGGER act ON clips").unwrap();
    copy(&mut session, 200, None).unwrap();
    check_all(&mut session, 200);
}

#[test]
fn an_embedder_that_dies_meanwhile_costs_the_statement_at_most() {
    let (cluster, mut session) = attached("sync");
    trigger(&mut session, "AFTER UPDATE", "IF NEW.id = 40 THEN PERFORM pg_sleep(1.5); END IF;");
    let embedder = cluster.embedders();
    assert!(embedder.len() <= 1);
    let copying = std::thread::spawn(move || {
        let result = copy(&mut session, 300, None);
        (session, result)
    });
    let mut other = cluster.connect().unwrap();
    wait_until(Duration::from_secs(30), || {
        number(&mut other, "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'") == 1
    })
    .unwrap();
    kill(Pid::from_raw(cluster.embedders()[0]), Signal::SIGKILL).unwrap();
    let (mut session, result) = copying.join().unwrap();
    // Answers that were there already are as good as ever.
    match result {
        Ok(rows) => check_all(&mut session, rows as i64),
        Err(error) => assert_eq!(state(&error).code(), "58000", "{}", words(&error)),
    }
    session.batch_execute("DROP TRIGGER act ON clips; TRUNCATE clips").unwrap();
    copy(&mut session, 100, None).unwrap();
    check_all(&mut session, 100);
}

#[test]
fn rows_that_triggers_delete_move_or_change_while_they_are_computed() {
    let (_cluster, mut session) = attached("sync");
    // The first row of the second request; what it touches is on its way, or waits, or has its vector.
    trigger(
        &mut session,
        "AFTER UPDATE OF style",
        "IF NEW.id = 34 THEN
             DELETE FROM clips WHERE id IN (10, 70, 71, 140);
             UPDATE clips SET note = 'moved' WHERE id IN (11, 72, 73, 141, 200);
             UPDATE clips SET audio = (SELECT audio FROM clips WHERE id = 1) WHERE id IN (12, 74, 142);
             UPDATE clips SET audio = NULL WHERE id IN (13, 75, 143);
             PERFORM esr_embed_text('something else is asked in between');
         END IF;",
    );
    copy(&mut session, 200, None).unwrap();
    assert_eq!(number(&mut session, "SELECT count(*) FROM clips"), 196);
    assert_eq!(number(&mut session, "SELECT count(*) FROM clips WHERE note = 'moved' AND style IS NOT NULL"), 5);
    assert_eq!(number(&mut session, "SELECT count(*) FROM clips WHERE audio IS NULL AND style IS NULL"), 3);
    let wrong = "SELECT count(*) FROM clips WHERE (audio IS NULL) <> (style IS NULL) OR style <=> esr_embed_speech(audio) > 1e-4";
    assert_eq!(number(&mut session, wrong), 0);
}

#[test]
fn a_suppressed_update_is_told_of_the_row() {
    let (_cluster, mut session) = attached("sync");
    trigger(&mut session, "BEFORE UPDATE", "IF NEW.id = 77 THEN RETURN NULL; END IF;");
    let error = copy(&mut session, 120, None).unwrap_err();
    assert_eq!(state(&error).code(), "09000", "{}", words(&error));
    assert!(words(&error).contains("row (id = 77)"), "{}", words(&error));
    session
        .batch_execute("DROP TRIGGER act ON clips; CREATE RULE other AS ON UPDATE TO clips DO INSTEAD NOTHING")
        .unwrap();
    let error = copy(&mut session, 120, None).unwrap_err();
    assert_eq!(state(&error).code(), "09000", "{}", words(&error));
    assert_eq!(number(&mut session, "SELECT count(*) FROM clips"), 0);
}

#[test]
fn a_trigger_that_changes_other_rows_before_theirs_is_refused_as_in_any_update() {
    let (_cluster, mut session) = attached("sync");
    // The vectors of a request are stored in one UPDATE, which does not go on where a row was changed under it.
    let change = "IF NEW.id = 5 AND NEW.note IS NULL THEN UPDATE clips SET note = 'x' WHERE id = 6; END IF;";
    trigger(&mut session, "BEFORE UPDATE", change);
    let error = copy(&mut session, 20, None).unwrap_err();
    assert_eq!(state(&error).code(), "27000", "{}", words(&error));
    assert_eq!(number(&mut session, "SELECT count(*) FROM clips"), 0);
    trigger(&mut session, "AFTER UPDATE", change);
    copy(&mut session, 20, None).unwrap();
    check_all(&mut session, 20);
}

#[test]
fn a_queue_with_room_for_one_request_takes_them_one_by_one() {
    let cluster = cluster_with(Options::default(), &[("esr.embedder_queue", "1")]);
    let mut session = cluster.connect().unwrap();
    session.batch_execute(TABLE).unwrap();
    copy(&mut session, 200, None).unwrap();
    check_all(&mut session, 200);
}

#[test]
fn a_session_is_left_with_one_connection_and_what_it_remembers() {
    let (cluster, mut session) = attached("sync");
    let asked = |session: &mut Client| number(session, "SELECT texts FROM esr_stat_embedder");
    let text = common::embed_text(&mut session, "calm").unwrap();
    common::embed_speech(&mut session, &tone(90.0, 0.1)).unwrap();
    let before = asked(&mut session);
    let embedder = cluster.embedders()[0];
    // A thread for each connection; ONNX Runtime's are there already.
    let threads = || std::fs::read_dir(format!("/proc/{embedder}/task")).unwrap().count();
    let threads_before = threads();
    copy(&mut session, 150, None).unwrap();
    // The embedder is the same, so what it said still holds.
    assert!(same(&common::embed_text(&mut session, "calm").unwrap(), &text));
    assert_eq!(asked(&mut session), before);
    wait_until(Duration::from_secs(10), || threads() == threads_before).expect("a connection was left open");
}

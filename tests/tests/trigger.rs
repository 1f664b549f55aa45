//! `esr_attach`: embedding on insert, row by row.

mod common;

use common::{attached, cluster, embed_speech, same, state, tone, words};
use postgres::{Client, error::SqlState};

fn requests(session: &mut Client) -> i64 {
    session.query_one("SELECT clips FROM esr_stat_embedder", &[]).unwrap().get(0)
}

#[test]
fn inserted_and_changed_audio_is_embedded_and_nothing_else_is() {
    let (_cluster, mut session) = attached("sync");
    let (a, b) = (tone(150.0, 0.5), tone(1500.0, 0.5));
    session.execute("INSERT INTO clips VALUES (1, 'a', $1), (2, 'b', $2), (3, 'none', NULL)", &[&a, &b]).unwrap();
    let style = |session: &mut Client, id: i32| -> Option<Vec<f32>> {
        session.query_one("SELECT style::real[] FROM clips WHERE id = $1", &[&id]).unwrap().get(0)
    };
    let (a_vector, b_vector) = (embed_speech(&mut session, &a).unwrap(), embed_speech(&mut session, &b).unwrap());
    assert!(same(&style(&mut session, 1).unwrap(), &a_vector));
    assert!(same(&style(&mut session, 2).unwrap(), &b_vector));
    assert_eq!(style(&mut session, 3), None);

    let before = requests(&mut session);
    session.execute("UPDATE clips SET note = note || '!'", &[]).unwrap();
    session.execute("UPDATE clips SET audio = audio, note = 'same'", &[]).unwrap();
    assert_eq!(requests(&mut session), before, "audio that stays the same is not embedded again");
    session.execute("UPDATE clips SET audio = $1 WHERE id = 1", &[&b]).unwrap();
    assert!(same(&style(&mut session, 1).unwrap(), &b_vector));
    session.execute("UPDATE clips SET audio = NULL WHERE id = 1", &[]).unwrap();
    assert_eq!(style(&mut session, 1), None);

    // A clip that cannot be embedded refuses its statement, and leaves nothing behind.
    let error = session.execute("INSERT INTO clips VALUES (9, 'junk', '\\x00')", &[]).unwrap_err();
    assert!(state(&error).code().starts_with("22"), "{}", words(&error));
    assert_eq!(session.query("SELECT FROM clips WHERE id = 9", &[]).unwrap().len(), 0);

    session.batch_execute("SELECT esr_detach('clips', 'style')").unwrap();
    session.execute("INSERT INTO clips VALUES (10, 'detached', $1)", &[&a]).unwrap();
    assert_eq!(style(&mut session, 10), None);
}

#[test]
fn unusual_names_schemas_and_partitions_work() {
    let cluster = cluster();
    let mut session = cluster.connect().unwrap();
    session
        .batch_execute(
            r#"CREATE SCHEMA "Odd Schema";
               CREATE TABLE "Odd Schema"."Clips; DROP" (id int, "Audio '1'" bytea, "the ""style""" esr_vector);
               SELECT esr_attach('"Odd Schema"."Clips; DROP"', $$Audio '1'$$, $$the "style"$$, mode => 'sync');
               CREATE TABLE parted (id int, audio bytea, style esr_vector) PARTITION BY LIST (id);
               CREATE TABLE parted_1 PARTITION OF parted FOR VALUES IN (1);
               SELECT esr_attach('parted', 'audio', 'style', mode => 'sync');
               CREATE TABLE parted_2 PARTITION OF parted FOR VALUES IN (2);"#,
        )
        .unwrap();
    let audio = tone(200.0, 0.5);
    session.execute(r#"INSERT INTO "Odd Schema"."Clips; DROP" VALUES (1, $1)"#, &[&audio]).unwrap();
    session.execute("INSERT INTO parted VALUES (1, $1), (2, $1)", &[&audio]).unwrap();
    let count = |session: &mut Client, sql: &str| -> i64 { session.query_one(sql, &[]).unwrap().get(0) };
    assert_eq!(count(&mut session, r#"SELECT count("the ""style""") FROM "Odd Schema"."Clips; DROP""#), 1);
    assert_eq!(count(&mut session, "SELECT count(style) FROM parted"), 2);
}

#[test]
fn attach_refuses_what_cannot_work_and_says_why() {
    let cluster = cluster();
    let mut session = cluster.connect().unwrap();
    session
        .batch_execute(
            "CREATE TABLE t (id int, audio bytea, words text, style esr_vector(8));
             CREATE VIEW v AS SELECT * FROM t;
             CREATE ROLE somebody; GRANT ALL ON t TO somebody;",
        )
        .unwrap();
    let cases = [
        ("SELECT esr_attach('t', 'nope', 'style')", SqlState::UNDEFINED_COLUMN),
        ("SELECT esr_attach('t', 'audio', 'nope')", SqlState::UNDEFINED_COLUMN),
        ("SELECT esr_attach('t', 'words', 'style')", SqlState::DATATYPE_MISMATCH),
        ("SELECT esr_attach('t', 'audio', 'words')", SqlState::DATATYPE_MISMATCH),
        ("SELECT esr_attach('v', 'audio', 'style')", SqlState::WRONG_OBJECT_TYPE),
        ("SELECT esr_attach('t', 'audio', 'style', mode => 'sometime')", SqlState::INVALID_PARAMETER_VALUE),
        ("SELECT esr_attach('absent', 'audio', 'style')", SqlState::UNDEFINED_TABLE),
        ("SET ROLE somebody; SELECT esr_attach('t', 'audio', 'style')", SqlState::INSUFFICIENT_PRIVILEGE),
    ];
    for (sql, expected) in cases {
        let error = session.batch_execute(sql).unwrap_err();
        assert_eq!(state(&error), expected, "{sql}: {}", words(&error));
        session.batch_execute("RESET ROLE").unwrap();
    }
}

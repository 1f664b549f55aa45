//! Mode `queue` of `esr_attach`: rows visible at once, vectors soon after, nothing lost and nothing written wrongly.

mod common;

use std::time::Duration;

use common::{attached, cluster_with, state, tone, words};
use esr_tests::cluster::{Options, Stop, wait_until};
use postgres::Client;

fn number(session: &mut Client, sql: &str) -> i64 {
    session.query_one(sql, &[]).unwrap().get(0)
}

fn insert(session: &mut Client, ids: std::ops::RangeInclusive<i32>) {
    for id in ids {
        session
            .execute("INSERT INTO clips (id, audio) VALUES ($1, $2)", &[&id, &tone(100.0 + id as f32 * 7.0, 0.2)])
            .unwrap();
    }
}

const PENDING: &str = "SELECT count(*) FROM clips WHERE style IS NULL AND audio IS NOT NULL";

fn wait_for(session: &mut Client, sql: &str, expected: i64) {
    let mut last = 0;
    let reached = wait_until(Duration::from_secs(60), || {
        last = number(session, sql);
        last == expected
    });
    let failures: Vec<String> =
        session.query("SELECT f::text FROM esr_failures f", &[]).unwrap().iter().map(|row| row.get(0)).collect();
    reached.unwrap_or_else(|_| panic!("{sql}: {last}, not {expected}; failures: {failures:?}"));
}

fn check_all(session: &mut Client) {
    let wrong = number(
        session,
        "SELECT count(*) FROM clips WHERE (style IS NULL) <> (audio IS NULL)
         OR audio IS NOT NULL AND style <=> esr_embed_speech(audio) > 1e-4",
    );
    assert_eq!(wrong, 0, "rows with a wrong or missing vector");
}

#[test]
fn rows_are_there_at_once_and_get_their_vectors_later() {
    let (cluster, mut session) = attached("queue");
    // Two workers may each embed the same clips, and sometimes do.
    session.batch_execute("ALTER SYSTEM SET esr.queue_workers = 1").unwrap();
    session.batch_execute("SELECT pg_reload_conf()").unwrap();
    session.batch_execute("BEGIN").unwrap();
    insert(&mut session, 1..=40);
    session.batch_execute("INSERT INTO clips SELECT id + 100, NULL, audio FROM clips; COMMIT").unwrap();
    wait_for(&mut session, PENDING, 0);
    check_all(&mut session);
    // Equal clips were embedded once, but for what two workers had in their hands at the same time.
    let clips = number(&mut session, "SELECT clips FROM esr_stat_embedder");
    assert!(clips <= 40 + 80 + 32, "{clips} clips embedded");
    // An UPDATE elsewhere costs nothing; a changed clip is embedded again, a removed one loses its vector.
    let before = number(&mut session, "SELECT requests FROM esr_stat_embedder");
    session.batch_execute("UPDATE clips SET note = 'x'; UPDATE clips SET audio = audio").unwrap();
    assert_eq!(number(&mut session, "SELECT requests FROM esr_stat_embedder"), before);
    assert_eq!(number(&mut session, PENDING), 0);
    session.execute("UPDATE clips SET audio = $1 WHERE id <= 3", &[&tone(999.0, 0.3)]).unwrap();
    session.batch_execute("UPDATE clips SET audio = NULL WHERE id IN (4, 5)").unwrap();
    assert_eq!(number(&mut session, "SELECT count(style) FROM clips WHERE id IN (4, 5)"), 0);
    wait_for(&mut session, PENDING, 0);
    check_all(&mut session);
    assert_eq!(number(&mut session, "SELECT count(*) FROM esr_failures"), 0);
    // The workers end when they are idle, and come again.
    let workers = || {
        esr_tests::processes::descendants(cluster.postmaster().unwrap())
            .iter()
            .filter(|p| p.command.contains("esr queue worker"))
            .count()
    };
    wait_until(Duration::from_secs(30), || workers() == 0).expect("an idle worker stays");
    insert(&mut session, 200..=203);
    wait_for(&mut session, PENDING, 0);
    check_all(&mut session);
    session.batch_execute("SELECT esr_detach('clips', 'style'); INSERT INTO clips (id, audio) SELECT 999, audio FROM clips WHERE id = 1").unwrap();
    assert_eq!(number(&mut session, "SELECT count(*) FROM pg_indexes WHERE tablename = 'clips'"), 1);
}

#[test]
fn failures_say_why_are_tried_again_and_hold_nobody_up() {
    let (_cluster, mut session) = attached("queue");
    session
        .batch_execute("INSERT INTO clips (id, audio) SELECT i, '\\x00' FROM generate_series(1001, 1003) i")
        .unwrap();
    insert(&mut session, 1..=10);
    wait_for(&mut session, PENDING, 3);
    wait_for(&mut session, "SELECT count(*) FROM esr_failures WHERE attempts > 1", 3);
    assert_eq!(number(&mut session, "SELECT count(*) FROM esr_failures"), 3);
    let row = session
        .query_one("SELECT sqlstate, reason, c.id FROM esr_failures f JOIN clips c ON c.ctid = f.ctid_of_row ORDER BY c.id LIMIT 1", &[])
        .unwrap();
    assert_eq!(row.get::<_, String>(0), "22P03", "{:?}", row.get::<_, String>(1));
    assert_eq!(row.get::<_, i32>(2), 1001);
    // An UPDATE elsewhere moves the row: it must not be listed twice, once things have settled.
    session.batch_execute("UPDATE clips SET note = 'moved' WHERE id = 1001").unwrap();
    wait_for(
        &mut session,
        "SELECT count(*) FROM esr_failures f JOIN clips c ON c.ctid = f.ctid_of_row WHERE c.style IS NULL",
        3,
    );
    assert_eq!(number(&mut session, "SELECT count(*) FROM esr_failures"), 3);
    // Mended, deleted, and one whose vector does not fit because of a constraint of the owner's.
    session.execute("UPDATE clips SET audio = $1 WHERE id = 1001", &[&tone(321.0, 0.2)]).unwrap();
    session.batch_execute("DELETE FROM clips WHERE id = 1002").unwrap();
    wait_for(&mut session, PENDING, 1);
    session.batch_execute("ALTER TABLE clips ADD CONSTRAINT odd CHECK (id <> 500 OR style IS NULL)").unwrap();
    insert(&mut session, 499..=501);
    wait_for(&mut session, PENDING, 2);
    wait_for(&mut session, "SELECT count(*) FROM esr_failures WHERE sqlstate = '23514'", 1);
    session.batch_execute("DELETE FROM clips WHERE id IN (500, 1003)").unwrap();
    wait_for(&mut session, PENDING, 0);
    wait_for(&mut session, "SELECT count(*) FROM esr_failures", 0);
    check_all(&mut session);
    // A model that is not there is one failure, about no row, and gone with its cause.
    session
        .batch_execute(
            "CREATE TABLE other (id int, audio bytea, style esr_vector(8));
             SELECT esr_attach('other', 'audio', 'style', 'queue', 'absent');
             INSERT INTO other SELECT id, audio FROM clips;",
        )
        .unwrap();
    wait_for(
        &mut session,
        "SELECT count(*) FROM esr_failures WHERE \"table\" = 'other'::regclass AND ctid_of_row IS NULL",
        1,
    );
    insert(&mut session, 600..=610);
    wait_for(&mut session, PENDING, 0);
    session
        .batch_execute("SELECT esr_detach('other', 'style'), esr_attach('other', 'audio', 'style', 'queue')")
        .unwrap();
    wait_for(&mut session, "SELECT count(*) FROM other WHERE style IS NULL", 0);
    wait_for(&mut session, "SELECT count(*) FROM esr_failures", 0);
}

#[test]
fn what_happens_to_a_table_meanwhile() {
    let (_cluster, mut session) = attached("queue");
    session
        .batch_execute(
            r#"CREATE ROLE boss; GRANT CREATE ON SCHEMA public TO boss; GRANT SELECT ON clips TO boss;
               SET ROLE boss;
               CREATE TABLE parted (id int, audio bytea, style esr_vector(8)) PARTITION BY LIST (id);
               CREATE TABLE parted_1 PARTITION OF parted FOR VALUES IN (1, 3, 5, 7, 9);
               SELECT esr_attach('parted', 'audio', 'style', 'queue');
               CREATE TABLE parted_2 PARTITION OF parted DEFAULT;
               ALTER TABLE parted_2 ENABLE ROW LEVEL SECURITY; ALTER TABLE parted_2 FORCE ROW LEVEL SECURITY;
               CREATE TABLE log (who name);
               CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO log VALUES (current_user); RETURN NULL; END $$;
               CREATE CONSTRAINT TRIGGER note AFTER UPDATE ON parted_1 DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION note();
               RESET ROLE;
               CREATE TABLE dropped (audio bytea, style esr_vector(8));
               SELECT esr_attach('dropped', 'audio', 'style', 'queue');
               CREATE DOMAIN mood AS esr_vector(8) CHECK (esr_norm(VALUE) < 2);
               CREATE TABLE "Odd < name" (audio bytea, "the == style" mood);
               SELECT esr_attach('"Odd < name"', 'audio', 'the == style', 'queue');"#,
        )
        .unwrap();
    insert(&mut session, 1..=30);
    session
        .batch_execute(
            r#"INSERT INTO parted SELECT id, audio FROM clips;
               INSERT INTO parted_2 SELECT id + 100, audio FROM clips;
               INSERT INTO dropped SELECT audio FROM clips;
               INSERT INTO "Odd < name" SELECT audio FROM clips;
               DROP TABLE dropped;
               ALTER TABLE clips RENAME audio TO sound; ALTER TABLE clips RENAME sound TO audio;
               ALTER TABLE "Odd < name" RENAME TO "Odder";
               UPDATE clips SET note = 'elsewhere';
               DELETE FROM clips WHERE id % 3 = 0;"#,
        )
        .unwrap();
    session.batch_execute("VACUUM FULL clips").unwrap();
    wait_for(&mut session, PENDING, 0);
    check_all(&mut session);
    wait_for(&mut session, "SELECT count(*) FROM parted WHERE style IS NULL", 0);
    wait_for(&mut session, r#"SELECT count(*) FROM "Odder" WHERE "the == style" IS NULL"#, 0);
    assert_eq!(number(&mut session, "SELECT count(*) FROM parted WHERE style <=> esr_embed_speech(audio) > 1e-4"), 0);
    // The owner's triggers ran as the owner, the deferred ones too.
    assert_eq!(number(&mut session, "SELECT count(*) FROM log WHERE who = 'boss'"), 5);
    assert_eq!(number(&mut session, "SELECT count(*) FROM log"), 5);
    insert(&mut session, 1000..=1030);
    session.batch_execute("TRUNCATE clips").unwrap();
    insert(&mut session, 1..=3);
    wait_for(&mut session, PENDING, 0);
    assert_eq!(number(&mut session, "SELECT count(*) FROM esr_failures"), 0);
    let error = session.batch_execute("CREATE TABLE strict (audio bytea, style esr_vector NOT NULL); SELECT esr_attach('strict', 'audio', 'style', 'queue')").unwrap_err();
    assert_eq!(state(&error).code(), "42809", "{}", words(&error));
}

#[test]
fn a_clip_that_changes_while_it_is_embedded_keeps_no_stale_vector() {
    let (cluster, mut session) = attached("queue");
    let clips: Vec<Vec<u8>> = (0..20).map(|i| tone(100.0 + i as f32 * 31.0, 0.2)).collect();
    insert(&mut session, 1..=20);
    let mut other = cluster.connect().unwrap();
    for round in 0..200 {
        let id = 1 + round % 20;
        let clip = &clips[(round * 7 % 20) as usize];
        match round % 3 {
            0 => other.execute("UPDATE clips SET audio = $1 WHERE id = $2", &[clip, &id]).map(drop),
            1 => other.execute("UPDATE clips SET note = 'n' || $1 WHERE id = $2", &[&round.to_string(), &id]).map(drop),
            _ => other
                .execute("DELETE FROM clips WHERE id = $1", &[&id])
                .and_then(|_| other.execute("INSERT INTO clips (id, audio) VALUES ($1, $2)", &[&id, clip]).map(drop)),
        }
        .unwrap();
    }
    wait_for(&mut session, PENDING, 0);
    check_all(&mut session);
}

#[test]
fn rows_from_before_a_restart_and_a_cancelled_worker_are_no_loss() {
    let mut cluster = cluster_with(Options::default().set("shared_preload_libraries", "esr"), &[]);
    let mut session = cluster.connect().unwrap();
    session
        .batch_execute(
            "CREATE TABLE clips (id int PRIMARY KEY, note text, audio bytea, style esr_vector(8));
             SELECT esr_attach('clips', 'audio', 'style', mode => 'queue');
             ALTER TABLE clips DISABLE TRIGGER USER;",
        )
        .unwrap();
    insert(&mut session, 1..=40);
    session.batch_execute("ALTER TABLE clips ENABLE TRIGGER USER").unwrap();
    drop(session);
    cluster.stop(Stop::Fast).unwrap();
    cluster.start_again().unwrap();
    // Nobody calls anything: the supervisor has the databases looked through.
    let mut session = cluster.connect().unwrap();
    wait_for(&mut session, PENDING, 0);
    for id in 100..160 {
        insert(&mut session, id..=id);
        session
            .batch_execute(
                "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE backend_type = 'esr queue worker' AND pid % 2 = 0;
                 SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'esr queue worker' AND random() < 0.1",
            )
            .unwrap();
    }
    // A worker that was terminated after the last commit does not come back by itself; the next write starts one.
    session.batch_execute("SELECT esr_wake_queue()").unwrap();
    wait_for(&mut session, PENDING, 0);
    check_all(&mut session);
}

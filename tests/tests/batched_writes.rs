//! Mode `sync` of `esr_attach` with statements of many rows: batches, and what surrounds a row.

mod common;

use common::{cluster, embed_speech, same, state, tone, words};
use postgres::Client;

fn number(session: &mut Client, sql: &str) -> i64 {
    session.query_one(sql, &[]).unwrap().get(0)
}

fn requests(session: &mut Client) -> i64 {
    number(session, "SELECT coalesce(max(requests), 0) FROM esr_stat_embedder")
}

/// A cluster with a table `source` of so many different clips.
fn with_clips(count: i32) -> (esr_tests::cluster::Cluster, Client) {
    let cluster = cluster();
    let mut session = cluster.connect().unwrap();
    session.batch_execute("CREATE TABLE source (id int PRIMARY KEY, audio bytea)").unwrap();
    for id in 1..=count {
        session.execute("INSERT INTO source VALUES ($1, $2)", &[&id, &tone(100.0 + id as f32 * 7.0, 0.2)]).unwrap();
    }
    (cluster, session)
}

/// Every row has the vector of its own audio.
fn check_all(session: &mut Client, table: &str) {
    let wrong = number(
        session,
        &format!(
            "SELECT count(*) FROM {table} WHERE (style IS NULL) <> (audio IS NULL)
             OR audio IS NOT NULL AND style <=> esr_embed_speech(audio) > 1e-4"
        ),
    );
    assert_eq!(wrong, 0, "rows of {table} with a wrong or missing vector");
}

#[test]
fn many_rows_are_few_requests_and_a_single_row_is_written_once() {
    let (_cluster, mut session) = with_clips(100);
    session
        .batch_execute(
            "CREATE TABLE clips (id int PRIMARY KEY, note text, audio bytea, style esr_vector(8));
             SELECT esr_attach('clips', 'audio', 'style');",
        )
        .unwrap();
    let before = requests(&mut session);
    session.batch_execute("INSERT INTO clips SELECT id, 'n', audio FROM source").unwrap();
    let made = requests(&mut session) - before;
    // One for the first row, four for the other 99.
    assert!((5..=6).contains(&made), "{made} requests");
    check_all(&mut session, "clips");

    // COPY, with clips that are there twice.
    let mut copy = session.copy_in("COPY clips (id, audio) FROM STDIN").unwrap();
    for id in 0..70 {
        let hex: String = tone(300.0 + (id % 3) as f32, 0.2).iter().map(|byte| format!("{byte:02x}")).collect();
        std::io::Write::write_all(&mut copy, format!("{}\t\\\\x{hex}\n", 1000 + id).as_bytes()).unwrap();
    }
    copy.finish().unwrap();
    check_all(&mut session, "clips");

    // A row by itself is not written a second time, as its place shows.
    session
        .batch_execute(
            "CREATE TABLE single (audio bytea, style esr_vector(8)); SELECT esr_attach('single', 'audio', 'style')",
        )
        .unwrap();
    session.execute("INSERT INTO single VALUES ($1)", &[&tone(222.0, 0.2)]).unwrap();
    assert_eq!(session.query_one("SELECT ctid::text FROM single", &[]).unwrap().get::<_, String>(0), "(0,1)");

    // What does not touch the audio asks nothing; setting the style to NULL asks for it again.
    let before = requests(&mut session);
    session.batch_execute("UPDATE clips SET note = 'm'; UPDATE clips SET audio = audio, note = 'o'").unwrap();
    assert_eq!(requests(&mut session), before);
    session.batch_execute("UPDATE clips SET style = NULL WHERE id <= 40").unwrap();
    check_all(&mut session, "clips");
    // A style that a writer gives is not believed.
    session.batch_execute("INSERT INTO clips (id, audio, style) SELECT 5000 + id, audio, '[1,0,0,0,0,0,0,0]' FROM source WHERE id < 4").unwrap();
    check_all(&mut session, "clips");
    // Without batches RETURNING shows each vector.
    session.batch_execute("SET esr.batch_rows = off").unwrap();
    let returned = session
        .query(
            "INSERT INTO clips (id, audio) SELECT 6000 + id, audio FROM source WHERE id < 4 RETURNING style::text",
            &[],
        )
        .unwrap();
    assert!(returned.iter().all(|row| row.get::<_, Option<String>>(0).is_some()));
}

#[test]
fn a_bad_clip_refuses_the_statement_and_says_which_row_it_was() {
    let (_cluster, mut session) = with_clips(20);
    session
        .batch_execute(
            "CREATE TABLE clips (id int PRIMARY KEY, audio bytea, style esr_vector(8));
             SELECT esr_attach('clips', 'audio', 'style');",
        )
        .unwrap();
    let insert = "INSERT INTO clips SELECT id, CASE id WHEN 13 THEN '\\x00'::bytea ELSE audio END FROM source";
    let error = session.batch_execute(insert).unwrap_err();
    assert!(state(&error).code().starts_with("22"), "{}", words(&error));
    assert!(words(&error).contains("row (id = 13)"), "{}", words(&error));
    assert_eq!(number(&mut session, "SELECT count(*) FROM clips"), 0);
    // What failed in a subtransaction leaves nothing behind that the next statement would take for its own.
    session
        .batch_execute(&format!(
            "DO $do$ BEGIN
                 BEGIN {insert}; EXCEPTION WHEN OTHERS THEN NULL; END;
                 INSERT INTO clips SELECT id, audio FROM source;
             END $do$"
        ))
        .unwrap();
    assert_eq!(number(&mut session, "SELECT count(*) FROM clips"), 20);
    check_all(&mut session, "clips");
}

#[test]
fn other_triggers_constraints_and_statements_get_along() {
    let (_cluster, mut session) = with_clips(12);
    session
        .batch_execute(
            "CREATE TABLE clips (id int PRIMARY KEY, note text, audio bytea, style esr_vector(8), other esr_vector(8));
             SELECT esr_attach('clips', 'audio', 'style'), esr_attach('clips', 'audio', 'other');
             CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS
                 $$ BEGIN UPDATE clips SET note = 'touched' WHERE id = NEW.id; RETURN NULL; END $$;
             CREATE TRIGGER a_touch AFTER INSERT ON clips FOR EACH ROW EXECUTE FUNCTION touch();
             INSERT INTO clips SELECT id, 'n', audio FROM source;",
        )
        .unwrap();
    assert_eq!(
        number(&mut session, "SELECT count(*) FROM clips WHERE note = 'touched' AND other <=> style < 1e-4"),
        12
    );
    check_all(&mut session, "clips");
    // A trigger that inserts into the same table while the outer statement's rows still wait.
    session
        .batch_execute(
            "CREATE OR REPLACE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS
                 $$ BEGIN IF NEW.id < 100 THEN INSERT INTO clips VALUES (NEW.id + 100, 'inner', NEW.audio); END IF; RETURN NULL; END $$;
             TRUNCATE clips;
             INSERT INTO clips SELECT id, 'n', audio FROM source;",
        )
        .unwrap();
    assert_eq!(number(&mut session, "SELECT count(*) FROM clips"), 24);
    check_all(&mut session, "clips");
    // ON CONFLICT, MERGE, a writing WITH.
    session
        .batch_execute(
            "DROP TRIGGER a_touch ON clips;
             INSERT INTO clips SELECT id, 'again', (SELECT audio FROM source s WHERE s.id = 13 - source.id) FROM source
                 ON CONFLICT (id) DO UPDATE SET audio = excluded.audio;
             MERGE INTO clips USING source ON clips.id = source.id + 100 WHEN MATCHED THEN UPDATE SET audio = source.audio
                 WHEN NOT MATCHED THEN INSERT (id, audio) VALUES (source.id, source.audio);
             WITH gone AS (DELETE FROM clips WHERE id > 106 RETURNING id, audio)
                 INSERT INTO clips (id, audio) SELECT id + 1000, audio FROM gone;
             UPDATE clips SET audio = NULL WHERE id IN (1, 2, 3);",
        )
        .unwrap();
    check_all(&mut session, "clips");
    // A trigger that suppresses the second write is an error, not a row without a vector.
    session
        .batch_execute(
            "CREATE FUNCTION never() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
             CREATE TRIGGER never BEFORE UPDATE ON clips FOR EACH ROW EXECUTE FUNCTION never();",
        )
        .unwrap();
    let error = session.batch_execute("INSERT INTO clips (id, audio) SELECT id + 5000, audio FROM source").unwrap_err();
    assert_eq!(state(&error).code(), "09000", "{}", words(&error));
    session
        .batch_execute("SET esr.batch_rows = off; INSERT INTO clips (id, audio) SELECT id + 5000, audio FROM source")
        .unwrap();
    check_all(&mut session, "clips");
}

#[test]
fn partitions_domains_not_null_and_renames() {
    let (_cluster, mut session) = with_clips(12);
    session
        .batch_execute(
            r#"CREATE TABLE parted (id int, audio bytea, style esr_vector(8)) PARTITION BY RANGE (id);
               CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM (0) TO (7);
               SELECT esr_attach('parted', 'audio', 'style');
               CREATE TABLE parted_2 (dropped int, style esr_vector(8), id int, audio bytea);
               ALTER TABLE parted_2 DROP COLUMN dropped;
               ALTER TABLE parted ATTACH PARTITION parted_2 FOR VALUES FROM (7) TO (100);
               INSERT INTO parted SELECT id, audio FROM source;
               INSERT INTO parted_2 (id, audio) SELECT id + 20, audio FROM source;
               UPDATE parted SET id = 50 WHERE id = 1;
               CREATE DOMAIN sound AS bytea;
               CREATE DOMAIN mood AS esr_vector(8) CHECK (esr_norm(VALUE) < 2);
               CREATE TABLE fussy (id int, audio sound, style mood);
               CREATE TABLE strict (id int, audio bytea, style esr_vector(8) NOT NULL);
               SELECT esr_attach('fussy', 'audio', 'style'), esr_attach('strict', 'audio', 'style');
               INSERT INTO fussy SELECT id, audio FROM source;
               INSERT INTO strict SELECT id, audio FROM source;
               CREATE TABLE renamed (id int, audio bytea, style esr_vector(8));
               SELECT esr_attach('renamed', 'audio', 'style');
               ALTER TABLE renamed RENAME audio TO "so""und";
               ALTER TABLE renamed RENAME style TO "a == b";
               CREATE SCHEMA "odd place";
               ALTER TABLE renamed RENAME TO "x < y";
               ALTER TABLE "x < y" SET SCHEMA "odd place";
               INSERT INTO "odd place"."x < y" SELECT id, audio FROM source;"#,
        )
        .unwrap();
    for table in
        ["parted", "fussy", "strict", r#"(SELECT "so""und" AS audio, "a == b" AS style FROM "odd place"."x < y")"#]
    {
        check_all(&mut session, &format!("{table} t"));
    }
    assert_eq!(number(&mut session, "SELECT count(style) FROM parted"), 24);
    let error = session.batch_execute(r#"ALTER TABLE "odd place"."x < y" DROP COLUMN "so""und""#).unwrap_err();
    assert_eq!(state(&error).code(), "2BP01", "{}", words(&error));
    session.batch_execute(r#"ALTER TABLE "odd place"."x < y" DROP COLUMN "so""und" CASCADE"#).unwrap();
    assert_eq!(number(&mut session, "SELECT count(*) FROM esr_attachments WHERE style_column = 'a == b'"), 0);
    session.batch_execute("SELECT esr_detach('parted', 'style'); DROP TABLE parted, fussy").unwrap();
    assert_eq!(number(&mut session, "SELECT count(*) FROM esr_attachments"), 1);
}

#[test]
fn a_writer_needs_no_right_but_to_insert() {
    let (_cluster, mut session) = with_clips(12);
    let clip = tone(333.0, 0.2);
    session
        .batch_execute(
            "CREATE ROLE boss; CREATE ROLE writer; GRANT CREATE ON SCHEMA public TO boss; GRANT SELECT ON source TO writer;
             SET ROLE boss;
             CREATE TABLE clips (id int, owner name DEFAULT current_user, audio bytea, style esr_vector(8));
             ALTER TABLE clips ENABLE ROW LEVEL SECURITY; ALTER TABLE clips FORCE ROW LEVEL SECURITY;
             CREATE POLICY only_insert ON clips FOR INSERT WITH CHECK (true);
             GRANT INSERT ON clips TO writer;
             SELECT esr_attach('clips', 'audio', 'style');
             SET ROLE writer;
             INSERT INTO clips (id, audio) SELECT id, audio FROM source;",
        )
        .unwrap();
    session.execute("INSERT INTO clips (id, audio) VALUES (99, $1)", &[&clip]).unwrap();
    session.batch_execute("RESET ROLE").unwrap();
    check_all(&mut session, "clips");
    assert_eq!(number(&mut session, "SELECT count(*) FROM clips WHERE owner = 'writer'"), 13);
    let vector = embed_speech(&mut session, &clip).unwrap();
    let stored: Vec<f32> = session.query_one("SELECT style::real[] FROM clips WHERE id = 99", &[]).unwrap().get(0);
    assert!(same(&vector, &stored));
}

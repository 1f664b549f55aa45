//! `CALL esr_refresh`: backfill in committed batches; and the recipe that changes a model.

mod common;

use std::time::Duration;

use common::{cluster, cluster_with, state, tone, words};
use esr_tests::{
    cluster::{Cluster, Options, wait_until},
    models::repository,
};
use postgres::Client;

fn number(session: &mut Client, sql: &str) -> i64 {
    session.query_one(sql, &[]).unwrap().get(0)
}

/// Statements one by one: a procedure that commits must not stand among others in one message.
fn run(session: &mut Client, statements: &str) -> Result<(), postgres::Error> {
    statements.split("; ").try_for_each(|statement| session.batch_execute(statement))
}

/// A table without a primary key whose clips, so many, came before anything was attached.
fn filled(cluster: &Cluster, count: i32) -> Client {
    let mut session = cluster.connect().unwrap();
    session.batch_execute("CREATE TABLE clips (id int, note text, audio bytea, style esr_vector(8))").unwrap();
    for id in 1..=count {
        session
            .execute("INSERT INTO clips (id, audio) VALUES ($1, $2)", &[&id, &tone(100.0 + id as f32 * 3.0, 0.2)])
            .unwrap();
    }
    session
}

const WRONG: &str = "SELECT count(*) FROM clips WHERE audio IS NOT NULL AND (style IS NULL OR style <=> esr_embed_speech(audio) > 1e-4)";

#[test]
fn backfills_what_is_missing_and_nothing_else() {
    let cluster = cluster();
    let mut session = filled(&cluster, 100);
    session.batch_execute("INSERT INTO clips SELECT 1000 + i, 'bad', '\\x00' FROM generate_series(1, 2) i; INSERT INTO clips VALUES (2000, 'none', NULL)").unwrap();
    let error = session.batch_execute("CALL esr_refresh('clips')").unwrap_err();
    assert_eq!(state(&error).code(), "42704", "{}", words(&error));
    session.batch_execute("CALL esr_refresh('clips', 'style', 'audio')").unwrap();
    assert_eq!(number(&mut session, "SELECT count(*) FROM clips WHERE style IS NULL"), 3);
    assert_eq!(number(&mut session, &WRONG.replace("audio IS NOT NULL", "id <= 1000")), 0);
    assert_eq!(number(&mut session, "SELECT count(*) FROM esr_failures WHERE sqlstate = '22P03'"), 2);
    let row =
        session.query_one("SELECT state, embedded, failed, blocks_done = blocks_total FROM esr_progress", &[]).unwrap();
    assert_eq!(
        (row.get::<_, &str>(0), row.get::<_, i64>(1), row.get::<_, i64>(2), row.get::<_, bool>(3)),
        ("finished", 100, 2, true)
    );
    // A second time there is nothing to do but the clips that failed.
    let clips = number(&mut session, "SELECT clips FROM esr_stat_embedder");
    run(&mut session, "SELECT esr_attach('clips', 'audio', 'style'); CALL esr_refresh('clips')").unwrap();
    assert_eq!(number(&mut session, "SELECT clips FROM esr_stat_embedder"), clips);
    // Vectors without a model's tag, or of another, are outdated.
    run(&mut session, "UPDATE clips SET style = style::real[]::esr_vector WHERE id <= 7; CALL esr_refresh('clips')")
        .unwrap();
    assert_eq!(number(&mut session, "SELECT embedded FROM esr_progress"), 7);
    // Within a transaction it cannot commit.
    let error = session.batch_execute("BEGIN; CALL esr_refresh('clips')").unwrap_err();
    assert_eq!(state(&error).code(), "2D000", "{}", words(&error));
    session.batch_execute("ROLLBACK; CREATE ROLE stranger; GRANT ALL ON clips TO stranger; SET ROLE stranger").unwrap();
    let error = session.batch_execute("CALL esr_refresh('clips')").unwrap_err();
    assert_eq!(state(&error).code(), "42501", "{}", words(&error));
    assert_eq!(number(&mut session, "SELECT count(*) FROM esr_progress"), 0, "a stranger sees another's table");
}

#[test]
fn a_killed_refresh_goes_on_where_it_was_and_waits_for_nobody() {
    let cluster = cluster();
    let mut session = filled(&cluster, 400);
    session.batch_execute("CREATE ROLE boss; GRANT CREATE ON SCHEMA public TO boss; ALTER TABLE clips OWNER TO boss; ALTER TABLE clips ENABLE ROW LEVEL SECURITY; ALTER TABLE clips FORCE ROW LEVEL SECURITY").unwrap();
    // Somebody holds a row for as long as the first attempts take.
    let mut other = cluster.connect().unwrap();
    other.batch_execute("BEGIN; SELECT 1 FROM clips WHERE id = 5 FOR UPDATE").unwrap();
    let embedded = "SELECT count(*) FROM clips WHERE style IS NOT NULL";
    for least in [1, 100, 200] {
        let mut worker = cluster.connect().unwrap();
        let pid: i32 = worker.query_one("SELECT pg_backend_pid()", &[]).unwrap().get(0);
        let call =
            std::thread::spawn(move || run(&mut worker, "SET ROLE boss; CALL esr_refresh('clips', 'style', 'audio')"));
        wait_until(Duration::from_secs(60), || number(&mut session, embedded) >= least).unwrap();
        session.execute("SELECT pg_terminate_backend($1)", &[&pid]).unwrap();
        let ended = call.join().unwrap();
        assert!(ended.is_err(), "it ended before it was killed");
        assert_eq!(number(&mut session, "SELECT count(*) FROM esr_progress WHERE state = 'interrupted'"), 1);
    }
    other.batch_execute("COMMIT").unwrap();
    run(&mut session, "SET ROLE boss; CALL esr_refresh('clips', 'style', 'audio'); RESET ROLE").unwrap();
    assert_eq!(number(&mut session, WRONG), 0);
    let clips = number(&mut session, "SELECT clips FROM esr_stat_embedder");
    assert!(clips <= 2 * 400 + 4 * 32, "{clips} clips were embedded for 400 rows and for checking them");
}

#[test]
fn the_recipe_that_changes_a_model_works_on_a_table_in_use() {
    let cluster = cluster_with(Options::default(), &[]);
    // A second model: the same networks under another identity.
    let (old, new) = (cluster.folder().join("models/tiny"), cluster.folder().join("models/next"));
    esr_tests::models::copy_bundle(&old, &new).unwrap();
    let mut session = filled(&cluster, 60);
    common::change_identity(&new, &mut session);
    run(&mut session, "ALTER TABLE clips ADD PRIMARY KEY (id); SELECT esr_attach('clips', 'audio', 'style'); CALL esr_refresh('clips'); CREATE INDEX clips_style_idx ON clips USING esr_ivf (style esr_vector_cosine_ops)").unwrap();
    let tags = "SELECT count(DISTINCT esr_model_tag(style)) FROM clips";
    let old_tag: String = session.query_one("SELECT min(esr_model_tag(style)) FROM clips", &[]).unwrap().get(0);
    let recipe = std::fs::read_to_string(repository().join("sql/examples/change_model.sql")).unwrap();
    let printed = cluster
        .psql("postgres", &["-q", "-v", "ON_ERROR_STOP=1", "-v", "model=next", "-v", "dimension=8"], &recipe)
        .unwrap();
    assert!(!printed.contains("ERROR"), "{printed}");
    assert_eq!(number(&mut session, tags), 1);
    let new_tag: String = session.query_one("SELECT min(esr_model_tag(style)) FROM clips", &[]).unwrap().get(0);
    assert_ne!(old_tag, new_tag);
    assert_eq!(
        number(
            &mut session,
            "SELECT count(*) FROM clips WHERE style <=> esr_embed_speech(audio, 'next') > 1e-4 OR style IS NULL"
        ),
        0
    );
    // Queries of the old model are refused, not answered wrongly; what is written next is of the new model.
    let error = session.query("SELECT style <=> esr_embed_text('x', 'tiny') FROM clips", &[]).unwrap_err();
    assert_eq!(state(&error).code(), "22023", "{}", words(&error));
    session.execute("INSERT INTO clips (id, audio) VALUES (9999, $1)", &[&tone(777.0, 0.2)]).unwrap();
    assert_eq!(number(&mut session, tags), 1);
    assert_eq!(
        number(&mut session, "SELECT count(*) FROM esr_attachments WHERE style_column = 'style' AND model = 'next'"),
        1
    );
}

//! Who may use a model: USAGE on the foreign server that stands for it.

mod common;

use std::time::Duration;

use common::{cluster, state, tone, words};
use esr_tests::cluster::wait_until;
use postgres::Client;

const DENIED: &str = "42501";

fn wait_for(session: &mut Client, sql: &str) {
    let holds = wait_until(Duration::from_secs(60), || session.query_one(sql, &[]).unwrap().get(0));
    holds.unwrap_or_else(|_| panic!("never: {sql}"));
}

fn refused(session: &mut Client, sql: &str) {
    let error = session.batch_execute(sql).expect_err(sql);
    assert_eq!(state(&error).code(), DENIED, "{sql}: {}", words(&error));
    assert!(words(&error).contains("tiny") && !words(&error).contains('/'), "{sql}: {}", words(&error));
}

#[test]
fn a_model_with_a_server_is_for_those_who_have_usage() {
    let cluster = cluster();
    let mut owner = cluster.connect().unwrap();
    owner
        .batch_execute(
            "CREATE ROLE dubbing; CREATE ROLE stranger; GRANT CREATE ON SCHEMA public TO dubbing, stranger;
             SELECT esr_embed_text('calm')",
        )
        .unwrap();
    let clip = tone(300.0, 1.0).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let uses = [
        "SELECT esr_embed_text('calm')".to_owned(),
        "SELECT esr_embed_text('calm', 'tiny')".to_owned(),
        "SELECT esr_embed_text(ARRAY['calm'])".to_owned(),
        format!("SELECT esr_embed_speech('\\x{clip}'::bytea)"),
        format!("SELECT esr_embed_speech(ARRAY['\\x{clip}'::bytea])"),
        format!("SELECT * FROM esr_segments('\\x{clip}'::bytea)"),
        "SELECT * FROM esr_classify('[1]', ARRAY['calm'])".to_owned(),
        "CREATE TABLE attached (audio bytea, style esr_vector); SELECT esr_attach('attached', 'audio', 'style')"
            .to_owned(),
    ];
    // Nobody has said anything about the model.
    let mut session = cluster.connect().unwrap();
    session.batch_execute("SET ROLE stranger").unwrap();
    session.batch_execute(&uses[0]).unwrap();
    let listed = |session: &mut Client| -> i64 {
        session.query_one("SELECT count(*) FROM esr_models WHERE name = 'tiny'", &[]).unwrap().get(0)
    };
    assert_eq!(listed(&mut session), 1);
    // A server of another wrapper says nothing either.
    owner.batch_execute("CREATE FOREIGN DATA WRAPPER other; CREATE SERVER tiny FOREIGN DATA WRAPPER other").unwrap();
    session.batch_execute(&uses[0]).unwrap();
    owner
        .batch_execute(
            "DROP FOREIGN DATA WRAPPER other CASCADE; CREATE SERVER tiny FOREIGN DATA WRAPPER esr_model;
             GRANT USAGE ON FOREIGN SERVER tiny TO dubbing",
        )
        .unwrap();
    // The text is in this session's memory from before; that must not matter.
    for sql in &uses {
        refused(&mut session, sql);
    }
    assert_eq!(listed(&mut session), 0);
    session.batch_execute("SET ROLE dubbing").unwrap();
    for sql in uses.iter().filter(|sql| !sql.contains("'[1]'")) {
        session.batch_execute(sql).unwrap_or_else(|error| panic!("{sql}: {}", words(&error)));
    }
    assert_eq!(listed(&mut session), 1);
    // Whoever writes into an attached table needs no right to the model: its owner has it.
    session.batch_execute("GRANT INSERT ON attached TO stranger; SET ROLE stranger").unwrap();
    let insert = format!("INSERT INTO attached (audio) SELECT '\\x{clip}'::bytea FROM generate_series(1, 3)");
    session.batch_execute(&insert).unwrap();
    owner.batch_execute("REVOKE USAGE ON FOREIGN SERVER tiny FROM dubbing").unwrap();
    refused(&mut session, &insert);
    session.batch_execute("SET ROLE dubbing").unwrap();
    refused(&mut session, "CALL esr_refresh('attached')");
    refused(&mut session, &uses[0]);
}

#[test]
fn a_function_of_somebody_else_lends_nothing_to_its_caller() {
    let cluster = cluster();
    let mut session = cluster.connect().unwrap();
    session
        .batch_execute(
            "CREATE ROLE stranger; CREATE SERVER tiny FOREIGN DATA WRAPPER esr_model;
             CREATE FUNCTION lent() RETURNS esr_vector LANGUAGE sql SECURITY DEFINER
                 AS $$ SELECT esr_embed_text('calm') $$;
             SET ROLE stranger; SELECT lent()",
        )
        .unwrap();
    // In one statement, one after the other: what was remembered of the first is not the second's.
    refused(&mut session, "SELECT lent(), esr_embed_text('calm')");
}

#[test]
fn a_queue_whose_owner_lost_the_model_waits_and_says_why() {
    let cluster = cluster();
    let mut session = cluster.connect().unwrap();
    session
        .batch_execute(
            "CREATE ROLE dubbing; GRANT CREATE ON SCHEMA public TO dubbing;
             CREATE SERVER tiny FOREIGN DATA WRAPPER esr_model; GRANT USAGE ON FOREIGN SERVER tiny TO dubbing;
             SET ROLE dubbing; CREATE TABLE clips (audio bytea, style esr_vector);
             SELECT esr_attach('clips', 'audio', 'style', mode => 'queue'); RESET ROLE;
             REVOKE USAGE ON FOREIGN SERVER tiny FROM dubbing",
        )
        .unwrap();
    session.execute("INSERT INTO clips (audio) VALUES ($1)", &[&tone(300.0, 1.0)]).unwrap();
    wait_for(&mut session, "SELECT EXISTS (SELECT FROM esr_failures WHERE sqlstate = '42501')");
    session.batch_execute("GRANT USAGE ON FOREIGN SERVER tiny TO dubbing").unwrap();
    wait_for(&mut session, "SELECT NOT EXISTS (SELECT FROM clips WHERE style IS NULL)");
}

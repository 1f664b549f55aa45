//! The bundle that a fresh install uses, through SQL: its golden vectors, and a first sanity check of its ranking.

mod common;

use common::{embed_text, same};
use esr_tests::{
    cluster::{Cluster, Options},
    models::repository,
};
use serde_json::Value;

#[test]
fn the_default_bundle_gives_its_golden_vectors_through_sql() {
    let cluster = Cluster::start(Options::default()).unwrap();
    let mut session = cluster.connect().unwrap();
    session.batch_execute("CREATE EXTENSION esr").unwrap();
    let golden = std::fs::read_to_string(repository().join("models/default/golden.json")).unwrap();
    let golden: Value = serde_json::from_str(&golden).unwrap();
    let texts = golden["texts"].as_array().unwrap();
    assert!(texts.len() >= 2);
    for text in texts {
        let want: Vec<f32> = text["embedding"].as_array().unwrap().iter().map(|x| x.as_f64().unwrap() as f32).collect();
        let got = embed_text(&mut session, text["input"].as_str().unwrap()).unwrap();
        assert_eq!(got.len(), 512);
        assert!(want.iter().zip(&got).all(|(a, b)| (a - b).abs() < 1e-3), "{}", text["input"]);
    }
    let near = |session: &mut postgres::Client, a: &str, b: &str| -> f64 {
        session.query_one("SELECT esr_embed_text($1) <=> esr_embed_text($2)", &[&a, &b]).unwrap().get(0)
    };
    assert!(near(&mut session, "whispering", "in a whisper") < near(&mut session, "whispering", "shouting in anger"));
    assert!(near(&mut session, "sad", "full of sorrow") < near(&mut session, "sad", "cheerful and happy"));
    let first = embed_text(&mut session, "bored, half asleep").unwrap();
    assert!(same(&first, &embed_text(&mut session, "bored, half asleep").unwrap()));
}

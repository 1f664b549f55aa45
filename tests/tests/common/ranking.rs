//! Rankings by distance, with the plan node "Esr Exact Scan" and without it.

use std::collections::BTreeSet;

use esr_tests::cluster::{Cluster, Options};
use postgres::{Client, Row};
use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::words;

/// A running cluster with the extension and no model.
pub fn cluster() -> Cluster {
    let cluster = Cluster::start(Options::default()).unwrap();
    cluster.connect().unwrap().batch_execute("CREATE EXTENSION esr").unwrap();
    cluster
}

/// Rows with everything that a column of vectors can hold: ties, duplicates, zero vectors, NULLs, among columns of varying
/// width, some NULL.
pub fn fill(session: &mut Client, table: &str, rows: i32, random: &mut ChaCha8Rng) {
    session.batch_execute(&format!("CREATE TABLE {table} (id int, kind int, note text, style esr_vector(5))")).unwrap();
    let insert = format!("INSERT INTO {table} VALUES ($1, $2, $3, $4::real[]::esr_vector)");
    let insert = session.prepare(&insert).unwrap();
    let mut before = vec![1f32; 5];
    for id in 0..rows {
        let style: Option<Vec<f32>> = match random.random_range(0..20) {
            0 | 1 => None,
            2 => Some(vec![0.0; 5]),
            3 => Some(before.clone()),
            4..8 => Some((0..5).map(|_| random.random_range(-2i8..=2).into()).collect()),
            _ => Some((0..5).map(|_| random.random_range(-1f32..1.0)).collect()),
        };
        before = style.clone().unwrap_or(before);
        let note = (random.random_range(0..4) > 0).then(|| "x".repeat(random.random_range(0..300)));
        session.execute(&insert, &[&id, &random.random_range(0..5i32), &note, &style]).unwrap();
    }
}

/// What EXPLAIN prints.
pub fn plan(session: &mut Client, sql: &str) -> String {
    let lines = session.query(&format!("EXPLAIN (COSTS OFF) {sql}"), &[]).unwrap();
    lines.iter().map(|line| line.get::<_, String>(0) + "\n").collect()
}

/// Whether the node is planned.
pub fn uses_node(session: &mut Client, sql: &str) -> bool {
    plan(session, sql).contains("Custom Scan (Esr Exact Scan)")
}

/// Sets `esr.enable_exact_scan`; on, it is taken wherever it can be, though it be no cheaper.
pub fn switch(session: &mut Client, on: bool) {
    let sort = !on;
    session.batch_execute(&format!("SET esr.enable_exact_scan = {on}; SET enable_sort = {sort}")).unwrap();
}

/// Rows of (id, distance) as text, `None` for NULL.
pub type Ranking = Vec<(i32, Option<String>)>;

/// Runs a query of (id, distance).
pub fn ranking(session: &mut Client, sql: &str) -> Ranking {
    let rows = session.query(sql, &[]).unwrap_or_else(|error| panic!("{sql}: {}", words(&error)));
    to_ranking(&rows)
}

/// The same from rows that are there.
pub fn to_ranking(rows: &[Row]) -> Ranking {
    rows.iter().map(|row| (row.get(0), row.get::<_, Option<f64>>(1).map(|distance| format!("{distance:?}")))).collect()
}

/// Two rankings agree if their distances do, and their rows but for those that are as far as the last one: which of those
/// come in, and in which order, SQL leaves open.
pub fn assert_same(ours: &Ranking, theirs: &Ranking, sql: &str) {
    let distances = |ranking: &Ranking| -> Vec<_> { ranking.iter().map(|(_, distance)| distance.clone()).collect() };
    assert_eq!(distances(ours), distances(theirs), "{sql}");
    let ids = |ranking: &Ranking| -> BTreeSet<i32> { ranking.iter().map(|(id, _)| *id).collect() };
    assert_eq!(ids(ours).len(), ours.len(), "{sql} returned a row twice");
    let certain = |ranking: &Ranking| -> BTreeSet<i32> {
        let (first, last) = (ranking.first(), ranking.last());
        let tied = |row: &(i32, _)| first.is_some_and(|end| end.1 == row.1) || last.is_some_and(|end| end.1 == row.1);
        ranking.iter().filter(|row| !tied(row)).map(|(id, _)| *id).collect()
    };
    assert_eq!(certain(ours), certain(theirs), "{sql}");
}

/// Runs a query of (id, distance) with the node, which must be planned, and without it.
pub fn check(session: &mut Client, sql: &str) -> Ranking {
    switch(session, true);
    assert!(uses_node(session, sql), "not planned for {sql}:\n{}", plan(session, sql));
    let ours = ranking(session, sql);
    switch(session, false);
    assert!(!uses_node(session, sql), "planned though switched off for {sql}");
    let theirs = ranking(session, sql);
    switch(session, true);
    assert_same(&ours, &theirs, sql);
    ours
}

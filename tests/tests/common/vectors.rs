//! Vectors for index tests: seeded data, tables filled with them, and exact answers to compare with.

use std::fmt::Write;

use esr_tests::cluster::{Cluster, Options};
use postgres::Client;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// A running cluster with the extension, without a model.
pub fn cluster_without_model(options: Options) -> Cluster {
    let cluster = Cluster::start(options).unwrap();
    cluster.connect().unwrap().batch_execute("CREATE EXTENSION esr").unwrap();
    cluster
}

/// Numbers that are about normally distributed.
pub fn normal(random: &mut ChaCha8Rng) -> f32 {
    (0..12).map(|_| random.random::<f32>()).sum::<f32>() - 6.0
}

/// A generator with a fixed seed.
pub fn seeded(seed: u64) -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(seed)
}

/// Vectors in clusters, as embeddings of style are.
pub fn clustered(rows: usize, dimension: usize, clusters: usize, seed: u64) -> Vec<Vec<f32>> {
    let mut random = seeded(seed);
    let centres: Vec<Vec<f32>> = (0..clusters).map(|_| (0..dimension).map(|_| normal(&mut random)).collect()).collect();
    (0..rows)
        .map(|_| {
            let centre = &centres[random.random_range(0..clusters)];
            centre.iter().map(|x| x + 0.5 * normal(&mut random)).collect()
        })
        .collect()
}

/// A vector as SQL writes it.
pub fn text(vector: &[f32]) -> String {
    let mut text = String::from("[");
    for (position, element) in vector.iter().enumerate() {
        write!(text, "{}{element}", if position == 0 { "" } else { "," }).unwrap();
    }
    text + "]"
}

/// Copies vectors into a table's columns `id` (counting from `first`) and `v`.
pub fn copy(session: &mut Client, table: &str, first: usize, vectors: &[Vec<f32>]) {
    let mut writer = session.copy_in(&format!("COPY {table} (id, v) FROM STDIN")).unwrap();
    for (position, vector) in vectors.iter().enumerate() {
        std::io::Write::write_all(&mut writer, format!("{}\t{}\n", first + position, text(vector)).as_bytes()).unwrap();
    }
    writer.finish().unwrap();
}

/// Runs statements one by one, each in a transaction of its own, as VACUUM and CONCURRENTLY want it.
pub fn run(session: &mut Client, statements: &str) {
    for statement in statements.split(';').filter(|statement| !statement.trim().is_empty()) {
        let words = |error: postgres::Error| panic!("{statement}: {}", super::words(&error));
        session.batch_execute(statement).unwrap_or_else(words);
    }
}

/// Makes the table `t (id int, v esr_vector(n))` of these vectors, counted and vacuumed.
pub fn table(session: &mut Client, vectors: &[Vec<f32>]) {
    let dimension = vectors[0].len();
    session.batch_execute(&format!("CREATE TABLE t (id int, v esr_vector({dimension}))")).unwrap();
    copy(session, "t", 0, vectors);
    run(session, "VACUUM ANALYZE t");
}

/// The plan of a query, one string.
pub fn plan(session: &mut Client, query: &str) -> String {
    let rows = session.query(&format!("EXPLAIN {query}"), &[]).unwrap();
    rows.iter().map(|row| row.get::<_, String>(0)).collect::<Vec<_>>().join("\n")
}

/// What a query answers with the index and without it.
pub struct Answers {
    /// With: distances in the order of the rows.
    pub found: Vec<f64>,
    /// Without.
    pub exact: Vec<f64>,
}

impl Answers {
    /// The share of the exact answer that was found; whatever is as near as its last row counts.
    pub fn recall(&self) -> f64 {
        assert_eq!(self.found.len(), self.exact.len(), "rows are missing");
        let Some(last) = self.exact.last() else { return 1.0 };
        let limit = last + 1e-6 * last.abs().max(1.0);
        // As SQL sorts them: NaN after every number, NULL (infinity here) after NaN.
        let is_right =
            |distance: f64| distance <= limit || (distance.is_nan() && (limit.is_nan() || limit == f64::INFINITY));
        let right = self.found.iter().filter(|distance| is_right(**distance)).count();
        right as f64 / self.exact.len() as f64
    }

    /// Whether the rows found come in the order of their distances.
    pub fn is_ordered(&self) -> bool {
        self.found.is_sorted_by(|a, b| a <= b || a.is_nan() || b.is_nan())
    }
}

/// Asks `FROM source ORDER BY v operator query LIMIT limit` with the index and without.
pub fn ask(session: &mut Client, source: &str, operator: &str, query: &[f32], limit: usize) -> Answers {
    let query = text(query);
    let select =
        format!("SELECT v {operator} '{query}' AS d FROM {source} ORDER BY v {operator} '{query}' LIMIT {limit}");
    let mut run = |settings: &str, uses_index: bool| -> Vec<f64> {
        session.batch_execute(settings).unwrap();
        let plan = plan(session, &select);
        assert_eq!(plan.contains("Index Scan"), uses_index, "{plan}");
        let rows = session.query(&select, &[]).unwrap();
        rows.iter().map(|row| row.get::<_, Option<f64>>(0).unwrap_or(f64::INFINITY)).collect()
    };
    let found = run("SET enable_seqscan = off; SET enable_sort = off; SET jit = off; RESET enable_indexscan", true);
    let exact = run("RESET enable_seqscan; RESET enable_sort; SET enable_indexscan = off", false);
    session.batch_execute("RESET enable_indexscan").unwrap();
    Answers { found, exact }
}

/// The mean recall over queries.
pub fn mean_recall(session: &mut Client, source: &str, operator: &str, queries: &[Vec<f32>], limit: usize) -> f64 {
    let mut sum = 0.0;
    for query in queries {
        sum += ask(session, source, operator, query, limit).recall();
    }
    sum / queries.len() as f64
}

/// Verifies an index against its table; returns rows in the index.
pub fn check(session: &mut Client, index: &str) -> i64 {
    let row = session.query_one(&format!("SELECT rows FROM esr_index_check('{index}', true)"), &[]);
    row.unwrap_or_else(|error| panic!("{index}: {}", super::words(&error))).get(0)
}

//! Exact scans through SQL: our ranking of all rows, what PostgreSQL alone takes to sort the same table, and pgvector's.

use std::{collections::BTreeMap, io::Write};

use anyhow::Result;
use esr_tests::cluster::{Cluster, Options};
use postgres::Client;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::json;

use crate::measure::{backend, cpu_seconds};

const ROWS: usize = 100_000;
const DIMENSIONS: usize = 512;
const SEED: u64 = 7;

/// Measures on a private cluster; prints a table, then the same as one JSON object.
pub fn run() -> Result<()> {
    let options =
        Options::default().set("shared_buffers", "1200MB").set("max_wal_size", "4GB").set("autovacuum", "off");
    let cluster = Cluster::start(options)?;
    let mut session = cluster.connect()?;
    session.batch_execute("CREATE EXTENSION esr")?;
    let scans = exact_scans(&mut session)?;
    for Scan { name, cpu_ms, .. } in &scans {
        println!("exact ORDER BY {name} LIMIT 10 over {ROWS} x {DIMENSIONS}: {cpu_ms:.1} ms of CPU a query");
    }
    println!(
        "{}",
        json!({
            "rows": ROWS, "dimensions": DIMENSIONS, "seed": SEED,
            "exact_scan_cpu_ms": scans.iter().map(|scan| (scan.name, scan.cpu_ms)).collect::<BTreeMap<_, _>>(),
            "processors": crate::measure::processors(),
        })
    );
    Ok(())
}

/// One way of ranking all rows.
struct Scan {
    name: &'static str,
    query: &'static str,
    /// CPU milliseconds of the backend for one query, the table being in shared buffers.
    cpu_ms: f64,
}

/// Our exact scan, what PostgreSQL alone takes for sorting the same table by a number in its rows, and pgvector's scan with
/// vectors inline, where the PostgreSQL that is measured has pgvector. In turns, so that all meet the same machine.
fn exact_scans(session: &mut Client) -> Result<Vec<Scan>> {
    session.batch_execute("CREATE TABLE v (id int, style esr_vector(512)); SET max_parallel_workers_per_gather = 0")?;
    let mut random = ChaCha8Rng::seed_from_u64(SEED);
    let mut copy = session.copy_in("COPY v FROM STDIN")?;
    let mut line = String::new();
    for id in 0..ROWS {
        use std::fmt::Write as _;
        line.clear();
        write!(line, "{id}\t[")?;
        for i in 0..DIMENSIONS {
            write!(line, "{}{:.4}", if i == 0 { "" } else { "," }, random.random_range(-1.0f32..1.0))?;
        }
        line.push_str("]\n");
        copy.write_all(line.as_bytes())?;
    }
    copy.finish()?;
    session.batch_execute("VACUUM (FREEZE, ANALYZE) v")?;
    let target: Vec<f32> = (0..DIMENSIONS).map(|_| random.random_range(-1.0f32..1.0)).collect();
    let mut scans = vec![
        Scan { name: "<=>", query: "SELECT id FROM v ORDER BY style <=> $1::real[]::esr_vector LIMIT 10", cpu_ms: 0.0 },
        Scan {
            name: "id::float8 (no vector is read)",
            query: "SELECT id FROM v WHERE $1::real[] IS NOT NULL ORDER BY id::float8 LIMIT 10",
            cpu_ms: 0.0,
        },
    ];
    if session.query_opt("SELECT FROM pg_available_extensions WHERE name = 'vector'", &[])?.is_some() {
        session.batch_execute(
            "CREATE EXTENSION vector; CREATE TABLE pgv (id int, style vector(512));
             ALTER TABLE pgv ALTER style SET STORAGE plain;
             INSERT INTO pgv SELECT id, style::real[]::vector FROM v",
        )?;
        session.batch_execute("VACUUM (FREEZE, ANALYZE) pgv")?;
        let query = "SELECT id FROM pgv ORDER BY style <=> $1::real[]::vector LIMIT 10";
        scans.push(Scan { name: "pgvector's <=>", query, cpu_ms: 0.0 });
    }
    let pid = backend(session)?;
    let (rounds, repeats) = (8, 10);
    for scan in &scans {
        session.query(scan.query, &[&target])?;
    }
    for _ in 0..rounds {
        for scan in &mut scans {
            let before = cpu_seconds(pid);
            for _ in 0..repeats {
                session.query(scan.query, &[&target])?;
            }
            scan.cpu_ms += (cpu_seconds(pid) - before) * 1000.0 / f64::from(rounds * repeats);
        }
    }
    Ok(scans)
}

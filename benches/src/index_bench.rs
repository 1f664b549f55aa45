//! Indexes side by side: build, search at every setting worth trying, then change the data. One table at a time in a
//! private cluster whose memory holds everything.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};
use esr_tests::cluster::{Cluster, Options};
use postgres::Client;

use crate::{
    changing_data::{self, copy_all, create_table},
    data::{self, Dataset, QueryKind, Sizes},
    filtered::filtered,
    limit::limit,
    measure::{Cost, Machine, cost_of, index_megabytes, load_average},
    plot,
    progress::note,
    random::DIMENSIONS,
    real,
    report::{Best, Report, SystemReport, VariantReport},
    search::{Point, Questions, TARGETS, cheapest, sweep},
    systems::{Description, System, Variant},
    truth::Truth,
};

/// The queries by which variants are compared and recall is followed.
const JUDGE: QueryKind = QueryKind::TextLike;
/// Time between two lines about a build.
const BUILD_LINES: Duration = Duration::from_secs(5);

/// Which vectors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Data {
    /// Like embeddings of style: few true dimensions, strong clusters.
    Clustered,
    /// Little structure.
    Hard,
    /// The default bundle's embeddings of speech corpora.
    Real,
}

/// What to measure.
#[derive(Debug, Args)]
pub struct IndexArguments {
    /// Which vectors.
    #[arg(long, value_enum, default_value_t = Data::Clustered)]
    data: Data,
    /// Rows to index; of real data, at most this many.
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(100..=20_000_000))]
    rows: u32,
    /// Systems to compare, those that are installed.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "esr,hnsw,ivfflat,vchordrq")]
    systems: Vec<System>,
    /// Queries of each kind.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    queries: u32,
    /// Rows that a query asks for.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1000))]
    limit: u32,
    /// Seed of data and queries.
    #[arg(long, default_value_t = 7)]
    seed: u64,
    /// Rows to insert one by one, and as many to copy, into the finished index; 0 leaves the data as it is.
    #[arg(long, default_value_t = 5000)]
    inserts: u32,
    /// The results; the plot goes beside it.
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Where right answers and embeddings are kept from one run to the next.
    #[arg(long, value_name = "FOLDER", default_value = "target/bench")]
    cache: PathBuf,
    #[command(flatten)]
    real: real::RealArguments,
}

/// Runs it; prints tables, writes JSON and a plot.
pub fn run(arguments: &IndexArguments) -> Result<()> {
    let (name, data) = load_data(arguments)?;
    let rows = data.rows.len();
    let limit = arguments.limit as usize;
    let mut truth = BTreeMap::new();
    for kind in QueryKind::ALL {
        truth.insert(kind, Truth::cached(&data, data.queries(kind), limit, &arguments.cache)?);
    }
    let settings = server_settings(rows, &arguments.systems)?;
    let options = settings.iter().fold(Options::default(), |options, (name, value)| options.set(name, value));
    let cluster = Cluster::start(options)?;
    let version: String = cluster.connect()?.query_one("SHOW server_version", &[])?.get(0);
    let mut report = Report {
        machine: Machine::this()?,
        postgresql: version,
        settings,
        data: name.clone(),
        rows,
        dimensions: DIMENSIONS,
        queries: data.text_like.len(),
        limit,
        seed: arguments.seed,
        systems: Vec::new(),
    };
    let output = arguments.output.clone().unwrap_or_else(|| PathBuf::from(format!("target/bench/{name}-{rows}.json")));
    let mut failed = Vec::new();
    for system in &arguments.systems {
        let description = system.describe(rows);
        let Some(version) = create_extension(&cluster, &description)? else {
            note(&format!("{}: not in this PostgreSQL, left out", description.name));
            continue;
        };
        note(&format!("{} {version}: {rows} rows of {name} data", description.name));
        let questions = Questions { data: &data, truth: truth.clone(), limit, operator: "", filter: None };
        match measure_system(&cluster, &description, version, questions) {
            Ok(system) => report.systems.push(system),
            Err(error) => {
                note(&format!("{}: {error:#}", description.name));
                failed.push(description.name);
            }
        }
        // After each system, so that a run that is cut short leaves what it found.
        report.write(&output)?;
    }
    print!("{}", report.tables());
    let picture = output.with_extension("svg");
    plot::write(&[report], &picture)?;
    println!("wrote {} and {}", output.display(), picture.display());
    ensure!(failed.is_empty(), "could not be measured: {}", failed.join(", "));
    Ok(())
}

fn load_data(arguments: &IndexArguments) -> Result<(String, Dataset)> {
    let start = Instant::now();
    let (rows, queries) = (arguments.rows as usize, arguments.queries as usize);
    let sizes = Sizes { rows, later: 2 * arguments.inserts as usize, queries };
    let (name, data) = match arguments.data {
        Data::Clustered => ("clustered", data::clustered(arguments.seed, sizes)),
        Data::Hard => ("hard", data::hard(arguments.seed, sizes)),
        Data::Real => ("real", real::load(&arguments.real, &arguments.cache, arguments.seed, sizes)?),
    };
    note(&format!("{} {name} vectors in {:.1} s", data.rows.len(), start.elapsed().as_secs_f64()));
    Ok((name.to_string(), data))
}

/// Everything in memory, nothing in the background, the log as a server with replicas writes it.
fn server_settings(rows: usize, systems: &[System]) -> Result<Vec<(String, String)>> {
    let vectors_mb = rows * DIMENSIONS * 4 / 1_000_000;
    let shared_buffers = (vectors_mb * 9 / 2).max(1200);
    let maintenance = (vectors_mb * 5 / 2).max(640);
    let mut settings: Vec<(String, String)> = [
        ("shared_buffers", format!("{shared_buffers}MB")),
        ("maintenance_work_mem", format!("{maintenance}MB")),
        ("max_parallel_maintenance_workers", "2".into()),
        ("autovacuum", "off".into()),
        ("jit", "off".into()),
        ("max_wal_size", "100GB".into()),
        ("checkpoint_timeout", "1d".into()),
    ]
    .map(|(name, value)| (name.to_string(), value))
    .into();
    let mut preload = Vec::new();
    for description in systems.iter().map(|system| system.describe(rows)).filter(|description| description.preload) {
        if is_installed(description.extension)? {
            preload.push(description.extension);
        }
    }
    if !preload.is_empty() {
        settings.push(("shared_preload_libraries".into(), preload.join(",")));
    }
    Ok(settings)
}

/// Whether the PostgreSQL that the harness starts has an extension; for what must be known before it is started.
fn is_installed(extension: &str) -> Result<bool> {
    let bin = std::env::var_os("ESR_PG_BIN").context("ESR_PG_BIN is not set: run `make bench`")?;
    let output = Command::new(Path::new(&bin).join("pg_config")).arg("--sharedir").output()?;
    let share = String::from_utf8_lossy(&output.stdout).trim().to_string();
    Ok(Path::new(&share).join("extension").join(format!("{extension}.control")).exists())
}

/// Its version, or `None` where it, or its access method, is missing.
fn create_extension(cluster: &Cluster, system: &Description) -> Result<Option<String>> {
    let mut session = cluster.connect()?;
    let available = "SELECT FROM pg_available_extensions WHERE name = $1";
    if session.query_opt(available, &[&system.extension])?.is_none() {
        return Ok(None);
    }
    session.batch_execute(&format!("CREATE EXTENSION IF NOT EXISTS {} CASCADE", system.extension))?;
    if session.query_opt("SELECT FROM pg_am WHERE amname = $1", &[&system.access_method])?.is_none() {
        return Ok(None);
    }
    let row = session.query_one("SELECT extversion FROM pg_extension WHERE extname = $1", &[&system.extension])?;
    Ok(Some(row.get(0)))
}

fn measure_system(
    cluster: &Cluster,
    system: &Description,
    version: String,
    mut questions: Questions<'_>,
) -> Result<SystemReport> {
    let data = questions.data;
    let changes = !data.later.is_empty();
    let insert_without_index =
        if changes { Some(changing_data::insert_without_index(cluster, system.column_type, data)?) } else { None };
    let mut session = cluster.connect()?;
    session.batch_execute(&format!("DROP TABLE IF EXISTS clips; {}", create_table("clips", system.column_type)))?;
    let load = copy_all(&mut session, "clips", &data.rows, 0)?;
    session.batch_execute("VACUUM (FREEZE, ANALYZE) clips")?;
    drop(session);
    let mut variants: Vec<VariantReport> = Vec::new();
    for variant in &system.variants {
        questions.operator = variant.operator;
        variants.push(measure_variant(cluster, system, variant, &questions)?);
    }
    let mut report = SystemReport {
        name: system.name.to_string(),
        extension: system.extension.to_string(),
        version,
        load,
        insert_without_index,
        variants,
        filtered: Vec::new(),
        changing: None,
    };
    if let Some((variant, before)) = cheapest_variant(system, &report.variants) {
        if system.variants.last().is_none_or(|last| last.label != variant.label) {
            build(cluster, variant)?;
        }
        questions.operator = variant.operator;
        if let Some(best) = &before {
            report.filtered = filtered(&mut cluster.connect()?, &questions, best, system.filtering)?;
        }
        if changes {
            report.changing = Some(changing_data::change(cluster, &variant.label, &mut questions, before)?);
        }
    }
    cluster.connect()?.batch_execute("DROP TABLE clips")?;
    Ok(report)
}

/// The variant that is cheapest at recall 0.95, or the first one if none reaches it.
fn cheapest_variant<'a>(system: &'a Description, reports: &[VariantReport]) -> Option<(&'a Variant, Option<Point>)> {
    let reached = system.variants.iter().zip(reports).filter_map(|(variant, report)| {
        let point = cheapest(&report.points, JUDGE, 0.95)?;
        Some((variant, point.clone()))
    });
    let best = reached.min_by(|a, b| a.1.cpu_ms.total_cmp(&b.1.cpu_ms));
    match best {
        Some((variant, point)) => Some((variant, Some(point))),
        None => system.variants.first().map(|variant| (variant, None)),
    }
}

fn measure_variant(
    cluster: &Cluster,
    system: &Description,
    variant: &Variant,
    questions: &Questions<'_>,
) -> Result<VariantReport> {
    note(&format!(" {}: building", variant.label));
    let load_average = load_average();
    let build = build(cluster, variant)?;
    let mut session = cluster.connect()?;
    let index_mb = index_megabytes(&mut session)?;
    note(&format!("  built in {:.1} s, {:.1} s of CPU, {index_mb:.0} MB", build.wall_s, build.cpu_s));
    let points = sweep(questions, &mut session, variant)?;
    let mut best = Vec::new();
    let mut pair = [cluster.connect()?, cluster.connect()?];
    for kind in QueryKind::ALL {
        for target in TARGETS {
            let Some(point) = cheapest(&points, kind, target) else { continue };
            let point = questions.measure_again(&mut session, point)?;
            let two_clients = match kind {
                QueryKind::TextLike => Some(questions.together(&mut pair, kind, &point.settings)?),
                QueryKind::DataLike => None,
            };
            let chosen_by_planner = questions.is_chosen(&mut session, kind, &point.settings)?;
            best.push(Best { target, point, chosen_by_planner, two_clients });
        }
    }
    let mut limits = Vec::new();
    if system.extension == "esr" {
        for best in best.iter().filter(|best| best.target == 0.95) {
            limits.push(limit(questions, &mut session, &best.point)?);
        }
    }
    Ok(VariantReport {
        label: variant.label.clone(),
        create_index: variant.create_index.clone(),
        load_average,
        build,
        index_mb,
        points,
        best,
        limits,
    })
}

/// Replaces the index by a variant's and brings table and index into memory.
fn build(cluster: &Cluster, variant: &Variant) -> Result<Cost> {
    cluster.connect()?.batch_execute("DROP INDEX IF EXISTS clips_style; CHECKPOINT")?;
    let postmaster = cluster.postmaster().context("the server is gone")?;
    let mut session = cluster.connect()?;
    let mut watcher = cluster.connect()?;
    // The backends that ended before have been waited for by now, so their CPU is not counted as workers'.
    std::thread::sleep(Duration::from_millis(500));
    let ended = AtomicBool::new(false);
    let cost = std::thread::scope(|scope| {
        scope.spawn(|| watch(&mut watcher, &ended));
        let cost = cost_of(postmaster, &mut session, |session| Ok(session.batch_execute(&variant.create_index)?));
        ended.store(true, Ordering::Relaxed);
        cost
    })?;
    if session.query_opt("SELECT FROM pg_available_extensions WHERE name = 'pg_prewarm'", &[])?.is_some() {
        session.batch_execute(
            "CREATE EXTENSION IF NOT EXISTS pg_prewarm; SELECT pg_prewarm('clips'), pg_prewarm('clips_style')",
        )?;
    }
    Ok(cost)
}

/// Prints where a build is, every few seconds.
fn watch(session: &mut Client, ended: &AtomicBool) {
    let start = Instant::now();
    let mut last = start;
    while !ended.load(Ordering::Relaxed) {
        std::thread::sleep(Duration::from_millis(50));
        if last.elapsed() < BUILD_LINES {
            continue;
        }
        last = Instant::now();
        let query = "SELECT phase, tuples_done, tuples_total FROM pg_stat_progress_create_index";
        if let Ok(Some(row)) = session.query_opt(query, &[]) {
            let (phase, done, total): (String, i64, i64) = (row.get(0), row.get(1), row.get(2));
            let of = if total > 0 { format!(" of {total}") } else { String::new() };
            note(&format!("  {:.0} s: {phase}, {done}{of} rows", start.elapsed().as_secs_f64()));
        }
    }
}

//! What a run found: the JSON file's shape, and the tables a person reads.

use std::{fmt::Write, fs, path::Path};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::{
    changing_data::{Changing, RowCost},
    data::QueryKind,
    filtered::Filtered,
    limit::{self, Limit},
    measure::{Cost, Machine},
    search::{Point, TARGETS, Together},
};

/// A whole run.
#[derive(Debug, Serialize, Deserialize)]
pub struct Report {
    /// Where it ran.
    pub machine: Machine,
    /// The server's version.
    pub postgresql: String,
    /// The server's settings that matter.
    pub settings: Vec<(String, String)>,
    /// The generator's name: `clustered`, `hard` or `real`.
    pub data: String,
    /// Rows in the index when it is asked.
    pub rows: usize,
    /// Elements of a vector.
    pub dimensions: usize,
    /// Queries of each kind.
    pub queries: usize,
    /// Rows asked for.
    pub limit: usize,
    /// Seed of data and queries.
    pub seed: u64,
    /// The systems, in the order they ran.
    pub systems: Vec<SystemReport>,
}

/// What one system did.
#[derive(Debug, Serialize, Deserialize)]
pub struct SystemReport {
    /// Its name.
    pub name: String,
    /// Its extension and that one's version.
    pub extension: String,
    /// `CREATE EXTENSION`'s idea of the version.
    pub version: String,
    /// COPY into the table while it has no index.
    pub load: RowCost,
    /// INSERT, one row a statement, into a table of the same type that has no index.
    pub insert_without_index: Option<RowCost>,
    /// The ways it was built.
    pub variants: Vec<VariantReport>,
    /// What the cheapest variant's setting for recall 0.95 gives when only part of the rows may come back.
    pub filtered: Vec<Filtered>,
    /// How the cheapest variant did while rows came and went.
    pub changing: Option<Changing>,
}

/// One way of building.
#[derive(Debug, Serialize, Deserialize)]
pub struct VariantReport {
    /// Its name.
    pub label: String,
    /// The statement.
    pub create_index: String,
    /// How busy the machine was before it was built.
    pub load_average: f64,
    /// What building cost.
    pub build: Cost,
    /// Size of the index in MB (10^6 bytes).
    pub index_mb: f64,
    /// Every setting that was measured.
    pub points: Vec<Point>,
    /// The cheapest setting for each target that was reached.
    pub best: Vec<Best>,
    /// What a query reads at recall 0.95; only of our index, which says so.
    #[serde(default)]
    pub limits: Vec<Limit>,
}

/// The cheapest setting that reaches a target.
#[derive(Debug, Serialize, Deserialize)]
pub struct Best {
    /// The recall to reach.
    pub target: f64,
    /// The setting and what it gives, the median of three measurements.
    pub point: Point,
    /// Whether the planner takes the index by itself.
    pub chosen_by_planner: bool,
    /// Two clients at once.
    pub two_clients: Option<Together>,
}

impl VariantReport {
    /// CPU milliseconds a query at a target, if it was reached.
    pub fn cpu_ms(&self, kind: QueryKind, target: f64) -> Option<f64> {
        let best = self.best.iter().find(|best| best.point.queries == kind && best.target == target)?;
        Some(best.point.cpu_ms)
    }
}

impl Report {
    /// Reads a report.
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
        serde_json::from_slice(&bytes).with_context(|| format!("{} is not a report of this program", path.display()))
    }

    /// Writes it, replacing what was there.
    pub fn write(&self, path: &Path) -> Result<()> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
        }
        fs::write(path, serde_json::to_vec_pretty(self)?).with_context(|| format!("writing {}", path.display()))
    }

    /// The tables, in Markdown.
    pub fn tables(&self) -> String {
        let mut text = format!(
            "{} {} x {}, {} queries of each kind, LIMIT {}, seed {}; {}, {} processors, PostgreSQL {}\n\n",
            self.data,
            self.rows,
            self.dimensions,
            self.queries,
            self.limit,
            self.seed,
            self.machine.cpu,
            self.machine.processors,
            self.postgresql
        );
        self.search_table(&mut text);
        self.latency_table(&mut text);
        self.filtered_table(&mut text);
        self.variants().for_each(|(_, variant)| limit::table(&variant.limits, &mut text));
        self.changing_table(&mut text);
        text
    }

    fn variants(&self) -> impl Iterator<Item = (&SystemReport, &VariantReport)> {
        self.systems.iter().flat_map(|system| system.variants.iter().map(move |variant| (system, variant)))
    }

    fn search_table(&self, text: &mut String) {
        text.push_str("| | load before | build s | build CPU s | peak MB | WAL MB | index MB |");
        for kind in QueryKind::ALL {
            for target in TARGETS {
                let _ = write!(text, " {} CPU ms at {target:.2} |", kind.name());
            }
        }
        text.push_str("\n|---|---|---|---|---|---|---|---|---|---|---|---|---|\n");
        for (system, variant) in self.variants() {
            let Cost { wall_s, cpu_s, wal_mb, peak_memory_mb, .. } = variant.build;
            let name = format!("{} {}, {}", system.name, system.version, variant.label);
            let index_mb = variant.index_mb;
            let _ = write!(
                text,
                "| {name} | {:.1} | {wall_s:.1} | {cpu_s:.1} | {peak_memory_mb:.0} | {wal_mb:.0} | {index_mb:.0} |",
                variant.load_average
            );
            for kind in QueryKind::ALL {
                for target in TARGETS {
                    match variant.cpu_ms(kind, target) {
                        Some(ms) => drop(write!(text, " {ms:.3} |")),
                        None => text.push_str(" - |"),
                    }
                }
            }
            text.push('\n');
        }
        text.push('\n');
    }

    fn latency_table(&self, text: &mut String) {
        text.push_str("| text-like | target | settings | recall | p50 ms | p95 ms | two clients: queries/s | CPU ms | by itself |\n");
        text.push_str("|---|---|---|---|---|---|---|---|---|\n");
        for (system, variant) in self.variants() {
            for best in variant.best.iter().filter(|best| best.point.queries == QueryKind::TextLike) {
                let settings: Vec<String> = best.point.settings.iter().map(|(k, v)| format!("{k} = {v}")).collect();
                let two =
                    best.two_clients.map(|two| (format!("{:.0}", two.queries_per_s), format!("{:.3}", two.cpu_ms)));
                let (rate, cpu) = two.unwrap_or_default();
                let _ = writeln!(
                    text,
                    "| {}, {} | {:.2} | {} | {:.4} | {:.3} | {:.3} | {rate} | {cpu} | {} |",
                    system.name,
                    variant.label,
                    best.target,
                    settings.join(", "),
                    best.point.recall,
                    best.point.p50_ms,
                    best.point.p95_ms,
                    if best.chosen_by_planner { "yes" } else { "no" },
                );
            }
        }
        text.push('\n');
    }

    fn filtered_table(&self, text: &mut String) {
        text.push_str("| with a condition | rows that pass | settings | rows | fewest | recall | CPU ms | p50 ms |\n");
        text.push_str("|---|---|---|---|---|---|---|---|\n");
        for system in &self.systems {
            for Filtered { share, point } in &system.filtered {
                let settings: Vec<String> = point.settings.iter().map(|(k, v)| format!("{k} = {v}")).collect();
                let _ = writeln!(
                    text,
                    "| {} | {:.2} % | {} | {:.1} | {} | {:.4} | {:.3} | {:.3} |",
                    system.name,
                    share * 100.0,
                    settings.join(", "),
                    point.mean_rows,
                    point.fewest_rows,
                    point.recall,
                    point.cpu_ms,
                    point.p50_ms,
                );
            }
        }
        text.push('\n');
    }

    fn changing_table(&self, text: &mut String) {
        if self.systems.iter().all(|system| system.changing.is_none()) {
            return;
        }
        text.push_str(
            "| changing data | INSERT rows/s | CPU ms a row | without index | WAL KB a row | without index | COPY rows/s | \
             without index | VACUUM s | its CPU s | index MB built | filled | vacuumed | recall before | after | CPU ms after |\n\
             |---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|\n",
        );
        for system in &self.systems {
            let Some(changing) = &system.changing else { continue };
            let bare = system.insert_without_index.unwrap_or_default();
            let _ = writeln!(
                text,
                "| {}, {} | {:.0} | {:.3} | {:.3} | {:.2} | {:.2} | {:.0} | {:.0} | {:.2} | {:.2} | {:.0} | {:.0} | {:.0} | {} | {} | {} |",
                system.name,
                changing.variant,
                changing.insert.rows_per_s,
                changing.insert.cpu_ms,
                bare.cpu_ms,
                changing.insert.wal_kb,
                bare.wal_kb,
                changing.copy.rows_per_s,
                system.load.rows_per_s,
                changing.vacuum.wall_s,
                changing.vacuum.cpu_s,
                changing.index_mb_built,
                changing.index_mb_filled,
                changing.index_mb_vacuumed,
                changing.before.as_ref().map_or("-".into(), |point| format!("{:.4}", point.recall)),
                changing.after.as_ref().map_or("-".into(), |point| format!("{:.4}", point.recall)),
                changing.after.as_ref().map_or("-".into(), |point| format!("{:.3}", point.cpu_ms)),
            );
        }
        text.push('\n');
    }
}

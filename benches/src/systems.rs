//! The index implementations that are compared: how each is created and which settings trade its speed for recall.

use clap::ValueEnum;

/// An implementation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum System {
    /// This extension's access method.
    Esr,
    /// pgvector's graph.
    Hnsw,
    /// pgvector's inverted lists.
    Ivfflat,
    /// VectorChord's inverted lists with one-bit codes.
    Vchordrq,
}

/// What the harness must know about an implementation.
pub struct Description {
    /// For tables.
    pub name: &'static str,
    /// Its extension.
    pub extension: &'static str,
    /// Its access method.
    pub access_method: &'static str,
    /// The type of the column.
    pub column_type: &'static str,
    /// Whether the extension must be in `shared_preload_libraries`.
    pub preload: bool,
    /// What it offers for queries with a condition.
    pub filtering: &'static [(&'static str, &'static str)],
    /// Ways to build the index.
    pub variants: Vec<Variant>,
}

/// A way to build the index.
#[derive(Debug, Clone)]
pub struct Variant {
    /// For tables.
    pub label: String,
    /// The statement; the table is `clips`, the column `style`, the index `clips_style`.
    pub create_index: String,
    /// The operator to order by.
    pub operator: &'static str,
    /// Settings to try.
    pub sweeps: Vec<Sweep>,
}

/// One setting that is varied, others being fixed.
#[derive(Debug, Clone)]
pub struct Sweep {
    /// Settings that stay the same.
    pub fixed: Vec<(&'static str, String)>,
    /// The setting that is varied.
    pub knob: &'static str,
    /// Its values.
    pub values: Values,
}

/// Values of a setting.
#[derive(Debug, Clone)]
pub enum Values {
    /// These.
    List(&'static [&'static str]),
    /// Whole numbers from the first to the last, chosen so that the smallest that reaches each recall is found.
    Range(u32, u32),
}

impl System {
    /// How to use it on a table of `rows` rows.
    pub fn describe(self, rows: usize) -> Description {
        match self {
            System::Esr => Description {
                name: "esr_ivf",
                extension: "esr",
                access_method: "esr_ivf",
                column_type: "esr_vector(512)",
                preload: false,
                filtering: &[("esr.probes", "0"), ("esr.target_recall", "0.95")],
                variants: vec![Variant {
                    label: "default".into(),
                    create_index: "CREATE INDEX clips_style ON clips USING esr_ivf (style esr_vector_cosine_ops)"
                        .into(),
                    operator: "<=>",
                    sweeps: vec![
                        Sweep {
                            fixed: Vec::new(),
                            knob: "esr.target_recall",
                            values: Values::List(&["0.80", "0.90", "0.91", "0.95", "0.96", "0.99", "0.993"]),
                        },
                        Sweep { fixed: Vec::new(), knob: "esr.probes", values: Values::Range(1, 1000) },
                    ],
                }],
            },
            System::Hnsw => Description {
                name: "pgvector HNSW",
                extension: "vector",
                access_method: "hnsw",
                column_type: "vector(512)",
                preload: false,
                filtering: &[("hnsw.iterative_scan", "relaxed_order")],
                variants: vec![Variant {
                    label: "m 16, ef_construction 64".into(),
                    create_index: "CREATE INDEX clips_style ON clips USING hnsw (style vector_cosine_ops) \
                                   WITH (m = 16, ef_construction = 64)"
                        .into(),
                    operator: "<=>",
                    // 1,000 is as far as pgvector lets it go.
                    sweeps: vec![Sweep { fixed: Vec::new(), knob: "hnsw.ef_search", values: Values::Range(10, 1000) }],
                }],
            },
            System::Ivfflat => Description {
                name: "pgvector IVFFlat",
                extension: "vector",
                access_method: "ivfflat",
                column_type: "vector(512)",
                preload: false,
                filtering: &[("ivfflat.iterative_scan", "relaxed_order")],
                variants: list_counts(rows).map(ivfflat).into(),
            },
            System::Vchordrq => Description {
                name: "VectorChord",
                extension: "vchord",
                access_method: "vchordrq",
                column_type: "vector(512)",
                preload: true,
                filtering: &[("vchordrq.prefilter", "on")],
                variants: list_counts(rows).map(vchordrq).into(),
            },
        }
    }
}

/// Numbers of lists worth trying: 400 and 1,264 for 100,000 rows, 1,414 and 2,828 for 500,000.
fn list_counts(rows: usize) -> [u32; 2] {
    let root = (rows as f64).sqrt();
    [if rows < 300_000 { 1.265 * root } else { 2.0 * root }, 4.0 * root].map(|lists| (lists as u32).max(1))
}

fn ivfflat(lists: u32) -> Variant {
    Variant {
        label: format!("{lists} lists"),
        create_index: format!(
            "CREATE INDEX clips_style ON clips USING ivfflat (style vector_cosine_ops) WITH (lists = {lists})"
        ),
        operator: "<=>",
        sweeps: vec![Sweep { fixed: Vec::new(), knob: "ivfflat.probes", values: Values::Range(1, lists) }],
    }
}

/// VectorChord over Euclidean distance, for which its codes of residuals work best; unit vectors rank alike. Pages are read
/// without prefetch, which costs it time when everything is in memory.
fn vchordrq(lists: u32) -> Variant {
    let sweep = |epsilon: &str| Sweep {
        fixed: vec![
            ("vchordrq.epsilon", epsilon.to_string()),
            ("vchordrq.io_search", "read_buffer".into()),
            ("vchordrq.io_rerank", "read_buffer".into()),
        ],
        knob: "vchordrq.probes",
        values: Values::Range(1, lists),
    };
    Variant {
        label: format!("{lists} lists, residual"),
        create_index: format!(
            "CREATE INDEX clips_style ON clips USING vchordrq (style vector_l2_ops) WITH (options = $$\n\
             residual_quantization = true\nbuild.pin = true\n[build.internal]\nlists = [{lists}]\nbuild_threads = 2\n$$)"
        ),
        operator: "<->",
        sweeps: ["1.0", "1.4", "1.9"].map(sweep).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn list_counts_of_the_usual_sizes() {
        assert_eq!(list_counts(100_000), [400, 1264]);
        assert_eq!(list_counts(500_000), [1414, 2828]);
        assert_eq!(list_counts(0), [1, 1]);
    }
}

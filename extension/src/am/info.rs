//! `esr_index_info`: what an index is, as JSON that the function in the install script takes apart.

use esr_ivf::page::FIRST_LIST;
use pgrx::pg_sys;
use serde_json::json;

use super::cache;
use super::error::IndexError;
use super::pages::IndexPages;
use super::relation::OpenIndex;
use crate::fmgr::Call;
use crate::vector::tag::Tag;
use crate::{settings, sql_function};

sql_function!(esr_index_summary, summary);

/// Rows of a query whose cost is shown.
const SHOWN_ROWS: f64 = 10.0;

fn summary(call: &Call) -> Result<String, IndexError> {
    let open = OpenIndex::open(call.oid(0), pg_sys::AccessShareLock)?;
    open.must_read_statistics()?;
    let index = open.index;
    let pages = IndexPages::of(index);
    let summary = esr_ivf::summary(&pages).map_err(index.error())?;
    let structure = cache::structure(index, &pages)?;
    let sizes: Vec<f64> = structure.lists.iter().skip(FIRST_LIST as usize).map(|list| f64::from(list.rows)).collect();
    let rows: f64 = sizes.iter().sum();
    let squares: f64 = sizes.iter().map(|size| size * size).sum();
    let expected = summary.estimate(summary.rows() as f64, SHOWN_ROWS, settings::target_recall());
    let tag = Tag(summary.tag());
    Ok(json!({
        "metric": match structure.metric() {
            esr_vector::Metric::Cosine => "cosine",
            esr_vector::Metric::Euclidean => "l2",
            esr_vector::Metric::InnerProduct => "inner_product",
        },
        "dimension": summary.dimension(),
        "model_tag": (!tag.is_untagged()).then(|| tag.to_string()),
        "rows": summary.rows(),
        "lists": summary.lists(),
        "largest_list": sizes.iter().copied().fold(0.0, f64::max) as u64,
        // 1 if all lists are equally long: how many more rows a random row finds in its list than the average list has.
        "imbalance": (rows > 0.0).then(|| squares * sizes.len() as f64 / (rows * rows)),
        "is_trained": summary.is_trained(),
        "directions": summary.axes(),
        "code_bytes": summary.code_bytes(),
        "target_recall": settings::target_recall(),
        "expected_lists": expected.lists,
        "memory_bytes": structure.memory_bytes(),
        "disk_bytes": u64::from(index.block_count()) * u64::from(pg_sys::BLCKSZ),
    })
    .to_string())
}

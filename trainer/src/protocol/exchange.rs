//! Vectors and rankings in a file, one JSON object a line, so that another program can rank the same clips by the same
//! queries and compare (`esr-benches protocol` does it through SQL). Floats are written so that they are read back exactly.

use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::pool::{Asked, Pool};
use super::ranking::rank;
use super::recall::{Recall, exact};

/// One line of the file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Line {
    /// The first line.
    Header {
        /// Elements of each vector.
        dimension: usize,
        /// Clips of other styles in a trial.
        drawn: usize,
    },
    /// A clip.
    Clip {
        /// Name of the pool.
        pool: String,
        /// Number within the pool, from 0.
        clip: usize,
        /// Its class.
        style: String,
        /// Unit vector.
        embedding: Vec<f32>,
    },
    /// A query with what came of it in memory.
    Query {
        /// Name of the pool.
        pool: String,
        /// The style it asks for.
        style: String,
        /// The vector.
        embedding: Vec<f32>,
        /// Clip of the style, number of other clips above it, and cosine; best first.
        above: Vec<(usize, usize, f32)>,
        /// R@1, R@5, R@10, R@20 in exact expectation.
        recall: Recall,
    },
}

/// Writes pools, each with one query a style.
///
/// # Errors
/// Names the file if it cannot be written.
pub fn write(file: &Path, pools: &[(Pool, Vec<Asked>)], drawn: usize) -> Result<()> {
    if let Some(folder) = file.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    }
    let out = std::fs::File::create(file).with_context(|| format!("cannot write {}", file.display()))?;
    let mut out = std::io::BufWriter::new(out);
    let dimension = pools.first().map_or(0, |(pool, _)| pool.rows.row(0).len());
    let mut put = |line: &Line| -> Result<()> {
        serde_json::to_writer(&mut out, line)?;
        Ok(out.write_all(b"\n")?)
    };
    put(&Line::Header { dimension, drawn })?;
    for (pool, asked) in pools {
        for (clip, heard) in pool.clips.iter().enumerate() {
            let embedding = pool.rows.row(clip).to_vec();
            put(&Line::Clip { pool: pool.name.clone(), clip, style: heard.style.clone(), embedding })?;
        }
        for asked in asked {
            for query in asked.queries.iter() {
                let scores = pool.rows.scores(query);
                let ranking = rank(&scores, &pool.relevant(&asked.style));
                let above = ranking.above.iter().map(|(clip, above)| (*clip, *above, scores[*clip])).collect();
                let recall = exact(&ranking, drawn);
                let (pool, style) = (pool.name.clone(), asked.style.clone());
                put(&Line::Query { pool, style, embedding: query.to_vec(), above, recall })?;
            }
        }
    }
    out.flush().with_context(|| format!("cannot write {}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::pool::{Heard, Rows};

    #[test]
    fn floats_are_read_back_exactly() {
        let rows = [vec![0.1f32, 1.0 / 3.0], vec![f32::MIN_POSITIVE, -0.7], vec![0.6, 0.8]];
        let clip = |style: &str| Heard { style: style.into(), ..Heard::default() };
        let pool = Pool {
            name: "p".into(),
            clips: vec![clip("a"), clip("b"), clip("a")],
            rows: Rows::new(2, rows.clone()).unwrap(),
        };
        let asked = Asked { style: "a".into(), queries: Rows::new(2, [vec![0.6, 0.8]]).unwrap() };
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("deep/vectors.jsonl");
        write(&file, &[(pool, vec![asked])], 400).unwrap();
        let text = std::fs::read_to_string(file).unwrap();
        let lines: Vec<Line> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 5);
        for (line, row) in lines[1..4].iter().zip(&rows) {
            assert!(matches!(line, Line::Clip { embedding, .. } if embedding == row));
        }
        let Line::Query { above, recall, .. } = &lines[4] else { panic!("the last line is a query") };
        assert_eq!(above.iter().map(|(clip, above, _)| (*clip, *above)).collect::<Vec<_>>(), [(2, 0), (0, 0)]);
        assert!((above[1].2 - (0.06 + 0.8 / 3.0)).abs() < 1e-6);
        assert_eq!(recall.0, [1.0; 4]);
    }
}

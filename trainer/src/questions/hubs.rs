//! Whether taking back what all queries have in common helps: clips that are near to every description (hubs) push others down.
//! Centred clips, cross-domain similarity local scaling (Conneau et al., "Word translation without parallel data", 2018) and
//! inverted softmax (Smith et al., "Offline bilingual word vectors, orthogonal transformations and the inverted softmax", 2017).

use anyhow::Result;

use crate::config::Config;
use crate::figure::{Words, bars};
use crate::prompts::Side;
use crate::protocol::command::Subject;
use crate::protocol::ground::{Ground, together};
use crate::protocol::pool::{Asked, Pool, Rows};
use crate::report::{Answer, Cell, Figure, Table};
use crate::retrieval::{Quality, judge};

/// Arguments of `esr-trainer question hubs`.
#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    /// Model, corpora, output.
    #[command(flatten)]
    pub subject: Subject,
}

/// What is done to the scores.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Remedy {
    /// Nothing.
    None,
    /// This share of the pool's mean is taken off each clip.
    Centred(f32),
    /// Half of a clip's mean similarity to the nearest of all style descriptions is taken off.
    LocalScaling(usize),
    /// Softmax over all style descriptions with this inverse temperature.
    InvertedSoftmax(f32),
}

const REMEDIES: [(Remedy, &str); 6] = [
    (Remedy::None, "as they are"),
    (Remedy::Centred(0.5), "half centred"),
    (Remedy::Centred(1.0), "centred"),
    (Remedy::LocalScaling(5), "local scaling, 5"),
    (Remedy::InvertedSoftmax(4.0), "inverted softmax, 4"),
    (Remedy::InvertedSoftmax(10.0), "inverted softmax, 10"),
];

/// Asks.
///
/// # Errors
/// If the model or its data are missing.
pub fn run(arguments: &Arguments) -> Result<Answer> {
    let subject = &arguments.subject;
    let config = Config::read(&subject.config)?;
    let mut ground = Ground::open(&config, &subject.model())?;
    let styles: Vec<String> = ground.prompts.styles().map(String::from).collect();
    let described = styles.iter().map(|s| ground.asked_style(s, Side::Train)).collect::<Result<Vec<_>>>()?;
    let described: Vec<Asked> = together(&described);
    let mut table = Table::new(
        "Scores with what all descriptions have in common taken back, mean over styles, each held-out prompt alone",
        &["corpus", "", "R@1", "R@5", "mAP", "P@1"],
    );
    let mut groups = vec![];
    let mut of_remedy: Vec<(String, Vec<[f64; 3]>)> =
        REMEDIES.iter().map(|(_, name)| (name.to_string(), vec![])).collect();
    let mut all: Vec<Vec<Quality>> = vec![vec![]; REMEDIES.len()];
    for corpus in subject.corpora(&ground)? {
        let pool = ground.pool(&corpus, subject.split, |_| true)?;
        let asked = ground.asked(&pool, Side::Heldout)?;
        for (number, (remedy, name)) in REMEDIES.iter().enumerate() {
            let quality = judged(&pool, &asked, &described, *remedy)?;
            table.row(row(corpus.clone(), name, &quality));
            of_remedy[number].1.push([quality.precision; 3]);
            all[number].push(quality);
        }
        groups.push(corpus);
    }
    for (qualities, (_, name)) in all.iter().zip(&REMEDIES) {
        table.row(row("mean of corpora".into(), name, &Quality::mean(qualities)));
    }
    let words =
        Words { title: "Mean average precision with hubs taken back", x: "", y: "mAP, single held-out prompts" };
    let figures = vec![Figure { name: "hubs".into(), svg: bars(words, &groups, &of_remedy)? }];
    Ok(Answer { name: "hubs".into(), tables: vec![table], figures, remarks: vec![] })
}

fn row(corpus: String, remedy: &str, quality: &Quality) -> Vec<Cell> {
    let numbers = [quality.recall_1, quality.recall_5, quality.precision, quality.first];
    [corpus.into(), remedy.into()].into_iter().chain(numbers.into_iter().map(Cell::from)).collect()
}

fn judged(pool: &Pool, asked: &[Asked], described: &[Asked], remedy: Remedy) -> Result<Quality> {
    let moved = if let Remedy::Centred(share) = remedy { Some(centred(&pool.rows, share)?) } else { None };
    let own = moved.as_ref().unwrap_or(&pool.rows);
    // `[descriptions][clips]`
    let likeness: Vec<Vec<f32>> = described.iter().map(|d| own.scores(d.queries.row(0))).collect();
    let common = common(&likeness, remedy, own.len());
    let of_style = |asked: &Asked| {
        let relevant = pool.relevant(&asked.style);
        let each = asked.queries.iter().map(|query| {
            let mut scores = own.scores(query);
            scores.iter_mut().zip(&common).for_each(|(score, common)| *score -= common);
            judge(&scores, &relevant)
        });
        Quality::mean(&each.collect::<Vec<_>>())
    };
    Ok(Quality::mean(&asked.iter().map(of_style).collect::<Vec<_>>()))
}

/// What is taken off each clip's score. For the inverted softmax it is in units of the score: its logarithm, divided by the
/// inverse temperature, orders clips alike.
fn common(likeness: &[Vec<f32>], remedy: Remedy, clips: usize) -> Vec<f32> {
    let of_clip = |n: usize| likeness.iter().map(move |row| row[n]);
    (0..clips)
        .map(|n| match remedy {
            Remedy::None | Remedy::Centred(_) => 0.0,
            Remedy::LocalScaling(nearest) => {
                let mut all: Vec<f32> = of_clip(n).collect();
                all.sort_by(|a, b| b.total_cmp(a));
                all.truncate(nearest.max(1));
                0.5 * all.iter().sum::<f32>() / all.len() as f32
            }
            Remedy::InvertedSoftmax(inverse) => of_clip(n).map(|s| (s * inverse).exp()).sum::<f32>().ln() / inverse,
        })
        .collect()
}

/// Unit vectors of the rows less a share of their mean.
fn centred(rows: &Rows, share: f32) -> Result<Rows> {
    let mean = rows.mean();
    let moved = rows.iter().map(|row| {
        let moved: Vec<f32> = row.iter().zip(&mean).map(|(x, m)| x - share * m).collect();
        let length = moved.iter().map(|x| x * x).sum::<f32>().sqrt().max(1e-12);
        moved.into_iter().map(|x| x / length).collect()
    });
    Rows::new(mean.len(), moved.collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::pool::Heard;

    #[test]
    fn a_hub_loses_its_lead() {
        // The third clip is near to both descriptions, and of neither style.
        let rows = vec![vec![0.8, 0.1, 0.6], vec![0.1, 0.8, 0.6], vec![0.52, 0.52, 0.6]];
        let clips = ["a", "b", "c"].map(|style| Heard { style: style.into(), ..Heard::default() });
        let pool = Pool { name: "p".into(), clips: clips.into(), rows: Rows::new(3, rows).unwrap() };
        let asked = |style: &str, x: f32, y: f32| Asked {
            style: style.into(),
            queries: Rows::new(3, [vec![x, y, 0.0]]).unwrap(),
        };
        let described = [asked("a", 0.8, 0.6), asked("b", 0.6, 0.8)];
        let queries = [asked("a", 0.8, 0.6)];
        let precision = |remedy| judged(&pool, &queries, &described, remedy).unwrap().precision;
        assert_eq!(precision(Remedy::None), 0.5);
        assert_eq!(precision(Remedy::LocalScaling(2)), 1.0);
        assert_eq!(precision(Remedy::InvertedSoftmax(10.0)), 1.0);
        assert!(precision(Remedy::Centred(1.0)) >= 0.5);
    }

    #[test]
    fn centring_leaves_unit_vectors() {
        let rows = centred(&Rows::new(2, [vec![1.0, 0.0], vec![0.6, 0.8]]).unwrap(), 1.0).unwrap();
        let [a, b] = [rows.row(0), rows.row(1)];
        assert!((a[0] * a[0] + a[1] * a[1] - 1.0).abs() < 1e-6 && (a[0] + b[0]).abs() < 1e-6);
    }
}

//! How much the answer depends on the clips of other styles: their number, and whether they share speaker or sentence with
//! the clip that is to be found, or are of the style most easily taken for it.

use anyhow::{Result, ensure};

use super::mean;
use crate::config::Config;
use crate::figure::{Series, Words, bars, lines};
use crate::prompts::Side;
use crate::protocol::bootstrap::estimate;
use crate::protocol::command::Subject;
use crate::protocol::ground::{Ground, together};
use crate::protocol::pool::{Asked, Heard, Pool};
use crate::protocol::recall::Recall;
use crate::report::{Answer, Cell, Figure, Table};
use crate::retrieval::at_most;

/// Numbers of others that are tried beside all there are.
const NUMBERS: [usize; 6] = [50, 100, 200, 400, 800, 1600];
const REPLICATES: usize = 300;

/// Arguments of `esr-trainer question negatives`.
#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    /// Model, corpora, output.
    #[command(flatten)]
    pub subject: Subject,
    /// Others in a trial when kinds of them are compared.
    #[arg(long, default_value_t = 20)]
    pub drawn: usize,
}

/// Which clips of other styles a clip is to be told from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// All.
    Any,
    /// Those of the same speaker.
    SameSpeaker,
    /// Those of other speakers.
    OtherSpeaker,
    /// Those in which the same words are said.
    SameSentence,
    /// Those of the one style whose clips score highest for the query.
    MostConfusable,
    /// Those of the one style whose clips score lowest.
    LeastConfusable,
}

const KINDS: [(Kind, &str); 5] = [
    (Kind::SameSpeaker, "same speaker"),
    (Kind::OtherSpeaker, "other speakers"),
    (Kind::SameSentence, "same sentence"),
    (Kind::MostConfusable, "most confusable style"),
    (Kind::LeastConfusable, "least confusable style"),
];

/// Asks.
///
/// # Errors
/// If the model or its data are missing.
pub fn run(arguments: &Arguments) -> Result<Answer> {
    let subject = &arguments.subject;
    let config = Config::read(&subject.config)?;
    let mut ground = Ground::open(&config, &subject.model())?;
    let mut numbers = Table::new(
        "Number of others (uniform, held-out prompts averaged), mean over styles",
        &["corpus", "others", "R@1", "R@5", "R@10", "R@20"],
    );
    let mut kinds = Table::new(
        format!(
            "Kind of others, {} in a trial; `any` is on the same clips, so that only the kind differs",
            arguments.drawn
        ),
        &["corpus", "others", "clips", "R@1", "R@1 of any", "R@5", "R@5 of any"],
    );
    let (mut curves, mut groups) = (vec![], vec![]);
    let mut harder: Vec<(String, Vec<[f64; 3]>)> = KINDS.iter().map(|(_, name)| (name.to_string(), vec![])).collect();
    for corpus in subject.corpora(&ground)? {
        let pool = ground.pool(&corpus, subject.split, |_| true)?;
        let asked = together(&ground.asked(&pool, Side::Heldout)?);
        let fewest = pool.styles().values().map(|clips| pool.clips.len() - clips.len()).min().unwrap_or(0);
        let mut points = vec![];
        for n in NUMBERS.into_iter().filter(|n| *n < fewest).chain([pool.clips.len()]) {
            let recall = estimate(&pool, &asked, n, REPLICATES, subject.seed).mean;
            let label = if n == pool.clips.len() { format!("all ({fewest} or more)") } else { n.to_string() };
            let mut row: Vec<Cell> = vec![corpus.clone().into(), label.into()];
            row.extend(recall.map(Cell::from));
            numbers.row(row);
            points.push((n.min(fewest) as f64, [recall[1].value, recall[1].low, recall[1].high]));
        }
        curves.push(Series { name: corpus.clone(), points, dashed: false });
        groups.push(corpus.clone());
        for ((kind, name), (_, bars)) in KINDS.iter().zip(&mut harder) {
            let found = compare(&pool, &asked, *kind, arguments.drawn);
            let ratio = found.as_ref().map_or(0.0, |f| f.kind.0[0] / f.any.0[0].max(1e-9));
            bars.push([ratio, ratio, ratio]);
            if let Some(Compared { clips, kind, any }) = found {
                kinds.row(vec![
                    corpus.clone().into(),
                    (*name).into(),
                    clips.into(),
                    kind.0[0].into(),
                    any.0[0].into(),
                    kind.0[1].into(),
                    any.0[1].into(),
                ]);
            }
        }
    }
    ensure!(!groups.is_empty(), "no corpus has two styles in this split");
    let words = Words { title: "R@5 by the number of others", x: "clips of other styles", y: "R@5" };
    let kind_words =
        Words { title: "R@1 against other kinds of clips, as a share of R@1 against any", x: "", y: "share" };
    let figures = vec![
        Figure { name: "negatives-number".into(), svg: lines(words, &curves, true)? },
        Figure { name: "negatives-kind".into(), svg: bars(kind_words, &groups, &harder)? },
    ];
    Ok(Answer { name: "negatives".into(), tables: vec![numbers, kinds], figures, remarks: vec![] })
}

/// R@k against one kind of others, and against any others, over the same clips.
#[derive(Clone, Debug, PartialEq)]
pub struct Compared {
    /// Clips that have enough others of the kind.
    pub clips: usize,
    /// Against the kind.
    pub kind: Recall,
    /// Against any.
    pub any: Recall,
}

/// Exact R@k among `drawn` others of a kind, mean over clips of each style, then over styles. Clips with fewer such others
/// than `drawn` are left out; `None` if none is left.
pub fn compare(pool: &Pool, asked: &[Asked], kind: Kind, drawn: usize) -> Option<Compared> {
    let (mut clips, mut per_style) = (0, vec![]);
    for asked in asked {
        let scores = pool.rows.scores(asked.queries.row(0));
        let chosen = style_of(kind, pool, &asked.style, &scores);
        let allowed = |positive: &Heard, other: &Heard| match kind {
            Kind::Any => true,
            Kind::SameSpeaker => positive.speaker == other.speaker,
            Kind::OtherSpeaker => positive.speaker != other.speaker,
            Kind::SameSentence => !positive.sentence.is_empty() && positive.sentence == other.sentence,
            Kind::MostConfusable | Kind::LeastConfusable => chosen.as_deref() == Some(other.style.as_str()),
        };
        let mut own = vec![];
        for (n, positive) in pool.clips.iter().enumerate().filter(|(_, c)| c.style == asked.style) {
            let of_kind =
                against(&scores, n, drawn, |o| pool.clips[o].style != asked.style && allowed(positive, &pool.clips[o]));
            let any = against(&scores, n, drawn, |o| pool.clips[o].style != asked.style);
            own.extend(of_kind.zip(any));
        }
        clips += own.len();
        if !own.is_empty() {
            per_style.push((Recall::mean(own.iter().map(|o| o.0)), Recall::mean(own.iter().map(|o| o.1))));
        }
    }
    let (kinds, any): (Vec<Recall>, Vec<Recall>) = per_style.into_iter().unzip();
    (clips > 0).then(|| Compared { clips, kind: Recall::mean(kinds), any: Recall::mean(any) })
}

fn against(scores: &[f32], positive: usize, drawn: usize, allowed: impl Fn(usize) -> bool) -> Option<Recall> {
    let (mut others, mut above) = (0, 0);
    for other in (0..scores.len()).filter(|o| allowed(*o)) {
        others += 1;
        above += usize::from(scores[other] >= scores[positive]);
    }
    (others >= drawn).then(|| Recall([1, 5, 10, 20].map(|place| at_most(others, above, drawn, place - 1))))
}

/// The style most or least easily taken for another one: by the mean score of its clips.
fn style_of(kind: Kind, pool: &Pool, style: &str, scores: &[f32]) -> Option<String> {
    let others = pool.styles().into_iter().filter(|(other, _)| *other != style);
    let scored = others.map(|(other, clips)| (mean(clips.iter().map(|n| f64::from(scores[*n]))), other.to_string()));
    let mut scored: Vec<(f64, String)> = scored.collect();
    scored.sort_by(|a, b| a.0.total_cmp(&b.0));
    match kind {
        Kind::MostConfusable => scored.pop().map(|s| s.1),
        Kind::LeastConfusable => scored.into_iter().next().map(|s| s.1),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::pool::Rows;

    /// Two speakers, three styles; the score is the only element of a vector.
    fn pool() -> (Pool, Vec<Asked>) {
        let facts = [
            ("a", "s", "x", 0.9),
            ("a", "t", "y", 0.5),
            ("b", "s", "x", 0.6),
            ("b", "t", "y", 0.7),
            ("c", "s", "z", 0.1),
            ("c", "t", "y", 0.2),
        ];
        let clips = facts
            .iter()
            .map(|(style, speaker, sentence, _)| Heard {
                style: (*style).into(),
                speaker: (*speaker).into(),
                sentence: (*sentence).into(),
                ..Heard::default()
            })
            .collect();
        let rows = Rows::new(1, facts.iter().map(|f| vec![f.3])).unwrap();
        let asked = Asked { style: "a".into(), queries: Rows::new(1, [vec![1.0]]).unwrap() };
        (Pool { name: "p".into(), clips, rows }, vec![asked])
    }

    #[test]
    fn each_kind_counts_its_own_others() {
        let (pool, asked) = pool();
        let recall_1 = |kind, drawn| compare(&pool, &asked, kind, drawn).map(|c| (c.clips, c.kind.0[0]));
        // The second clip of style a (0.5) is beaten by both clips of b and by none of c.
        assert_eq!(recall_1(Kind::Any, 4), Some((2, 0.5)));
        assert_eq!(recall_1(Kind::SameSpeaker, 2), Some((2, 0.5)));
        assert_eq!(recall_1(Kind::OtherSpeaker, 1), Some((2, 0.75)));
        // The first has one other with its sentence, the second two.
        assert_eq!(recall_1(Kind::SameSentence, 2), Some((1, 0.0)));
        assert_eq!(recall_1(Kind::SameSentence, 1), Some((2, 0.75)));
        assert_eq!(recall_1(Kind::MostConfusable, 2), Some((2, 0.5)));
        assert_eq!(recall_1(Kind::LeastConfusable, 2), Some((2, 1.0)));
        assert_eq!(recall_1(Kind::SameSpeaker, 3), None);
    }
}

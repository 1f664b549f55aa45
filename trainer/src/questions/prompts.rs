//! How much the wording matters: new phrases, new templates, bare words, typing errors, capitals, long requests, and whether
//! "not angry" is understood.

use anyhow::{Result, ensure};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::{deviation, mean, separation};
use crate::config::Config;
use crate::figure::{Words, bars};
use crate::prompts::{Prompts, Side};
use crate::protocol::command::Subject;
use crate::protocol::ground::Ground;
use crate::protocol::pool::{Pool, Rows};
use crate::protocol::ranking::{Ranking, average_precision, rank};
use crate::protocol::recall::{Chances, Recall};
use crate::report::{Answer, Figure, Table};
use crate::retrieval::DISTRACTORS;
use crate::wording::mistype;

/// Arguments of `esr-trainer question prompts`.
#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    /// Model, corpora, output.
    #[command(flatten)]
    pub subject: Subject,
}

/// A way of asking for a style.
type Wording = (&'static str, fn(&Prompts, &str, &mut ChaCha8Rng) -> Vec<String>);

const WORDINGS: [Wording; 11] = [
    ("training prompts", |p, s, _| p.mixed(s, Side::Train, Side::Train)),
    ("new templates", |p, s, _| p.mixed(s, Side::Train, Side::Heldout)),
    ("new phrases", |p, s, _| p.mixed(s, Side::Heldout, Side::Train)),
    ("new phrases and templates", |p, s, _| p.mixed(s, Side::Heldout, Side::Heldout)),
    ("the style's name alone", |_, s, _| vec![s.to_string()]),
    ("new, one typing error", |p, s, random| {
        p.mixed(s, Side::Heldout, Side::Heldout).iter().map(|text| mistype(text, random)).collect()
    }),
    ("new, typing error in the phrase alone", |p, s, random| {
        p.adjectives(s, Side::Heldout)
            .iter()
            .flat_map(|word| (0..4).map(|_| mistype(word, random)).collect::<Vec<_>>())
            .collect()
    }),
    ("new, capitals", |p, s, _| p.mixed(s, Side::Heldout, Side::Heldout).iter().map(|t| t.to_uppercase()).collect()),
    ("new, as a long request", |p, s, random| {
        let words = p.mixed(s, Side::Heldout, Side::Heldout);
        words.iter().map(|text| p.wordings.request(text, Side::Heldout, random)).collect()
    }),
    ("training phrases, negated alike", |p, s, _| p.negated(s, Side::Train, Side::Train)),
    ("new phrases, negated anew", |p, s, _| p.negated(s, Side::Heldout, Side::Heldout)),
];

/// What came of one wording on one corpus: a value for each style, and for each style the values of its prompts.
#[derive(Debug, Default)]
struct Results {
    recall_1: Vec<f64>,
    recall_5: Vec<f64>,
    separation: Vec<f64>,
    precision: Vec<Vec<f64>>,
    together: Vec<f64>,
}

/// Asks.
///
/// # Errors
/// If the model, its data or the prompt file's wordings are missing.
pub fn run(arguments: &Arguments) -> Result<Answer> {
    let subject = &arguments.subject;
    let config = Config::read(&subject.config)?;
    let mut ground = Ground::open(&config, &subject.model())?;
    ground.prompts.wordings.check_requests(Side::Heldout)?;
    let mut table = Table::new(
        format!("Each prompt asked alone ({DISTRACTORS} others, exact); mean over styles with a single label"),
        &[
            "corpus",
            "asked with",
            "prompts",
            "R@1",
            "R@5",
            "mAP",
            "mAP: deviation over prompts",
            "mAP: worst prompt",
            "mAP, averaged prompts",
            "separation",
        ],
    );
    let (mut groups, mut series) = (vec![], WORDINGS.map(|(name, _)| (name.to_string(), vec![])).to_vec());
    for corpus in subject.corpora(&ground)? {
        if !ground.entries(&corpus, subject.split).iter().any(|e| e.styles.len() == 1) {
            continue;
        }
        let pool = ground.pool(&corpus, subject.split, |e| e.styles.len() == 1)?;
        if pool.styles().len() < 2 {
            continue;
        }
        groups.push(corpus.clone());
        for ((name, texts), (_, values)) in WORDINGS.iter().zip(&mut series) {
            let mut random = ChaCha8Rng::seed_from_u64(subject.seed);
            let (mut results, mut asked) = (Results::default(), 0);
            for style in pool.styles().keys() {
                let texts = texts(&ground.prompts, style, &mut random);
                if texts.is_empty() {
                    continue;
                }
                asked += texts.len();
                judge(&pool, style, &ground.texts(&texts)?, &mut results);
            }
            let over = |values: &[f64]| mean(values.iter().copied());
            let of_styles = |value: &dyn Fn(&Vec<f64>) -> f64| mean(results.precision.iter().map(value));
            table.row(vec![
                corpus.clone().into(),
                (*name).into(),
                asked.into(),
                over(&results.recall_1).into(),
                over(&results.recall_5).into(),
                of_styles(&|all| over(all)).into(),
                of_styles(&|all| deviation(all)).into(),
                of_styles(&|all| all.iter().copied().fold(1.0, f64::min)).into(),
                over(&results.together).into(),
                over(&results.separation).into(),
            ]);
            let separation = over(&results.separation);
            values.push([separation, separation, separation]);
        }
    }
    ensure!(!groups.is_empty(), "no corpus has two single styles in this split");
    let shown: Vec<_> = [0, 3, 5, 8, 9, 10].iter().map(|n| series[*n].clone()).collect();
    let words = Words { title: "Separation of the asked style by wording (chance is 0.5)", x: "", y: "separation" };
    let figures = vec![Figure { name: "prompts".into(), svg: bars(words, &groups, &shown)? }];
    let negated = mean(series[10].1.iter().map(|v| v[0]));
    let plain = mean(series[3].1.iter().map(|v| v[0]));
    let remarks = vec![format!(
        "Separation is the chance that a clip of the style ranks above one of another style. Were negation understood, \"not X\" would \
         put it below 0.5: it is {negated:.3} on average, and {plain:.3} without the negation."
    )];
    Ok(Answer { name: "prompts".into(), tables: vec![table], figures, remarks })
}

fn judge(pool: &Pool, style: &str, queries: &Rows, results: &mut Results) {
    let relevant = pool.relevant(style);
    let rankings: Vec<_> = queries.iter().map(|query| rank(&pool.rows.scores(query), &relevant)).collect();
    let chances = Chances::new(relevant.iter().filter(|r| !**r).count(), DISTRACTORS);
    let of = |ranking: &Ranking| Recall::mean(ranking.above.iter().map(|(_, above)| chances.of(*above)));
    let recalls: Vec<Recall> = rankings.iter().map(of).collect();
    results.recall_1.push(mean(recalls.iter().map(|r| r.0[0])));
    results.recall_5.push(mean(recalls.iter().map(|r| r.0[1])));
    results.separation.push(mean(rankings.iter().map(separation)));
    results.precision.push(rankings.iter().map(average_precision).collect());
    results.together.push(average_precision(&rank(&pool.rows.scores(&queries.mean()), &relevant)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wordings_keep_their_sides_apart() {
        let prompts = Prompts::parse(include_str!("../../data/prompts.toml")).unwrap();
        let mut random = ChaCha8Rng::seed_from_u64(1);
        let mut of = |n: usize| WORDINGS[n].1(&prompts, "angry", &mut random);
        let train: std::collections::BTreeSet<String> = of(0).into_iter().collect();
        for n in [1, 2, 3] {
            assert!(of(n).iter().filter(|text| train.contains(*text)).count() == 0, "{}", WORDINGS[n].0);
        }
        assert_eq!(of(7)[0], of(3)[0].to_uppercase());
        assert!(
            of(8).iter().zip(of(3)).all(|(request, text)| request.contains(&text) && request.len() > 2 * text.len())
        );
        assert!(of(9).contains(&"not angry".to_string()) && of(10).contains(&"anything but irate".to_string()));
        assert!(of(10).iter().filter(|text| of(9).contains(text)).count() == 0);
    }

    #[test]
    fn a_prompt_that_ranks_well_is_judged_well() {
        use crate::protocol::pool::Heard;
        let clip = |style: &str| Heard { style: style.into(), ..Heard::default() };
        let pool = Pool {
            name: "p".into(),
            clips: vec![clip("a"), clip("a"), clip("b"), clip("b")],
            rows: Rows::new(1, [vec![0.9], vec![0.8], vec![0.1], vec![0.2]]).unwrap(),
        };
        let mut results = Results::default();
        judge(&pool, "a", &Rows::new(1, [vec![1.0], vec![-0.5]]).unwrap(), &mut results);
        assert_eq!((results.separation[0], results.together[0]), (0.5, 1.0));
        assert_eq!(results.precision[0][0], 1.0);
        assert!(results.precision[0][1] < 0.5);
    }
}

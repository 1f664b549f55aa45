//! How well English descriptions find speech in languages that were never trained on, and what of the loss lies in the
//! sound: the same clips are also asked for with clips instead of words, of English and of their own language.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};

use super::{mean, separation};
use crate::config::Config;
use crate::data::splits::Split;
use crate::figure::{Words, bars};
use crate::prompts::Side;
use crate::protocol::bootstrap::estimate;
use crate::protocol::command::Subject;
use crate::protocol::ground::{Ground, together};
use crate::protocol::pool::{Asked, Pool};
use crate::protocol::ranking::rank;
use crate::report::{Answer, Cell, Figure, Table};

const REPLICATES: usize = 300;

/// Arguments of `esr-trainer question languages`.
#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    /// Model, corpora, output.
    #[command(flatten)]
    pub subject: Subject,
    /// Styles that are compared; a corpus takes part with those of them that it has, if they are two or more.
    #[arg(long, value_delimiter = ',', default_value = "angry,happy,neutral,sad")]
    pub styles: Vec<String>,
    /// Others in a trial: few enough for every corpus.
    #[arg(long, default_value_t = 50)]
    pub drawn: usize,
    /// English corpus whose training clips are asked with instead of words.
    #[arg(long, default_value = "crema_d")]
    pub english: String,
}

/// Asks.
///
/// # Errors
/// If the model or its data are missing.
pub fn run(arguments: &Arguments) -> Result<Answer> {
    let subject = &arguments.subject;
    let config = Config::read(&subject.config)?;
    let mut ground = Ground::open(&config, &subject.model())?;
    let ours = |styles: &[String]| styles.len() == 1 && arguments.styles.contains(&styles[0]);
    let english = ground.pool(&arguments.english, Split::Train, |e| ours(&e.styles))?;
    let mut table = Table::new(
        format!("The styles {} in each language, {} others in a trial", arguments.styles.join(", "), arguments.drawn),
        &[
            "language",
            "corpus",
            "clips, speakers",
            "styles",
            "R@1",
            "R@5",
            "separation: words",
            "English clips",
            "own clips",
        ],
    );
    let mut languages: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    let (mut groups, mut bars_of) = (vec![], vec![vec![], vec![], vec![]]);
    for corpus in ground.corpora(subject.split) {
        if !subject.corpora.is_empty() && !subject.corpora.contains(&corpus) {
            continue;
        }
        let entries = ground.entries(&corpus, subject.split);
        if !entries.iter().any(|e| ours(&e.styles)) {
            continue;
        }
        let pool = ground.pool(&corpus, subject.split, |e| ours(&e.styles))?;
        let styles: Vec<String> = pool.styles().into_keys().map(String::from).collect();
        if styles.len() < 2 {
            continue;
        }
        let language = pool.clips[0].language.clone();
        let asked = together(&ground.asked(&pool, Side::Heldout)?);
        let [first, fifth, ..] = estimate(&pool, &asked, arguments.drawn, REPLICATES, subject.seed).mean;
        let by_words = mean(
            asked.iter().map(|a| separation(&rank(&pool.rows.scores(a.queries.row(0)), &pool.relevant(&a.style)))),
        );
        let by_english = by_clips(&pool, &english);
        let by_own = by_other_speakers(&pool);
        let speakers: std::collections::BTreeSet<&String> = pool.clips.iter().map(|c| &c.speaker).collect();
        let name = if language.is_empty() { "unknown".to_string() } else { language };
        table.row(vec![
            name.clone().into(),
            corpus.clone().into(),
            format!("{}, {}", pool.clips.len(), speakers.len()).into(),
            styles.len().into(),
            Cell::from(first),
            Cell::from(fifth),
            by_words.into(),
            by_english.into(),
            by_own.into(),
        ]);
        groups.push(format!("{name}: {corpus}"));
        for (bar, value) in bars_of.iter_mut().zip([Some(by_words), by_english, by_own]) {
            let value = value.unwrap_or(0.0);
            bar.push([value, value, value]);
        }
        languages.entry(name).or_default().push(by_words);
    }
    ensure!(!groups.is_empty(), "no corpus has two of the styles {}", arguments.styles.join(", "));
    let names = ["English words", "English clips", "clips of the corpus, other speakers"].map(String::from);
    let series: Vec<(String, Vec<[f64; 3]>)> = names.into_iter().zip(bars_of).collect();
    let words = Words { title: "Separation of the asked style by language (chance is 0.5)", x: "", y: "separation" };
    let figures = vec![Figure { name: "languages".into(), svg: bars(words, &groups, &series)? }];
    let by_language: Vec<String> =
        languages.iter().map(|(language, all)| format!("{language} {:.3}", mean(all.iter().copied()))).collect();
    let remarks = vec![
        format!("Mean separation with English words, by language: {}.", by_language.join(", ")),
        "\"English clips\" asks with the mean vector of English training clips instead of words, \"own clips\" with that of the other \
         speakers of the same corpus. Where own clips do better than words, language or recording is what is lost; where they do not, \
         the style itself is hard to hear there."
            .into(),
    ];
    Ok(Answer { name: "languages".into(), tables: vec![table], figures, remarks })
}

/// Separation when a style is asked for with the mean vector of clips of it in another pool; `None` if that has not all
/// styles.
pub fn by_clips(pool: &Pool, examples: &Pool) -> Option<f64> {
    let known = examples.styles();
    let of = |style: &str| -> Option<f64> {
        let query = Asked::together(style, &examples.rows.pick(known.get(style)?));
        Some(separation(&rank(&pool.rows.scores(query.queries.row(0)), &pool.relevant(style))))
    };
    pool.styles().keys().map(|style| of(style)).collect::<Option<Vec<f64>>>().map(mean)
}

/// The same with clips of the pool itself: each speaker's clips are ranked by examples of all other speakers. `None` if there
/// is one speaker.
pub fn by_other_speakers(pool: &Pool) -> Option<f64> {
    let mut speakers: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    pool.clips.iter().enumerate().for_each(|(n, clip)| speakers.entry(&clip.speaker).or_default().push(n));
    let mut all = vec![];
    for own in speakers.values() {
        let others: Vec<usize> = (0..pool.clips.len()).filter(|n| !own.contains(n)).collect();
        let (own, others) = (pool.pick("own", own), pool.pick("others", &others));
        if own.styles().len() > 1 && !others.clips.is_empty() {
            all.extend(by_clips(&own, &others));
        }
    }
    (!all.is_empty()).then(|| mean(all))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::pool::{Heard, Rows};

    /// Style `a` points along the first axis, `b` along the second; `turn` swaps them.
    fn pool(speakers: &[(&str, bool)]) -> Pool {
        let (mut clips, mut rows) = (vec![], vec![]);
        for (speaker, turn) in speakers {
            for (style, first) in [("a", true), ("b", false), ("a", true), ("b", false)] {
                clips.push(Heard { style: style.into(), speaker: (*speaker).into(), ..Heard::default() });
                rows.push(if first != *turn { vec![1.0, 0.1] } else { vec![0.1, 1.0] });
            }
        }
        Pool { name: "p".into(), clips, rows: Rows::new(2, rows).unwrap() }
    }

    #[test]
    fn examples_of_the_style_find_it_and_opposite_ones_do_not() {
        let (same, turned) = (pool(&[("s", false)]), pool(&[("t", true)]));
        assert_eq!(by_clips(&same, &pool(&[("u", false)])), Some(1.0));
        assert_eq!(by_clips(&same, &turned), Some(0.0));
        let lacking = pool(&[("u", false)]).pick("a only", &[0, 2]);
        assert_eq!(by_clips(&same, &lacking), None);
    }

    #[test]
    fn a_speaker_is_never_an_example_for_itself() {
        assert_eq!(by_other_speakers(&pool(&[("s", false), ("t", true)])), Some(0.0));
        assert_eq!(by_other_speakers(&pool(&[("s", false), ("t", false)])), Some(1.0));
        assert_eq!(by_other_speakers(&pool(&[("s", false)])), None);
    }
}

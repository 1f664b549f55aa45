//! `esr-trainer question ...`: one subcommand a question.

use anyhow::Result;

use super::{hubs, languages, negatives, parts, pool_size, prompts, short_speech, transfer, unseen_styles};
use crate::report::Answer;

/// Which question.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum Question {
    /// Styles that no training clip shows: of other corpora, and each left out in turn (trains heads anew).
    UnseenStyles(unseen_styles::Arguments),
    /// R@k in pools of 100 to a million clips: exact as far as there are clips, extrapolated beyond, with a backtest.
    PoolSize(pool_size::Arguments),
    /// Speech in languages that were never trained on.
    Languages(languages::Arguments),
    /// The same recordings cut to half a second up to six seconds, and what helps (runs the speech encoder).
    ShortSpeech(short_speech::Arguments),
    /// Other wordings: new phrases and templates, typing errors, capitals, negation.
    Prompts(prompts::Arguments),
    /// Trained on all corpora but one, tested on that one (trains heads anew).
    Transfer(transfer::Arguments),
    /// Number and kind of the clips of other styles.
    Negatives(negatives::Arguments),
    /// Clips that are near to every description: what taking that back is worth.
    Hubs(hubs::Arguments),
    /// The paper's losses with a part left out or put in, over several seeds (trains heads anew).
    Parts(parts::Arguments),
}

/// Asks, prints the answer and writes its files where a folder is named.
///
/// # Errors
/// If the model or its data are missing, or a file cannot be written.
pub fn run(question: &Question) -> Result<Answer> {
    let (answer, output) = match question {
        Question::UnseenStyles(a) => (unseen_styles::run(a)?, &a.subject.output),
        Question::PoolSize(a) => (pool_size::run(a)?, &a.subject.output),
        Question::Languages(a) => (languages::run(a)?, &a.subject.output),
        Question::ShortSpeech(a) => (short_speech::run(a)?, &a.subject.output),
        Question::Prompts(a) => (prompts::run(a)?, &a.subject.output),
        Question::Transfer(a) => (transfer::run(a)?, &a.output),
        Question::Negatives(a) => (negatives::run(a)?, &a.subject.output),
        Question::Hubs(a) => (hubs::run(a)?, &a.subject.output),
        Question::Parts(a) => (parts::run(a)?, &a.output),
    };
    print!("{}", answer.markdown());
    if let Some(folder) = output {
        answer.write(folder)?;
    }
    Ok(answer)
}

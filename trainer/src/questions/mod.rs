//! The paper's open questions, each a function from a model to tables and figures: styles that were never trained, larger
//! pools, other languages, short speech, other wordings, other corpora, harder negatives, clips that are near to everything, and what each part of the recipe is worth.

pub mod command;
pub mod hubs;
pub mod languages;
pub mod negatives;
pub mod parts;
pub mod pool_size;
pub mod prompts;
pub mod short_speech;
pub mod tail;
pub mod transfer;
pub mod unseen_styles;

use crate::protocol::ranking::Ranking;

/// The chance that a clip of the style ranks above a clip of another style. Unlike R@k and average precision it does not
/// depend on how many there are of each, so that pools of different sizes can be compared; 0.5 is chance.
pub fn separation(ranking: &Ranking) -> f64 {
    let pairs = ranking.above.len() * ranking.others;
    let wrong: usize = ranking.above.iter().map(|(_, above)| above).sum();
    if pairs == 0 { 0.5 } else { 1.0 - wrong as f64 / pairs as f64 }
}

/// Mean of numbers; 0 of none.
pub fn mean(values: impl IntoIterator<Item = f64>) -> f64 {
    let (sum, n) = values.into_iter().fold((0.0, 0usize), |(sum, n), x| (sum + x, n + 1));
    sum / n.max(1) as f64
}

/// Standard deviation of numbers (of the sample); 0 of fewer than two.
pub fn deviation(values: &[f64]) -> f64 {
    let middle = mean(values.iter().copied());
    let square = values.iter().map(|x| (x - middle).powi(2)).sum::<f64>();
    if values.len() < 2 { 0.0 } else { (square / (values.len() - 1) as f64).sqrt() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::ranking::rank;

    #[test]
    fn separation_is_the_share_of_pairs_in_order() {
        let ranking = rank(&[0.9, 0.2, 0.5, 0.1], &[true, true, false, false]);
        assert_eq!(separation(&ranking), 0.75);
        assert_eq!(separation(&Ranking { above: vec![], others: 3 }), 0.5);
        assert_eq!((mean([1.0, 2.0]), deviation(&[1.0, 3.0]), deviation(&[1.0])), (1.5, 2.0f64.sqrt(), 0.0));
    }
}

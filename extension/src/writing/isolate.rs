//! Embeds clips such that one bad clip costs the others nothing.

use esr_wire::{Failure, FailureKind};

use crate::client::error::EmbedError;
use crate::embed;
use crate::error::SqlError;
use crate::vector::OwnedVector;

/// What became of one clip.
#[derive(Debug)]
pub enum Outcome {
    /// Its vector.
    Embedded(OwnedVector),
    /// It is the clip's own fault, or seems to be: the embedder does not survive it.
    Refused(Reason),
}

impl Outcome {
    /// The vector, if there is one.
    pub fn vector(&self) -> Option<&OwnedVector> {
        match self {
            Outcome::Embedded(vector) => Some(vector),
            Outcome::Refused(_) => None,
        }
    }
}

/// Why a clip has no vector. Kept as what the embedder said, because turning it into an error of SQL looks privileges up,
/// which needs a transaction.
#[derive(Debug)]
pub struct Reason(EmbedError);

impl From<&Reason> for SqlError {
    fn from(reason: &Reason) -> Self {
        // An embedder that ends or hangs is told apart from one that answers, but either way it was this clip alone.
        match &reason.0 {
            EmbedError::Refused(failure) => failure.clone().into(),
            EmbedError::TooSlow(patience) => EmbedError::TooSlow(*patience).into(),
            other => EmbedError::Died(std::io::Error::other(other.to_string())).into(),
        }
    }
}

/// One outcome for each clip, or an error that is about none of them: no embedder, no such model, a full queue.
pub fn embed_each(clips: &[&[u8]], model: &str) -> Result<Vec<Outcome>, EmbedError> {
    let mut outcomes: Vec<Option<Outcome>> = clips.iter().map(|_| None).collect();
    let mut left: Vec<usize> = (0..clips.len()).collect();
    while !left.is_empty() {
        let request: Vec<&[u8]> = left.iter().map(|index| clips[*index]).collect();
        match embed::embed_clips(&request, model) {
            Ok(vectors) => {
                for (index, vector) in left.drain(..).zip(vectors) {
                    outcomes[index] = Some(Outcome::Embedded(vector));
                }
            }
            Err((_, error)) if is_general(&error) => return Err(error),
            Err((Some(item), error)) => {
                outcomes[left.remove(item)] = Some(Outcome::Refused(Reason(error)));
            }
            // It does not say which: ask for each by itself.
            Err((None, _)) => {
                for index in left.drain(..) {
                    outcomes[index] = Some(match embed::embed_clips(&[clips[index]], model) {
                        Ok(mut vectors) => Outcome::Embedded(vectors.remove(0)),
                        Err((_, error)) if is_general(&error) => return Err(error),
                        Err((_, error)) => Outcome::Refused(Reason(error)),
                    });
                }
            }
        }
    }
    Ok(outcomes.into_iter().flatten().collect())
}

/// Whether an error would meet any other clip as well.
fn is_general(error: &EmbedError) -> bool {
    use FailureKind as Kind;
    match error {
        EmbedError::Refused(Failure { kind, .. }) => matches!(
            kind,
            Kind::UnknownModel | Kind::BadModel | Kind::MissingRuntime | Kind::Overloaded | Kind::Protocol
        ),
        // These may be the doing of one clip in the request.
        EmbedError::Died(_) | EmbedError::TooSlow(_) | EmbedError::Request(_) => false,
        EmbedError::NotStartable(_)
        | EmbedError::Unavailable { .. }
        | EmbedError::NoWorkerSlot
        | EmbedError::Stranger { .. }
        | EmbedError::Mismatch(_) => true,
    }
}

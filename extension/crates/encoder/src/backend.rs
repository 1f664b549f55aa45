//! The seam between batches and whatever computes them: the batch, its cancellation, the trait. Knows no ONNX; the real
//! backend is in `runtime`.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use crate::device::Device;
use crate::embedding::{Embedding, EmbeddingError};

/// Inputs of one pass through one tower, padded to the longest.
#[derive(Debug, Clone, PartialEq)]
pub enum Batch {
    /// For the speech tower.
    Speech {
        /// `clips * samples` values, row by row, zeros behind each clip's end.
        waveforms: Vec<f32>,
        /// Valid samples of each clip.
        lengths: Vec<i64>,
        /// Samples per row.
        samples: usize,
    },
    /// For the text tower.
    Text {
        /// `texts * tokens` token numbers, row by row, zeros behind each text's end.
        ids: Vec<i64>,
        /// 1 for a token, 0 for padding, in the shape of `ids`.
        mask: Vec<i64>,
        /// Tokens per row.
        tokens: usize,
    },
}

impl Batch {
    /// Pads clips with zeros.
    pub fn speech(clips: &[&[f32]]) -> Self {
        let samples = clips.iter().map(|clip| clip.len()).max().unwrap_or(0);
        let mut waveforms = vec![0.0; clips.len() * samples];
        for (row, clip) in waveforms.chunks_exact_mut(samples.max(1)).zip(clips) {
            row[..clip.len()].copy_from_slice(clip);
        }
        Self::Speech { waveforms, lengths: clips.iter().map(|clip| clip.len() as i64).collect(), samples }
    }

    /// Pads token numbers with zeros and masks the padding.
    pub fn text(texts: &[&[i64]]) -> Self {
        let tokens = texts.iter().map(|text| text.len()).max().unwrap_or(0);
        let mut ids = vec![0; texts.len() * tokens];
        let mut mask = vec![0; texts.len() * tokens];
        let rows = ids.chunks_exact_mut(tokens.max(1)).zip(mask.chunks_exact_mut(tokens.max(1)));
        for ((ids, mask), text) in rows.zip(texts) {
            ids[..text.len()].copy_from_slice(text);
            mask[..text.len()].fill(1);
        }
        Self::Text { ids, mask, tokens }
    }

    /// Clips or texts in it.
    pub fn rows(&self) -> usize {
        match self {
            Self::Speech { lengths, .. } => lengths.len(),
            Self::Text { ids, tokens, .. } => ids.len() / (*tokens).max(1),
        }
    }
}

/// Why a batch has no answer.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum RunError {
    /// [`Cancel::cancel`] was called.
    #[error("the request was cancelled")]
    Cancelled,
    /// The model's answer is not a set of embeddings.
    #[error("the model is wrong: {0}")]
    Answer(#[from] EmbeddingError),
    /// ONNX Runtime failed.
    #[error("ONNX Runtime: {0}")]
    Runtime(String),
}

/// Something that turns a batch into one embedding per row, in order.
pub trait Backend: Send {
    /// Computes the batch, unless `cancel` stops it.
    fn run(&mut self, batch: &Batch, cancel: &Cancel) -> Result<Vec<Embedding>, RunError>;
}

/// Runs a batch, and makes sure that each of its rows has an answer.
pub fn run(backend: &mut dyn Backend, batch: &Batch, cancel: &Cancel) -> Result<Vec<Embedding>, RunError> {
    let embeddings = backend.run(batch, cancel)?;
    if embeddings.len() != batch.rows() {
        return Err(RunError::Runtime(format!("{} answers to {} inputs", embeddings.len(), batch.rows())));
    }
    Ok(embeddings)
}

/// A way to stop a run from another thread. Clones share the state.
#[derive(Clone, Default)]
pub struct Cancel(Arc<CancelState>);

#[derive(Default)]
struct CancelState {
    cancelled: AtomicBool,
    stop: Mutex<Option<Box<dyn Fn() + Send>>>,
}

impl Cancel {
    /// Stops the run in progress at its next node, and every later one with this value at once.
    pub fn cancel(&self) {
        self.0.cancelled.store(true, Ordering::SeqCst);
        if let Some(stop) = self.stop_hook().as_ref() {
            stop();
        }
    }

    /// Whether [`Cancel::cancel`] was called.
    pub fn is_cancelled(&self) -> bool {
        self.0.cancelled.load(Ordering::SeqCst)
    }

    /// Runs `work`, during which `stop` is called when somebody cancels.
    pub fn during<T>(&self, stop: impl Fn() + Send + 'static, work: impl FnOnce() -> T) -> T {
        *self.stop_hook() = Some(Box::new(stop));
        // Whoever cancelled before the hook was there has set the flag, and has not called the hook.
        if self.is_cancelled()
            && let Some(stop) = self.stop_hook().as_ref()
        {
            stop();
        }
        let result = work();
        *self.stop_hook() = None;
        result
    }

    fn stop_hook(&self) -> std::sync::MutexGuard<'_, Option<Box<dyn Fn() + Send>>> {
        self.0.stop.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// The two networks of a model. They share nothing, so both may run at the same time.
pub struct Towers {
    /// Takes [`Batch::Speech`].
    pub speech: Box<dyn Backend>,
    /// Takes [`Batch::Text`].
    pub text: Box<dyn Backend>,
    /// Where they run.
    pub device: Device,
}

/// A backend without a model, for tests of what lies around one.
#[cfg(any(test, feature = "fake"))]
pub mod fake {
    use super::*;

    /// Embeds a row by the sum and the alternating sum of its valid values, so that equal rows are equal whatever
    /// they are batched with, and records how many rows and padded values each run had.
    pub struct Fake {
        /// Elements per embedding, at least 2.
        pub dimension: usize,
        /// Rows and padded row length of each run.
        pub runs: Arc<Mutex<Vec<(usize, usize)>>>,
    }

    impl Backend for Fake {
        fn run(&mut self, batch: &Batch, cancel: &Cancel) -> Result<Vec<Embedding>, RunError> {
            if cancel.is_cancelled() {
                return Err(RunError::Cancelled);
            }
            let (rows, width): (Vec<Vec<f64>>, usize) = match batch {
                Batch::Speech { waveforms, lengths, samples } => {
                    let rows = waveforms.chunks_exact(*samples).zip(lengths);
                    let valid = |(row, length): (&[f32], &i64)| {
                        row[..*length as usize].iter().map(|value| f64::from(*value)).collect()
                    };
                    (rows.map(valid).collect(), *samples)
                }
                Batch::Text { ids, mask, tokens } => {
                    let rows = ids.chunks_exact(*tokens).zip(mask.chunks_exact(*tokens));
                    let valid = |(ids, mask): (&[i64], &[i64])| {
                        ids.iter().zip(mask).filter(|(_, mask)| **mask == 1).map(|(id, _)| *id as f64).collect()
                    };
                    (rows.map(valid).collect(), *tokens)
                }
            };
            self.runs.lock().unwrap().push((rows.len(), width));
            let embed = |row: &Vec<f64>| {
                let angle: f64 = row.iter().enumerate().map(|(at, value)| value * (1.0 + at as f64 * 0.01)).sum();
                let mut values = vec![0.0; self.dimension];
                (values[0], values[1]) = (angle.cos() as f32, angle.sin() as f32);
                Ok(Embedding::from_row(&values, self.dimension)?)
            };
            rows.iter().map(embed).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_are_padded_with_zeros() {
        let batch = Batch::speech(&[&[1.0], &[2.0, 3.0]]);
        assert_eq!(batch, Batch::Speech { waveforms: vec![1.0, 0.0, 2.0, 3.0], lengths: vec![1, 2], samples: 2 });
        let batch = Batch::text(&[&[5, 6], &[7]]);
        assert_eq!(batch, Batch::Text { ids: vec![5, 6, 7, 0], mask: vec![1, 1, 1, 0], tokens: 2 });
        assert_eq!(batch.rows(), 2);
    }

    #[test]
    fn cancelling_reaches_a_run_before_and_during_it() {
        let stopped = Arc::new(AtomicBool::new(false));
        let hook = |stopped: &Arc<AtomicBool>| {
            let stopped = stopped.clone();
            move || stopped.store(true, Ordering::SeqCst)
        };
        let cancel = Cancel::default();
        cancel.clone().during(hook(&stopped), || {
            assert!(!stopped.load(Ordering::SeqCst));
            cancel.cancel();
            assert!(stopped.load(Ordering::SeqCst));
        });
        stopped.store(false, Ordering::SeqCst);
        cancel.during(hook(&stopped), || assert!(stopped.load(Ordering::SeqCst), "cancelled before the run"));
        stopped.store(false, Ordering::SeqCst);
        cancel.cancel();
        assert!(!stopped.load(Ordering::SeqCst), "the run is over");
    }
}

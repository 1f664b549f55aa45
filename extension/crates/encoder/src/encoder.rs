//! One loaded model: texts and clips in, embeddings out. Knows batching; rows are made by [`Preparer`], and the computing is
//! behind [`Backend`]. Knows no sockets and no queue.

use esr_audio::Waveform;

use crate::backend::{self, Backend, Batch, Cancel, RunError, Towers};
use crate::bundle::{Bundle, GOLDEN_FILE, Manifest, TOKENIZER_FILE};
use crate::device::Device;
use crate::embedding::Embedding;
use crate::error::{EmbedError, GoldenError, LoadError, RuntimeError};
use crate::golden::{GENERATOR_RATE, Generator, Golden, GoldenSpeech, GoldenText, waveform};
use crate::prepare::{self, Preparer};
use crate::runtime::Runtime;
use crate::tokenizer::Tokenizer;

/// Padded samples of one pass through the speech tower, in seconds. Measured with `esr-embedder bench models/default --batches` on
/// one core, processor time a clip: of 1 s, 17.9 ms alone, 14.5 ms in fours, 15.8 ms in sixteens; of 3 s, 46.3 ms alone, 45.2 ms
/// in twos, 48.3 ms in eights; of 10 s, 167 ms alone, 177 ms in twos: larger batches no longer fit in the cache. It also bounds a
/// pass's memory, how long a cancelled one goes on, and how long an interactive one waits for one of backfill.
pub const BATCH_SECONDS: f64 = 6.0;
/// Padded tokens of one pass through the text tower. Measured likewise, texts of nine tokens: 3.2 ms alone, 1.4 ms in sixteens,
/// 1.3 ms from 32 to 256.
pub const BATCH_TOKENS: usize = 512;
/// Padded samples of one pass on a GPU, in seconds, and padded tokens: enough to fill one. They bound its memory, too.
const GPU_BATCH_SECONDS: f64 = 96.0;
const GPU_BATCH_TOKENS: usize = 8_192;

/// What one pass may cost on a device: seconds of sound and tokens, padding included.
pub fn budget(device: Device) -> (f64, usize) {
    match device {
        Device::Cpu => (BATCH_SECONDS, BATCH_TOKENS),
        Device::Cuda { .. } => (GPU_BATCH_SECONDS, GPU_BATCH_TOKENS),
    }
}

/// Of a batch's rows, the shortest is at least this part of the longest: the rest would be computed on padding.
pub const SHORTEST_SHARE: f64 = 0.9;

/// One loaded model.
pub struct Encoder {
    manifest: Manifest,
    tag: u64,
    preparer: Preparer,
    towers: Towers,
    passes: u64,
}

/// A loaded model taken apart, for a server that makes its own batches.
pub struct Parts {
    /// What the bundle says about itself.
    pub manifest: Manifest,
    /// The bundle's identity.
    pub tag: u64,
    /// Makes rows of inputs.
    pub preparer: Preparer,
    /// Compute them.
    pub towers: Towers,
}

impl Encoder {
    /// Loads both towers and the tokenizer, and checks the golden vectors. Where a GPU is used if there is a usable one, a GPU
    /// that fails the check is not: that is told on standard error, and the CPU is used. Some of CUDA's libraries are
    /// loaded, and most of its memory is taken, only when something is computed.
    pub fn load(bundle: &Bundle, runtime: &Runtime) -> Result<Self, LoadError> {
        let golden = Golden::parse(bundle.required(GOLDEN_FILE))?;
        let checked = |towers: Towers| -> Result<Self, LoadError> {
            let mut encoder = Self::with_towers(bundle, towers)?;
            encoder.check(&golden)?;
            encoder.passes = 0;
            Ok(encoder)
        };
        let towers = runtime.towers(bundle)?;
        let device = towers.device;
        checked(towers).or_else(|error| match (error, runtime.fallback(bundle, device)) {
            (LoadError::Golden(error), Some(towers)) => {
                eprintln!("esr-embedder: no GPU is used, but the CPU: {error}");
                checked(towers?)
            }
            // The bundle is well; what it runs on is not.
            (LoadError::Golden(error @ GoldenError::Embed { .. }), None) if device != Device::Cpu => {
                Err(RuntimeError::NoCuda { reason: error.to_string() }.into())
            }
            (error, _) => Err(error),
        })
    }

    /// Embeds every golden input and compares.
    pub fn check(&mut self, golden: &Golden) -> Result<(), GoldenError> {
        let cancel = Cancel::default();
        let dimension = self.dimension();
        let compare = |input: String, expected: &[f32], result: Result<Vec<Embedding>, EmbedError>| {
            let embed = |source: EmbedError| GoldenError::Embed { input: input.clone(), source: Box::new(source) };
            let got = result.map_err(embed)?;
            let expected = Embedding::from_row(expected, dimension)
                .map_err(|error| GoldenError::Content(format!("states a wrong embedding for {input}: {error}")))?;
            let distance = got[0].cosine_distance(&expected);
            // Written so that NaN fails too.
            if distance <= golden.tolerance {
                Ok(())
            } else {
                Err(GoldenError::Distance { input, distance, tolerance: golden.tolerance })
            }
        };
        for GoldenText { input, embedding } in &golden.texts {
            compare(format!("{input:?}"), embedding, self.embed_texts(&[input], &cancel))?;
        }
        for GoldenSpeech { generator, embedding } in &golden.speech {
            let Generator::Harmonic { hz, seconds, .. } = generator;
            let input = format!("harmonic {hz} Hz, {seconds} s");
            let clip = Waveform::new(waveform(generator), GENERATOR_RATE)
                .map_err(|error| GoldenError::Content(format!("generates no usable clip: {error}")))?;
            compare(input, embedding, self.embed_speech(&[clip], &cancel))?;
        }
        Ok(())
    }

    /// Joins a bundle's tokenizer and limits with any backends, without golden check.
    pub fn with_towers(bundle: &Bundle, towers: Towers) -> Result<Self, LoadError> {
        let manifest = bundle.manifest().clone();
        let tokenizer = Tokenizer::from_bytes(bundle.required(TOKENIZER_FILE), manifest.text.max_tokens)
            .map_err(LoadError::Tokenizer)?;
        let preparer = Preparer::new(tokenizer, &manifest);
        Ok(Self { tag: bundle.tag(), manifest, preparer, towers, passes: 0 })
    }

    /// Takes the model apart.
    pub fn into_parts(self) -> Parts {
        Parts { manifest: self.manifest, tag: self.tag, preparer: self.preparer, towers: self.towers }
    }

    /// What the bundle says about itself.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The bundle's identity.
    pub fn tag(&self) -> u64 {
        self.tag
    }

    /// Elements per embedding.
    pub fn dimension(&self) -> usize {
        self.manifest.dimension
    }

    /// The rate that clips must have, in samples per second.
    pub fn sample_rate(&self) -> u32 {
        self.manifest.speech.sample_rate
    }

    /// Passes through a tower so far, the golden check left out.
    pub fn passes(&self) -> u64 {
        self.passes
    }

    /// One embedding per text, in order. Texts longer than the model takes are cut at its last token.
    pub fn embed_texts(&mut self, texts: &[&str], cancel: &Cancel) -> Result<Vec<Embedding>, EmbedError> {
        let encode =
            |(item, text): (usize, &&str)| self.preparer.text(text).map_err(|source| EmbedError::Text { item, source });
        let rows = texts.iter().enumerate().map(encode).collect::<Result<Vec<_>, _>>()?;
        let tokens = budget(self.towers.device).1;
        Ok(run_sorted(&mut *self.towers.text, &mut self.passes, &rows, tokens, Batch::text, cancel)?)
    }

    /// One embedding per clip, in order. Clips shorter than the model's minimum are repeated up to it; longer ones than it
    /// takes are cut into equal windows, silent windows are left out, and the embedding is the direction of the mean.
    pub fn embed_speech(&mut self, clips: &[Waveform], cancel: &Cancel) -> Result<Vec<Embedding>, EmbedError> {
        let mut rows = Vec::new();
        let mut rows_of_clip = Vec::with_capacity(clips.len());
        for (item, clip) in clips.iter().enumerate() {
            let windows = self.preparer.speech(clip.clone()).map_err(|source| EmbedError::Rate { item, source })?;
            rows_of_clip.push(windows.len());
            rows.extend(windows);
        }
        let budget = (budget(self.towers.device).0 * f64::from(self.sample_rate())) as usize;
        let speech = &mut *self.towers.speech;
        let mut embedded = run_sorted(speech, &mut self.passes, &rows, budget, Batch::speech, cancel)?.into_iter();
        let mean = |count: usize| -> Result<Embedding, EmbedError> {
            let parts: Vec<Embedding> = embedded.by_ref().take(count).collect();
            Ok(prepare::join(&parts).map_err(RunError::Answer)?)
        };
        rows_of_clip.into_iter().map(mean).collect()
    }
}

/// Runs rows in batches of similar length, longest first, and puts the answers back in order.
fn run_sorted<T>(
    tower: &mut dyn Backend,
    passes: &mut u64,
    rows: &[Vec<T>],
    budget: usize,
    batch: impl Fn(&[&[T]]) -> Batch,
    cancel: &Cancel,
) -> Result<Vec<Embedding>, RunError> {
    let mut order: Vec<usize> = (0..rows.len()).collect();
    order.sort_by_key(|at| std::cmp::Reverse(rows[*at].len()));
    let mut answers: Vec<Option<Embedding>> = vec![None; rows.len()];
    let mut rest = order.as_slice();
    while let Some(first) = rest.first() {
        let longest = rows[*first].len();
        let most = (budget / longest.max(1)).max(1);
        let similar = |at: &&usize| rows[**at].len() as f64 >= SHORTEST_SHARE * longest as f64;
        let count = rest.iter().take(most).take_while(similar).count();
        let (now, later) = rest.split_at(count);
        rest = later;
        let inputs: Vec<&[T]> = now.iter().map(|at| rows[*at].as_slice()).collect();
        let embeddings = backend::run(tower, &batch(&inputs), cancel)?;
        *passes += 1;
        now.iter().zip(embeddings).for_each(|(at, embedding)| answers[*at] = Some(embedding));
    }
    Ok(answers.into_iter().flatten().collect())
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::backend::fake::Fake;
    use crate::prepare::{RateError, repeat, windows};
    use crate::tokenizer::TextError;

    type Runs = Arc<Mutex<Vec<(usize, usize)>>>;

    /// The tiny bundle's limits (0.25 to 2 seconds at 16 kHz, 16 tokens) around the fake.
    fn encoder() -> (Encoder, Runs) {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tiny-bundle");
        let bundle = Bundle::open(&folder).unwrap();
        let runs = Runs::default();
        let fake = || Box::new(Fake { dimension: bundle.manifest().dimension, runs: runs.clone() });
        (Encoder::with_towers(&bundle, Towers { speech: fake(), text: fake(), device: Device::Cpu }).unwrap(), runs)
    }

    fn clip(samples: usize, level: f32) -> Waveform {
        Waveform::new((0..samples).map(|n| level * (1.0 + (n % 7) as f32)).collect(), 16_000).unwrap()
    }

    #[test]
    fn windows_are_equal_and_cover_everything() {
        for (samples, longest, expected) in [(10, 10, vec![10]), (11, 10, vec![5, 6]), (25, 10, vec![8, 8, 9])] {
            let sound = vec![0.5; samples];
            let lengths: Vec<usize> = windows(&sound, longest).map(<[f32]>::len).collect();
            assert_eq!(lengths, expected);
        }
        let half_silent: Vec<f32> = (0..20).map(|n| if n < 10 { 0.0 } else { 0.5 }).collect();
        assert_eq!(windows(&half_silent, 10).count(), 1);
        assert_eq!(repeat(&[1.0, 2.0, 3.0], 7), [1.0, 2.0, 3.0, 1.0, 2.0, 3.0, 1.0]);
    }

    #[test]
    fn answers_come_in_the_order_of_the_clips_and_little_is_padded() {
        let (mut encoder, runs) = encoder();
        let clips: Vec<Waveform> =
            [8_000, 31_000, 8_100, 16_000, 30_500].iter().map(|samples| clip(*samples, 1e-3)).collect();
        let together = encoder.embed_speech(&clips, &Cancel::default()).unwrap();
        assert_eq!(*runs.lock().unwrap(), [(2, 31_000), (1, 16_000), (2, 8_100)]);
        for (clip, together) in clips.iter().zip(&together) {
            let alone = encoder.embed_speech(std::slice::from_ref(clip), &Cancel::default()).unwrap();
            assert_eq!(alone[0], *together);
        }
        assert_eq!(encoder.passes(), 3 + 5);
    }

    #[test]
    fn short_clips_are_repeated_and_long_ones_averaged() {
        let (mut encoder, runs) = encoder();
        let short = clip(1_000, 0.01);
        let repeated = Waveform::new(repeat(short.samples(), 4_000), 16_000).unwrap();
        let both = encoder.embed_speech(&[short, repeated], &Cancel::default()).unwrap();
        assert_eq!(both[0], both[1]);
        runs.lock().unwrap().clear();
        let long = clip(80_001, 1e-5);
        let whole = encoder.embed_speech(std::slice::from_ref(&long), &Cancel::default()).unwrap();
        assert_eq!(*runs.lock().unwrap(), [(3, 26_667)]);
        let parts: Vec<Waveform> =
            windows(long.samples(), 32_000).map(|window| Waveform::new(window.to_vec(), 16_000).unwrap()).collect();
        let parts = encoder.embed_speech(&parts, &Cancel::default()).unwrap();
        assert_eq!(whole[0], Embedding::mean(&parts).unwrap());
    }

    #[test]
    fn wrong_inputs_are_named() {
        let (mut encoder, _) = encoder();
        let wrong = Waveform::new(vec![0.5; 100], 8_000).unwrap();
        let error = encoder.embed_speech(&[clip(100, 0.1), wrong], &Cancel::default()).unwrap_err();
        assert_eq!(error, EmbedError::Rate { item: 1, source: RateError { rate: 8_000, expected: 16_000 } });
        for empty in ["", " \t\n"] {
            let error = encoder.embed_texts(&["calm", empty], &Cancel::default()).unwrap_err();
            assert_eq!(error, EmbedError::Text { item: 1, source: TextError::Empty });
        }
        let cancel = Cancel::default();
        cancel.cancel();
        assert_eq!(encoder.embed_texts(&["calm"], &cancel), Err(EmbedError::Run(RunError::Cancelled)));
        assert_eq!(encoder.embed_texts(&[], &Cancel::default()), Ok(vec![]));
    }

    #[test]
    fn long_texts_are_cut_at_the_last_token() {
        let (mut encoder, runs) = encoder();
        let long = "a very long description of a voice ".repeat(20);
        let two = encoder.embed_texts(&[&long, &format!("{long} and more")], &Cancel::default()).unwrap();
        assert_eq!(two[0], two[1]);
        assert_eq!(*runs.lock().unwrap(), [(2, 16)]);
    }
}

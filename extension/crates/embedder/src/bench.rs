//! `esr-embedder bench`: how fast a bundle is on this machine. Knows no sockets: decoding and the wire are not measured.

use std::time::{Duration, Instant};

use esr_audio::Waveform;
use esr_encoder::golden::{GENERATOR_RATE, Generator, waveform};
use esr_encoder::{Cancel, EmbedError, Encoder};
use serde::Serialize;

use crate::statistics::Memory;

/// Sound that is asked for at once, which the encoder divides as it does for a request.
const SOUND_SECONDS: f64 = 60.0;
/// Texts that are asked for at once.
const TEXTS: usize = 64;

/// What was measured. "Per core" is what the machine gave divided by the threads of a run.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Threads of one run.
    pub threads: usize,
    /// Length of the clips, seconds.
    pub clip_seconds: f64,
    /// Clips embedded per second and core, a minute of sound at once.
    pub clips_per_second: f64,
    /// Seconds of sound embedded per second and core.
    pub times_real_time: f64,
    /// Descriptions embedded per second and core, 64 at once.
    pub texts_per_second: f64,
    /// Processor time of one such clip, milliseconds; what a busy machine does not change.
    pub clip_cpu_ms: f64,
    /// Processor time of one such description, milliseconds.
    pub text_cpu_ms: f64,
    /// Median of one description alone, milliseconds.
    pub text_p50_ms: f64,
    /// Median of one clip alone, milliseconds.
    pub clip_p50_ms: f64,
    /// Resident memory with the model loaded, before anything was embedded, bytes.
    pub memory_idle: u64,
    /// After the measurements, bytes.
    pub memory_after: u64,
    /// The most it was, bytes; loading the model is a part of it.
    pub memory_peak: u64,
}

impl std::fmt::Display for Report {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let seconds = self.clip_seconds;
        writeln!(out, "clips of {seconds} s:    {:8.1} clips/s per core", self.clips_per_second)?;
        writeln!(out, "                 {:8.1} x real time per core", self.times_real_time)?;
        writeln!(out, "descriptions:    {:8.1} texts/s per core", self.texts_per_second)?;
        writeln!(out, "processor time:  {:8.2} ms a clip, {:.2} ms a description", self.clip_cpu_ms, self.text_cpu_ms)?;
        writeln!(out, "one description: {:8.2} ms (p50)", self.text_p50_ms)?;
        writeln!(out, "one {seconds} s clip:    {:8.2} ms (p50)", self.clip_p50_ms)?;
        let [idle, after, peak] =
            [self.memory_idle, self.memory_after, self.memory_peak].map(|bytes| bytes as f64 / 1e6);
        writeln!(out, "memory:          {idle:8.0} MB loaded, {after:.0} MB afterwards, {peak:.0} MB at most")?;
        write!(out, "threads:         {:8}", self.threads)
    }
}

/// Measures clips of `clip_seconds` and descriptions for about `seconds` in all.
pub fn run(encoder: &mut Encoder, threads: usize, clip_seconds: f64, seconds: f64) -> Result<Report, EmbedError> {
    let cancel = Cancel::default();
    let memory_idle = Memory::now().resident;
    let count = (SOUND_SECONDS / clip_seconds).ceil() as usize;
    let clips: Vec<Waveform> = (0..count).map(|at| clip(at, encoder.sample_rate(), clip_seconds)).collect();
    let texts: Vec<String> = (0..TEXTS).map(text).collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let each = Duration::from_secs_f64(seconds / 4.0);
    let batch_of_clips = repeat(each, |_| encoder.embed_speech(&clips, &cancel).map(drop))?;
    let batch_of_texts = repeat(each, |_| encoder.embed_texts(&texts, &cancel).map(drop))?;
    let one_text = repeat(each, |round| encoder.embed_texts(&texts[round % TEXTS..][..1], &cancel).map(drop))?;
    let one_clip = repeat(each, |round| encoder.embed_speech(&clips[round % count..][..1], &cancel).map(drop))?;
    let per_core = |count: usize, median: &Median| count as f64 / median.wall / threads as f64;
    let clips_per_second = per_core(count, &batch_of_clips);
    let memory = Memory::now();
    Ok(Report {
        threads,
        clip_seconds,
        memory_idle,
        memory_after: memory.resident,
        memory_peak: memory.peak,
        clips_per_second,
        times_real_time: clips_per_second * clip_seconds,
        texts_per_second: per_core(TEXTS, &batch_of_texts),
        clip_cpu_ms: batch_of_clips.processor * 1e3 / count as f64,
        text_cpu_ms: batch_of_texts.processor * 1e3 / TEXTS as f64,
        text_p50_ms: one_text.wall * 1e3,
        clip_p50_ms: one_clip.wall * 1e3,
    })
}

/// Seconds of the middle round.
pub(crate) struct Median {
    /// Of the clock.
    pub wall: f64,
    /// Of all threads.
    pub processor: f64,
}

/// Runs `work` until the time is up, three times at least and once more to warm up.
pub(crate) fn repeat(
    total: Duration,
    mut work: impl FnMut(usize) -> Result<(), EmbedError>,
) -> Result<Median, EmbedError> {
    work(0)?;
    let begin = Instant::now();
    let (mut wall, mut processor) = (Vec::new(), Vec::new());
    while wall.len() < 3 || begin.elapsed() < total {
        let (start, spent) = (Instant::now(), processor_time());
        work(wall.len())?;
        wall.push(start.elapsed());
        processor.push(processor_time() - spent);
    }
    let middle = |mut times: Vec<Duration>| {
        times.sort_unstable();
        times[times.len() / 2].as_secs_f64()
    };
    Ok(Median { wall: middle(wall), processor: middle(processor) })
}

/// Of all threads of this process.
fn processor_time() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

/// The same voices that `benches/python_onnxruntime.py` makes.
pub(crate) fn clip(at: usize, rate: u32, seconds: f64) -> Waveform {
    let generator = Generator::Harmonic { hz: 90.0 + 10.0 * at as f64, seconds, seed: at as u64 };
    let mut samples = waveform(&generator);
    samples.resize((seconds * f64::from(rate)) as usize, 0.0);
    debug_assert!(rate <= GENERATOR_RATE || samples.len() > GENERATOR_RATE as usize);
    Waveform::new(samples, rate).expect("the generator makes sound")
}

/// The same texts that `benches/python_onnxruntime.py` makes.
pub(crate) fn text(at: usize) -> String {
    const STYLES: [&str; 8] = ["whispering", "angry", "bored", "cheerful", "sad", "calm", "sarcastic", "projected"];
    const FORMS: [&str; 4] =
        ["", "someone who sounds ", "a voice that is clearly ", "a recording of a person speaking "];
    let (style, form) = (STYLES[at % STYLES.len()], FORMS[at / STYLES.len() % FORMS.len()]);
    format!("{form}{style}")
}

//! The embedding requests: from texts and audio files to rows, from the rows' embeddings to the answer. A long request goes
//! through in parts, two at a time, so that the next one is decoded while the last one is computed.

use std::sync::Arc;

use esr_audio::{Limits, Waveform};
use esr_encoder::{EmbedError, Embedding, RunError, prepare};
use esr_wire::{AudioLimits, ByteBuf, Failure, FailureKind, Request, RequestBody, ResponseBody};

use crate::batcher::Origin;
use crate::caller::{Caller, Stop};
use crate::failure::{self, failure, of_item};
use crate::gate::Gate;
use crate::inference::{Input, Job, Lane};
use crate::models::{Model, Tower};
use crate::segments;
use crate::shared::Shared;
use crate::ticket::RowError;

/// Clips of a request that are decoded and queued at a time: bounds memory, and lets other sessions' requests in between.
const CLIPS_AT_ONCE: usize = 256;
/// Sound of the same, in batches of the device.
const BATCHES_AT_ONCE: f64 = 2.0;
/// Texts of a request that are queued at a time.
const TEXTS_AT_ONCE: usize = 256;

/// Answers a request that names a model.
pub fn embed(request: Request, caller: &Caller, shared: &Shared) -> Result<ResponseBody, Stop> {
    let origin = Origin { job: 0, class: request.class, role: request.role, deadline: caller.deadline, goes_on: false };
    match request.body {
        RequestBody::EmbedText { model, texts } => {
            let model = shared.models.get(&model)?;
            let mut pipeline = Pipeline::new(&model, &shared.text, origin, caller, texts.len());
            for (part, first) in texts.chunks(TEXTS_AT_ONCE).zip((0..).step_by(TEXTS_AT_ONCE)) {
                pipeline.push(text_part(part, first, &model)?)?;
            }
            let values = pipeline.finish()?;
            shared.statistics.texts.add(texts.len() as u64);
            Ok(ResponseBody::Embeddings { tag: model.tag, dimension: model.dimension, values })
        }
        RequestBody::EmbedSpeech { model, clips, limits } => {
            let model = shared.models.get(&model)?;
            let count = clips.len();
            let mut pipeline = Pipeline::new(&model, &shared.speech, origin, caller, count);
            let mut clips = clips.into_iter().enumerate().peekable();
            while clips.peek().is_some() {
                pipeline.push(speech_part(&mut clips, &limits, &model, caller, &shared.decoders)?)?;
            }
            let values = pipeline.finish()?;
            shared.statistics.clips.add(count as u64);
            Ok(ResponseBody::Embeddings { tag: model.tag, dimension: model.dimension, values })
        }
        RequestBody::DescribeModel { model } => {
            let model = shared.models.get(&model)?;
            let (name, version) = (model.name.clone(), model.version.clone());
            Ok(ResponseBody::Model { name, version, tag: model.tag, dimension: model.dimension })
        }
        RequestBody::AudioInfo { clip, limits } => {
            let _place = shared.decoders.enter(|| caller.check_wanted())?;
            let info = esr_audio::info(&clip, &bounds(&limits)).map_err(|error| failure::decoding(&error))?;
            let (container, codec) = (info.container.name().to_owned(), info.codec.clone());
            let (rate, channels, frames) = (info.rate, info.channels, info.frames);
            Ok(ResponseBody::AudioInfo { container, codec, rate, channels, frames })
        }
        RequestBody::EmbedSegments { model, clip, window, hop, limits } => {
            let model = shared.models.get(&model)?;
            let clip = {
                let _place = shared.decoders.enter(|| caller.check_wanted())?;
                decode(&clip, &limits, &model)?
            };
            embed_segments(&model, &clip, (window, hop), Pipeline::new(&model, &shared.speech, origin, caller, 1))
        }
        RequestBody::Hello { .. } | RequestBody::Status => {
            Err(failure(FailureKind::Internal, "a request without a model reached the models").into())
        }
    }
}

/// Embeds the windows of a recording; silent ones are named and have no embedding.
fn embed_segments(
    model: &Model,
    clip: &Waveform,
    (window, hop): (f64, f64),
    mut pipeline: Pipeline<'_>,
) -> Result<ResponseBody, Stop> {
    let spans = segments::windows(clip, window, hop)?;
    let mut windows = Vec::with_capacity(spans.len());
    let most = ((seconds_at_once(model) / window) as usize).clamp(1, CLIPS_AT_ONCE);
    let seconds = |samples: usize| samples as f64 / f64::from(clip.rate());
    let mut first = 0;
    for spans in spans.chunks(most) {
        pipeline.caller.check_wanted()?;
        let mut part = Part { first, ..Part::default() };
        for span in spans {
            let sound = segments::cut(clip, *span);
            windows.push((seconds(span.0), seconds(span.1), sound.is_some()));
            if let Some(sound) = sound {
                part.add(sound, model)?;
            }
        }
        first += part.rows.len();
        if !part.rows.is_empty() {
            pipeline.push(part)?;
        }
    }
    Ok(ResponseBody::Segments { tag: model.tag, dimension: model.dimension, windows, values: pipeline.finish()? })
}

/// Rows of some items of a request.
#[derive(Default)]
struct Part {
    inputs: Vec<Input>,
    /// Rows of each item.
    rows: Vec<usize>,
    /// Position of the first item in the request.
    first: usize,
}

impl Part {
    /// Adds a clip's windows.
    fn add(&mut self, clip: Waveform, model: &Model) -> Result<(), Failure> {
        let windows = model.preparer.speech(clip);
        let windows = windows.map_err(|error| failure(FailureKind::Internal, error.to_string()))?;
        self.rows.push(windows.len());
        self.inputs.extend(windows.into_iter().map(Input::Speech));
        Ok(())
    }
}

fn text_part(texts: &[String], first: usize, model: &Model) -> Result<Part, Failure> {
    let row = |(at, text): (usize, &String)| {
        let tokens = model.preparer.text(text);
        let wrong = |source| failure::embedding(&EmbedError::Text { item: first + at, source });
        Ok(Input::Text(tokens.map_err(wrong)?))
    };
    let inputs = texts.iter().enumerate().map(row).collect::<Result<Vec<_>, Failure>>()?;
    Ok(Part { rows: vec![1; inputs.len()], inputs, first })
}

/// Sound that is decoded and queued at a time, in seconds.
fn seconds_at_once(model: &Model) -> f64 {
    BATCHES_AT_ONCE * model.budget(Tower::Speech) as f64 / 1e6
}

/// Decodes the next clips, up to [`CLIPS_AT_ONCE`] and [`seconds_at_once`]; at least one.
fn speech_part(
    clips: &mut impl Iterator<Item = (usize, ByteBuf)>,
    limits: &AudioLimits,
    model: &Model,
    caller: &Caller,
    decoders: &Gate,
) -> Result<Part, Stop> {
    let mut part = Part::default();
    let (mut seconds, most_seconds) = (0.0, seconds_at_once(model));
    for (item, bytes) in clips {
        caller.check_wanted()?;
        if part.rows.is_empty() {
            part.first = item;
        }
        let _place = decoders.enter(|| caller.check_wanted())?;
        let clip = decode(&bytes, limits, model).map_err(|failure| of_item(failure, item))?;
        seconds += clip.seconds();
        part.add(clip, model)?;
        if part.rows.len() == CLIPS_AT_ONCE || seconds >= most_seconds {
            break;
        }
    }
    Ok(part)
}

fn bounds(limits: &AudioLimits) -> Limits {
    let AudioLimits { max_bytes, max_seconds, max_channels, max_rate } = *limits;
    Limits { max_bytes, max_seconds, max_channels, max_rate }
}

fn decode(bytes: &[u8], limits: &AudioLimits, model: &Model) -> Result<Waveform, Failure> {
    let pcm = esr_audio::decode(bytes, &bounds(limits)).map_err(|error| failure::decoding(&error))?;
    pcm.to_model_rate(model.preparer.sample_rate()).map_err(|error| failure::waveform(&error))
}

/// Parts of one request on their way through a lane: one is computed while the next is prepared.
struct Pipeline<'a> {
    model: &'a Arc<Model>,
    lane: &'a Lane,
    origin: Origin,
    caller: &'a Caller,
    running: Option<Running>,
    values: Vec<f32>,
}

struct Running {
    job: Job,
    rows: Vec<usize>,
    first: usize,
}

impl<'a> Pipeline<'a> {
    fn new(model: &'a Arc<Model>, lane: &'a Lane, origin: Origin, caller: &'a Caller, items: usize) -> Self {
        let values = Vec::with_capacity(items * model.dimension as usize);
        Self { model, lane, origin, caller, running: None, values }
    }

    /// Queues a part, if there is something in it, then waits for the one before it.
    fn push(&mut self, part: Part) -> Result<(), Stop> {
        let Part { inputs, rows, first } = part;
        if inputs.is_empty() {
            return Ok(());
        }
        let ticket = self.caller.ticket(inputs.len());
        let job = self.lane.submit(self.model, self.origin, inputs, ticket)?;
        self.origin.goes_on = true;
        match self.running.replace(Running { job, rows, first }) {
            Some(before) => self.collect(before),
            None => Ok(()),
        }
    }

    /// The embeddings of all items, one after the other.
    fn finish(mut self) -> Result<Vec<f32>, Stop> {
        if let Some(last) = self.running.take() {
            self.collect(last)?;
        }
        Ok(self.values)
    }

    fn collect(&mut self, part: Running) -> Result<(), Stop> {
        let Running { job, rows, first } = part;
        let answer = self.caller.wait(&job.ticket)?;
        let mut embeddings =
            answer.map_err(|(row, error)| of_item(row_failure(error), first + item_of(row, &rows)))?.into_iter();
        for (at, count) in rows.iter().enumerate() {
            let windows: Vec<Embedding> = embeddings.by_ref().take(*count).collect();
            let joined = prepare::join(&windows)
                .map_err(|error| of_item(failure::embedding(&EmbedError::Run(RunError::Answer(error))), first + at))?;
            self.values.extend_from_slice(joined.as_slice());
        }
        Ok(())
    }
}

fn row_failure(error: RowError) -> Failure {
    match error {
        RowError::Run(error) => failure::embedding(&EmbedError::Run(error)),
        RowError::Dropped(failure) => failure,
    }
}

/// To which item a row belongs.
fn item_of(row: usize, rows: &[usize]) -> usize {
    let mut end = 0;
    rows.iter()
        .position(|count| {
            end += count;
            row < end
        })
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_traced_to_its_item() {
        let items: Vec<usize> = (0..6).map(|row| item_of(row, &[1, 3, 2])).collect();
        assert_eq!(items, [0, 1, 1, 1, 2, 2]);
    }
}

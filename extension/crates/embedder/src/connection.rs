//! One caller: reads its requests, decodes its clips, waits for its answers, and notices when it leaves. Knows the wire
//! and the queue, no ONNX.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use esr_audio::{Limits, Waveform};
use esr_wire::{
    AudioLimits, ByteBuf, Failure, FailureKind, FrameError, PROTOCOL_VERSION, Request, RequestBody, Response,
    ResponseBody,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::OwnedFd;

use crate::failure::{self, failure, of_item, with_hint};
use crate::inference::{Answer, Job, Payload, Queue, Ticket, bell};
use crate::models::{Model, Models};
use crate::segments;
use crate::statistics::Statistics;

/// Clips of a request that are decoded and queued at a time: bounds memory, and lets other sessions' requests in between.
const CLIPS_AT_ONCE: usize = 32;
/// Sound of the same, in seconds.
const SECONDS_AT_ONCE: f64 = 60.0;
/// Texts of a request that are queued at a time.
const TEXTS_AT_ONCE: usize = 256;
/// How long a caller may leave its answer unread.
const WRITE_TIMEOUT: Duration = Duration::from_secs(60);

/// What all connections share.
pub struct Shared {
    /// The bundles.
    pub models: Models,
    /// The way to the inference thread.
    pub queue: Queue,
    /// The counters.
    pub statistics: Arc<Statistics>,
}

/// Why a request gets no response.
enum Stop {
    /// Nobody is there to read one.
    CallerLeft,
    /// This one.
    Failed(Failure),
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// Serves one connection until its caller closes it or breaks the protocol.
pub fn serve(stream: UnixStream, shared: &Shared) {
    let Ok(bell) = bell() else {
        eprintln!("esr-embedder: cannot serve a connection: no file descriptor left");
        return;
    };
    let _ = stream.set_write_timeout(Some(WRITE_TIMEOUT));
    let mut caller = Caller { stream, bell, deadline: None };
    let mut greeted = false;
    loop {
        let request: Request = match esr_wire::read(&mut caller.stream) {
            Ok(request) => request,
            Err(FrameError::Io(_)) => return,
            // After a broken frame nothing that follows can be trusted to be one.
            Err(error) => {
                let _ = caller.respond(0, Err(failure(FailureKind::Protocol, error.to_string())));
                return;
            }
        };
        let id = request.id;
        let (body, leave) = match answer(request, &mut caller, shared, &mut greeted) {
            Ok(body) => (Ok(body), false),
            Err(Stop::CallerLeft) => {
                shared.statistics.cancelled.add(1);
                return;
            }
            Err(Stop::Failed(failure)) => {
                let leave = failure.kind == FailureKind::Protocol;
                (Err(failure), leave)
            }
        };
        if caller.respond(id, body).is_err() || leave {
            return;
        }
    }
}

fn answer(request: Request, caller: &mut Caller, shared: &Shared, greeted: &mut bool) -> Result<ResponseBody, Stop> {
    if let RequestBody::Hello { protocol } = request.body {
        if protocol != PROTOCOL_VERSION {
            let message = format!("the caller speaks protocol {protocol}, this embedder speaks {PROTOCOL_VERSION}");
            let hint = "Install the extension and the embedder of one version, and restart the embedder.";
            return Err(with_hint(failure(FailureKind::Protocol, message), hint).into());
        }
        *greeted = true;
        return Ok(ResponseBody::Hello { protocol: PROTOCOL_VERSION, version: env!("CARGO_PKG_VERSION").into() });
    }
    if !*greeted {
        return Err(failure(FailureKind::Protocol, "the first message of a connection must be a greeting").into());
    }
    if let RequestBody::Status = request.body {
        return Ok(ResponseBody::Status(shared.statistics.snapshot(shared.models.names())));
    }
    let start = Instant::now();
    caller.deadline = request.timeout_ms.map(|timeout| start + Duration::from_millis(timeout.into()));
    let result = embed(request.body, caller, shared);
    if !matches!(result, Err(Stop::CallerLeft)) {
        shared.statistics.requests.add(1);
        shared.statistics.failures.add(result.is_err().into());
        shared.statistics.latency(start.elapsed());
    }
    result
}

fn embed(body: RequestBody, caller: &mut Caller, shared: &Shared) -> Result<ResponseBody, Stop> {
    match body {
        RequestBody::EmbedText { model, texts } => {
            let model = shared.models.get(&model)?;
            let mut values = Vec::with_capacity(texts.len() * model.dimension as usize);
            let mut done = 0;
            let mut texts = texts.into_iter().peekable();
            while texts.peek().is_some() {
                let part: Vec<String> = texts.by_ref().take(TEXTS_AT_ONCE).collect();
                let count = part.len();
                caller.compute(&model, Payload::Texts(part), shared, done, &mut values)?;
                done += count;
            }
            Ok(ResponseBody::Embeddings { tag: model.tag, dimension: model.dimension, values })
        }
        RequestBody::EmbedSpeech { model, clips, limits } => {
            let model = shared.models.get(&model)?;
            let mut values = Vec::with_capacity(clips.len() * model.dimension as usize);
            let mut clips = clips.into_iter().enumerate().peekable();
            while let Some((first, _)) = clips.peek() {
                let first = *first;
                let part = caller.decode_some(&mut clips, &limits, model.sample_rate)?;
                caller.compute(&model, Payload::Clips(part), shared, first, &mut values)?;
            }
            Ok(ResponseBody::Embeddings { tag: model.tag, dimension: model.dimension, values })
        }
        RequestBody::DescribeModel { model } => {
            let model = shared.models.get(&model)?;
            let (name, version) = (model.name.clone(), model.version.clone());
            Ok(ResponseBody::Model { name, version, tag: model.tag, dimension: model.dimension })
        }
        RequestBody::AudioInfo { clip, limits } => {
            let info = esr_audio::info(&clip, &bounds(&limits)).map_err(|error| failure::decoding(&error))?;
            let (container, codec) = (info.container.name().to_owned(), info.codec.clone());
            Ok(ResponseBody::AudioInfo {
                container,
                codec,
                rate: info.rate,
                channels: info.channels,
                frames: info.frames,
            })
        }
        RequestBody::EmbedSegments { model, clip, window, hop, limits } => {
            let model = shared.models.get(&model)?;
            let clip = decode(&clip, &limits, model.sample_rate)?;
            embed_segments(&model, &clip, (window, hop), caller, shared)
        }
        RequestBody::Hello { .. } | RequestBody::Status => {
            Err(failure(FailureKind::Internal, "a request without a model reached the models").into())
        }
    }
}

fn embed_segments(
    model: &Arc<Model>,
    clip: &Waveform,
    (window, hop): (f64, f64),
    caller: &Caller,
    shared: &Shared,
) -> Result<ResponseBody, Stop> {
    let spans = segments::windows(clip, window, hop)?;
    let (mut windows, mut values) = (Vec::with_capacity(spans.len()), Vec::new());
    let most = ((SECONDS_AT_ONCE / window) as usize).clamp(1, CLIPS_AT_ONCE);
    for part in spans.chunks(most) {
        caller.check_wanted()?;
        let sounds: Vec<Option<Waveform>> = part.iter().map(|span| segments::cut(clip, *span)).collect();
        let seconds = |samples: usize| samples as f64 / f64::from(clip.rate());
        let described =
            part.iter().zip(&sounds).map(|((from, to), sound)| (seconds(*from), seconds(*to), sound.is_some()));
        windows.extend(described);
        let sounds: Vec<Waveform> = sounds.into_iter().flatten().collect();
        if !sounds.is_empty() {
            caller.compute(model, Payload::Clips(sounds), shared, 0, &mut values)?;
        }
    }
    Ok(ResponseBody::Segments { tag: model.tag, dimension: model.dimension, windows, values })
}

/// The other end of the socket.
struct Caller {
    stream: UnixStream,
    bell: Arc<OwnedFd>,
    deadline: Option<Instant>,
}

impl Caller {
    fn respond(&mut self, id: u64, body: Result<ResponseBody, Failure>) -> Result<(), FrameError> {
        let frame = match esr_wire::encode(&Response { id, body }) {
            Ok(frame) => frame,
            Err(error) => {
                let hint = "Embed fewer rows in one statement.";
                let body = Err(with_hint(failure(FailureKind::Internal, error.to_string()), hint));
                esr_wire::encode(&Response { id, body })?
            }
        };
        Ok(self.stream.write_all(&frame)?)
    }

    /// Decodes the next clips, up to [`CLIPS_AT_ONCE`] and [`SECONDS_AT_ONCE`]; at least one.
    fn decode_some(
        &self,
        clips: &mut impl Iterator<Item = (usize, ByteBuf)>,
        limits: &AudioLimits,
        rate: u32,
    ) -> Result<Vec<Waveform>, Stop> {
        let mut decoded: Vec<Waveform> = Vec::new();
        let mut seconds = 0.0;
        for (item, bytes) in clips {
            self.check_wanted()?;
            let clip = decode(&bytes, limits, rate).map_err(|failure| of_item(failure, item))?;
            seconds += clip.seconds();
            decoded.push(clip);
            if decoded.len() == CLIPS_AT_ONCE || seconds >= SECONDS_AT_ONCE {
                break;
            }
        }
        Ok(decoded)
    }

    /// Queues one part of a request and waits for it, for the deadline or for the caller to leave. `first` is the
    /// position of the part's first item in the request.
    fn compute(
        &self,
        model: &Arc<Model>,
        payload: Payload,
        shared: &Shared,
        first: usize,
        values: &mut Vec<f32>,
    ) -> Result<(), Stop> {
        let ticket = Ticket::new(self.bell.clone());
        shared.queue.submit(Job { model: model.clone(), payload, ticket: ticket.clone() })?;
        let answer = self.wait(&ticket).inspect_err(|_| ticket.cancel.cancel())?;
        let embeddings = answer.map_err(|mut failure| {
            failure.item = failure.item.map(|item| item + first as u32);
            failure
        })?;
        embeddings.iter().for_each(|embedding| values.extend_from_slice(embedding.as_slice()));
        Ok(())
    }

    fn wait(&self, ticket: &Ticket) -> Result<Answer, Stop> {
        loop {
            if let Some(answer) = ticket.take() {
                return Ok(answer);
            }
            self.check_deadline()?;
            self.poll(self.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now())))?;
            // Empties the bell; an earlier request that was given up may have rung it, hence the loop.
            let _ = rustix::io::read(&*self.bell, &mut [0u8; 8]);
        }
    }

    fn check_wanted(&self) -> Result<(), Stop> {
        self.check_deadline()?;
        self.poll(Some(Duration::ZERO))
    }

    fn check_deadline(&self) -> Result<(), Stop> {
        match self.deadline {
            Some(deadline) if Instant::now() >= deadline => Err(with_hint(
                failure(FailureKind::Timeout, "the embedder did not answer in time"),
                "Raise the timeout, or send fewer clips at once.",
            )
            .into()),
            _ => Ok(()),
        }
    }

    /// Waits until the bell rings, the caller closes its end (which is how a request is cancelled), or the time is up.
    fn poll(&self, timeout: Option<Duration>) -> Result<(), Stop> {
        let gone = PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR;
        let mut ends = [PollFd::new(&self.stream, PollFlags::RDHUP), PollFd::new(&*self.bell, PollFlags::IN)];
        let timeout = timeout
            .map(|timeout| Timespec { tv_sec: timeout.as_secs() as i64, tv_nsec: i64::from(timeout.subsec_nanos()) });
        match poll(&mut ends, timeout.as_ref()) {
            // A signal's handler has run; whoever called looks again.
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(failure(FailureKind::Internal, format!("poll: {error}")).into()),
        }
        if ends[0].revents().intersects(gone) { Err(Stop::CallerLeft) } else { Ok(()) }
    }
}

fn bounds(limits: &AudioLimits) -> Limits {
    let AudioLimits { max_bytes, max_seconds, max_channels, max_rate } = *limits;
    Limits { max_bytes, max_seconds, max_channels, max_rate }
}

fn decode(bytes: &[u8], limits: &AudioLimits, rate: u32) -> Result<Waveform, Failure> {
    let pcm = esr_audio::decode(bytes, &bounds(limits)).map_err(|error| failure::decoding(&error))?;
    pcm.to_model_rate(rate).map_err(|error| failure::waveform(&error))
}

//! `esr_embed_text` and `esr_embed_speech`: from SQL values to requests, from answers to vectors.

use std::borrow::Cow;
use std::cell::{Cell, RefCell};

use esr_wire::{ByteBuf, Class, Failure, FailureKind, RequestBody, ResponseBody};
use pgrx::pg_sys::{Datum, Oid};
use sha2::{Digest, Sha256};

use crate::cache::TextCache;
use crate::client::error::EmbedError;
use crate::client::{self, Asked};
use crate::datum::{self, Bytes, ServerText};
use crate::error::SqlError;
use crate::fmgr::Call;
use crate::vector::{OwnedVector, VectorError, tag::Tag};
use crate::writing::role;
use crate::{model_usage, server, settings, sql_function};

sql_function!(esr_embed_text, text);
sql_function!(esr_embed_text_array, text_array);
sql_function!(esr_embed_speech, speech);
sql_function!(esr_embed_speech_array, speech_array);

/// Texts in one request.
const TEXTS_PER_REQUEST: usize = 256;

/// Clips in one request.
pub const CLIPS_PER_REQUEST: usize = 32;
/// Bytes of clips after which a request gets no further one.
pub const BYTES_PER_REQUEST: usize = 16 << 20;

fn text(call: &Call) -> Result<Datum, SqlError> {
    if let Some(again) = Latest::answer(call) {
        return Ok(again);
    }
    let (text, model) = (call.text(0)?, model(call)?);
    with_cache(|cache| {
        if let Some(known) = cache.get(&model, &text) {
            Latest::remember(call, &model, known);
            return Ok(datum::new_vector(known.as_vector()));
        }
        let body = RequestBody::EmbedText { model: model.to_string(), texts: vec![text.to_string()] };
        let [embedding] = one(embed(body, 1)?);
        cache.put(&model, &text, &embedding, settings::text_cache_entries());
        Latest::remember(call, &model, &embedding);
        Ok(datum::new_vector(embedding.as_vector()))
    })
}

/// The last answer of the running statement. A plain scan asks the same question for every row; comparing it with the
/// last one allocates nothing, which looking it up in the cache does (measured: 0.14 microseconds a row in all).
struct Latest {
    statement: i64,
    /// Whose right to the model was looked at.
    user: Oid,
    /// As the call passed it, in the database's encoding.
    text: Vec<u8>,
    model: String,
    embedding: OwnedVector,
}

thread_local! {
    static LATEST: RefCell<Option<Latest>> = const { RefCell::new(None) };
}

impl Latest {
    fn answer(call: &Call) -> Option<Datum> {
        LATEST.with_borrow(|latest| {
            let latest = latest
                .as_ref()
                .filter(|latest| latest.statement == server::statement_number() && latest.user == role::current())?;
            let same_model = match call.count() {
                1 => settings::is_default_model(&latest.model),
                _ => call.bytes(1) == latest.model.as_bytes(),
            };
            (same_model && call.bytes(0) == latest.text).then(|| datum::new_vector(latest.embedding.as_vector()))
        })
    }

    fn remember(call: &Call, model: &str, embedding: &OwnedVector) {
        let is_wanted = settings::text_cache_entries() > 0;
        LATEST.set(is_wanted.then(|| Latest {
            statement: server::statement_number(),
            user: role::current(),
            text: call.bytes(0).to_vec(),
            model: model.to_owned(),
            embedding: embedding.clone(),
        }));
    }
}

fn text_array(call: &Call) -> Result<Datum, SqlError> {
    let parts = call.array::<ServerText>(0);
    let model = model(call)?;
    let mut texts = Vec::with_capacity(parts.elements.len());
    for element in &parts.elements {
        texts.push(element.as_ref().map(|text| datum::to_utf8(text.bytes())).transpose()?);
    }
    let results = with_cache(|cache| {
        let mut results: Vec<Option<OwnedVector>> =
            texts.iter().map(|text| text.as_ref().and_then(|text| cache.get(&model, text).cloned())).collect();
        let wanted: Vec<usize> =
            (0..texts.len()).filter(|index| texts[*index].is_some() && results[*index].is_none()).collect();
        for chunk in wanted.chunks(TEXTS_PER_REQUEST) {
            let request = chunk.iter().filter_map(|index| texts[*index].as_deref().map(str::to_owned)).collect();
            let body = RequestBody::EmbedText { model: model.to_string(), texts: request };
            let embeddings = embed(body, chunk.len()).map_err(|error| name_element(error, chunk))?;
            for (index, embedding) in chunk.iter().zip(embeddings) {
                if let Some(text) = &texts[*index] {
                    cache.put(&model, text, &embedding, settings::text_cache_entries());
                }
                results[*index] = Some(embedding);
            }
        }
        Ok(results)
    })?;
    Ok(vector_array(call, &results))
}

fn speech(call: &Call) -> Result<OwnedVector, SqlError> {
    Ok(embed_clip(call.bytes(0), &model(call)?)?)
}

/// Embeds one clip: also what the trigger of `esr_attach` calls.
pub fn embed_clip(clip: &[u8], model: &str) -> Result<OwnedVector, EmbedError> {
    let limits = settings::audio_limits();
    check_size(clip)?;
    let clips = vec![ByteBuf::from(clip)];
    let [embedding] = one(embed(RequestBody::EmbedSpeech { model: model.to_owned(), clips, limits }, 1)?);
    Ok(embedding)
}

/// Embeds clips in one request, equal ones once. A failure says which clip it is about, if it is about one.
pub fn embed_clips(clips: &[&[u8]], model: &str) -> Result<Vec<OwnedVector>, ClipsError> {
    send_clips(clips, model, 0)?.expect("with no request ahead, a connection is waited for").vectors()
}

/// Which clip it is about, if it is about one, and what is wrong.
pub type ClipsError = (Option<usize>, EmbedError);

/// Clips on their way through the embedder. Dropped, their request is cancelled.
pub struct AskedClips {
    /// `None` if there are no clips.
    asked: Option<Asked>,
    /// Of the clips, the ones that are asked for.
    different: Vec<usize>,
    /// For each clip, which of those equals it.
    wanted: Vec<usize>,
}

/// As [`embed_clips`], without waiting for the answer. `ahead` such requests of this session are not answered yet; if there are
/// any, it is `None` where the embedder takes no second one.
pub fn send_clips(clips: &[&[u8]], model: &str, ahead: u32) -> Result<Option<AskedClips>, ClipsError> {
    let (mut different, mut wanted): (Vec<usize>, Vec<usize>) = (Vec::new(), Vec::with_capacity(clips.len()));
    for (index, clip) in clips.iter().enumerate() {
        check_size(clip).map_err(|error| (Some(index), error))?;
        // So few that comparing them, which ends at the first difference, takes less than hashing all of each.
        let known = different.iter().position(|known| clips[*known] == *clip);
        wanted.push(known.unwrap_or_else(|| {
            different.push(index);
            different.len() - 1
        }));
    }
    if different.is_empty() {
        return Ok(Some(AskedClips { asked: None, different, wanted }));
    }
    let request = different.iter().map(|index| ByteBuf::from(clips[*index])).collect();
    let body = RequestBody::EmbedSpeech { model: model.to_owned(), clips: request, limits: settings::audio_limits() };
    let asked = client::send(body, ahead).map_err(|error| ((clips.len() == 1).then_some(0), error))?;
    Ok(asked.map(|asked| AskedClips { asked: Some(asked), different, wanted }))
}

impl AskedClips {
    /// Waits for the vectors, one for each clip.
    pub fn vectors(self) -> Result<Vec<OwnedVector>, ClipsError> {
        let Self { asked, different, wanted } = self;
        let Some(asked) = asked else { return Ok(Vec::new()) };
        let embeddings = asked.answer().and_then(|body| read(body, different.len())).map_err(|error| {
            let item = match &error {
                EmbedError::Refused(failure) => failure.item.and_then(|item| different.get(item as usize).copied()),
                _ => None,
            };
            (item.or((wanted.len() == 1).then_some(0)), error)
        })?;
        Ok(wanted.into_iter().map(|place| embeddings[place].clone()).collect())
    }
}

/// By which equal clips are known.
pub fn digest(clip: &[u8]) -> [u8; 32] {
    Sha256::digest(clip).into()
}

/// The tag and the dimension of a model's embeddings.
pub fn describe_model(model: &str) -> Result<(Tag, usize), EmbedError> {
    match client::ask(RequestBody::DescribeModel { model: model.to_owned() })? {
        ResponseBody::Model { tag, dimension, .. } => Ok((Tag(tag), dimension as usize)),
        _ => Err(EmbedError::Mismatch("answered with something other than a model".into())),
    }
}

/// Runs `work` with its requests marked as backfill, which others' requests overtake.
pub fn as_backfill<T>(work: impl FnOnce() -> T) -> T {
    client::as_class(Class::Backfill, work)
}

fn speech_array(call: &Call) -> Result<Datum, SqlError> {
    let parts = call.array::<Bytes>(0);
    let model = model(call)?;
    let mut results: Vec<Option<OwnedVector>> = vec![None; parts.elements.len()];
    let mut waiting =
        parts.elements.iter().enumerate().filter_map(|(index, clip)| Some((index, clip.as_ref()?))).peekable();
    while waiting.peek().is_some() {
        let (mut indices, mut clips, mut bytes) = (Vec::new(), Vec::new(), 0);
        while clips.len() < CLIPS_PER_REQUEST && bytes < BYTES_PER_REQUEST {
            let Some((index, clip)) = waiting.next() else { break };
            let clip = clip.bytes();
            check_size(clip).map_err(|error| name_element(error, &[index]))?;
            bytes += clip.len();
            indices.push(index);
            clips.push(ByteBuf::from(clip));
        }
        let body = RequestBody::EmbedSpeech { model: model.to_string(), clips, limits: settings::audio_limits() };
        let embeddings = embed(body, indices.len()).map_err(|error| name_element(error, &indices))?;
        for (index, embedding) in indices.into_iter().zip(embeddings) {
            results[index] = Some(embedding);
        }
    }
    Ok(vector_array(call, &results))
}

/// The model named in the second argument, else the default; the current user must be allowed to use it.
fn model<'a>(call: &'a Call) -> Result<Cow<'a, str>, SqlError> {
    let model = if call.count() > 1 { call.text(1)? } else { settings::default_model().into() };
    model_usage::check_current(&model)?;
    Ok(model)
}

/// Asks for `count` embeddings and checks that this is what came.
fn embed(body: RequestBody, count: usize) -> Result<Vec<OwnedVector>, EmbedError> {
    read(client::ask(body)?, count)
}

fn read(answer: ResponseBody, count: usize) -> Result<Vec<OwnedVector>, EmbedError> {
    let nonsense = |what: String| EmbedError::Mismatch(format!("answered with {what}"));
    let ResponseBody::Embeddings { tag, dimension, values } = answer else {
        return Err(nonsense("something other than embeddings".into()));
    };
    let dimension = dimension as usize;
    if dimension == 0 || values.len() != count * dimension {
        return Err(nonsense(format!("{} numbers for {count} embeddings of {dimension} elements", values.len())));
    }
    let embedding = |row: &[f32]| OwnedVector::new(Tag(tag), row.to_vec());
    let embeddings: Result<Vec<_>, VectorError> = values.chunks_exact(dimension).map(embedding).collect();
    embeddings.map_err(|error| nonsense(format!("a bad embedding: {error}")))
}

fn one(embeddings: Vec<OwnedVector>) -> [OwnedVector; 1] {
    embeddings.try_into().expect("embed() returns as many embeddings as were asked for")
}

/// Refuses a clip that the embedder would refuse, before it is copied and sent.
pub fn check_size(clip: &[u8]) -> Result<(), EmbedError> {
    let max_bytes = settings::audio_limits().max_bytes;
    if clip.len() as u64 <= max_bytes {
        return Ok(());
    }
    Err(EmbedError::Refused(Failure {
        kind: FailureKind::AudioLimit,
        item: None,
        message: format!("audio file of {} bytes is over the limit of {max_bytes}", clip.len()),
        hint: Some("A superuser can raise esr.audio_max_bytes.".into()),
    }))
}

/// Says which element of the SQL array a failure is about.
fn name_element(error: EmbedError, indices: &[usize]) -> EmbedError {
    match error {
        EmbedError::Refused(mut failure) => {
            let item = failure.item.map_or(0, |item| item as usize);
            if let Some(index) = indices.get(item).filter(|_| failure.item.is_some() || indices.len() == 1) {
                failure.message = format!("array element {}: {}", index + 1, failure.message);
            }
            EmbedError::Refused(failure)
        }
        other => other,
    }
}

fn vector_array(call: &Call, results: &[Option<OwnedVector>]) -> Datum {
    let vectors: Vec<_> = results.iter().map(|result| result.as_ref().map(OwnedVector::as_vector)).collect();
    datum::new_vector_array(&vectors, call.return_type())
}

/// Lends the session's cache, emptied if the embedder it came from is gone. Looks once a statement: within one, a text
/// has one embedding.
fn with_cache<T>(run: impl FnOnce(&mut TextCache) -> Result<T, SqlError>) -> Result<T, SqlError> {
    thread_local! {
        static CACHE: RefCell<TextCache> = RefCell::new(TextCache::default());
        static SEEN: Cell<(i64, Option<u64>)> = const { Cell::new((0, None)) };
    }
    CACHE.with_borrow_mut(|cache| {
        let (statement, generation) = SEEN.get();
        let now = server::statement_number();
        if now != statement {
            let current = client::generation();
            if current != generation || current.is_none() {
                cache.clear();
            }
        }
        let result = run(cache);
        SEEN.set((now, client::known_generation()));
        result
    })
}

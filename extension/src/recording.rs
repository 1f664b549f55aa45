//! Long recordings: what a file holds, and its windows with their embeddings. Both come as JSON that SQL takes apart.

use esr_wire::{ByteBuf, RequestBody, ResponseBody};
use serde_json::{Value, json};

use crate::client;
use crate::client::error::EmbedError;
use crate::embed::check_size;
use crate::error::SqlError;
use crate::fmgr::Call;
use crate::vector::{Vector, tag::Tag, text};
use crate::{model_usage, settings, sql_function};

sql_function!(esr_describe_audio, describe);
sql_function!(esr_cut_segments, cut);

fn describe(call: &Call) -> Result<String, EmbedError> {
    let clip = call.bytes(0);
    check_size(clip)?;
    let body = RequestBody::AudioInfo { clip: ByteBuf::from(clip), limits: settings::audio_limits() };
    match client::ask(body)? {
        ResponseBody::AudioInfo { container, codec, rate, channels, frames } => Ok(json!({
            "container": container,
            "codec": codec,
            "seconds": frames as f64 / f64::from(rate.max(1)),
            "sample_rate": rate,
            "channels": channels,
        })
        .to_string()),
        _ => Err(EmbedError::Mismatch("answered with something other than what the file holds".into())),
    }
}

/// Arguments: the file, length of a window and step between windows in seconds, the model.
fn cut(call: &Call) -> Result<String, SqlError> {
    let clip = call.bytes(0);
    check_size(clip)?;
    let model = call.text(3)?.into_owned();
    model_usage::check_current(&model)?;
    let body = RequestBody::EmbedSegments {
        model,
        clip: ByteBuf::from(clip),
        window: call.f64(1),
        hop: call.f64(2),
        limits: settings::audio_limits(),
    };
    let nonsense = || EmbedError::Mismatch("answered with something other than windows".into());
    let ResponseBody::Segments { tag, dimension, windows, values } = client::ask(body)? else {
        return Err(nonsense().into());
    };
    let dimension = dimension as usize;
    let embedded = windows.iter().filter(|(_, _, has_style)| *has_style).count();
    if dimension == 0 || values.len() != embedded * dimension || values.iter().any(|value| !value.is_finite()) {
        return Err(nonsense().into());
    }
    let mut rest = values.chunks_exact(dimension);
    let rows: Vec<Value> = windows
        .iter()
        .map(|(start, end, has_style)| {
            let elements = has_style.then(|| rest.next()).flatten();
            let style = elements.map(|elements| text::print(Vector { tag: Tag(tag), elements }));
            json!({ "start_s": start, "end_s": end, "style": style })
        })
        .collect();
    Ok(Value::from(rows).to_string())
}

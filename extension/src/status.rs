//! What the views show: the embedder's counters and the installed models, both as JSON that the view takes apart.

use std::path::Path;

use esr_wire::{LOCK_FILE, RequestBody, ResponseBody};
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::client;
use crate::client::error::EmbedError;
use crate::error::SqlError;
use crate::fmgr::Call;
use crate::report::Report;
use crate::vector::tag::Tag;
use crate::writing::role;
use crate::{model_usage, server, settings, sql_function};

sql_function!(esr_embedder_status, embedder);
sql_function!(esr_list_models, models);

/// Never starts an embedder: looking must not change what is looked at.
fn embedder(_: &Call) -> Result<String, EmbedError> {
    let report = Report::read(LOCK_FILE, server::life()).unwrap_or_default();
    let mut answer = match client::ask_if_running(RequestBody::Status)? {
        Some(ResponseBody::Status(status)) => json!({
            "pid": status.pid,
            "uptime_s": status.uptime_s,
            "requests": status.requests,
            "failures": status.failures,
            "cancelled": status.cancelled,
            "refused": status.refused,
            "expired": status.expired,
            "queued": status.queued,
            "running": status.running,
            "texts": status.texts,
            "clips": status.clips,
            "batches": status.batches,
            "mean_batch": if status.batches == 0 { None } else { Some(status.rows as f64 / status.batches as f64) },
            "halved": status.halved,
            "memory": status.memory,
            "peak_memory": status.peak_memory,
            "device": Some(status.device).filter(|device| !device.is_empty()),
            "models": status.models,
            "p50_ms": status.p50_ms,
            "p99_ms": status.p99_ms,
        }),
        _ => json!({}),
    };
    answer["restarts"] = report.restarts.into();
    if !report.failure.is_empty() {
        answer["last_failure"] = report.failure.into();
    }
    Ok(answer.to_string())
}

fn models(_: &Call) -> Result<String, SqlError> {
    let mut bundles: Vec<Value> = std::fs::read_dir(settings::model_directory())
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.path().join("manifest.toml").is_file())
        .map(|entry| (entry.file_name().to_string_lossy().into_owned(), entry))
        .filter(|(name, _)| model_usage::is_granted(name, role::current()))
        .map(|(name, entry)| match describe(&entry.path()) {
            Ok(manifest) => manifest.describe(&name),
            Err(problem) => json!({ "name": name, "problem": problem }),
        })
        .collect();
    bundles.sort_by_key(|bundle| bundle["name"].to_string());
    Ok(Value::from(bundles).to_string())
}

/// The part of a bundle's manifest that the view shows; the embedder reads, and checks, all of it.
#[derive(Deserialize)]
struct Manifest {
    version: String,
    dimension: u32,
    licence: String,
    description: String,
    speech: Speech,
    files: std::collections::BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Speech {
    sample_rate: u32,
}

impl Manifest {
    fn describe(&self, name: &str) -> Value {
        json!({
            "name": name,
            "version": self.version,
            "dimension": self.dimension,
            "tag": self.tag().map(|tag| tag.to_string()),
            "licence": self.licence,
            "description": self.description,
        })
    }

    /// Identity of the bundle, as the encoder computes it from the files themselves.
    fn tag(&self) -> Option<Tag> {
        let mut hash = Sha256::new();
        for file in ["speech.onnx", "text.onnx", "tokenizer.json"] {
            hash.update(format!("{}\n", self.files.get(file)?));
        }
        hash.update(format!("dimension={}\nsample_rate={}\n", self.dimension, self.speech.sample_rate));
        let first = hash.finalize().first_chunk().map(|bytes| u64::from_le_bytes(*bytes))?;
        Some(Tag(first.max(1)))
    }
}

fn describe(bundle: &Path) -> Result<Manifest, String> {
    let text = std::fs::read_to_string(bundle.join("manifest.toml")).map_err(|error| error.to_string())?;
    toml::from_str(&text).map_err(|error| error.message().to_owned())
}

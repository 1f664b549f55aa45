//! Writes a trained run as a bundle: both networks, tokenizer, golden vectors, manifest, model card. The bundle is opened
//! and its golden vectors are checked through ONNX Runtime before it counts as written.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use esr_encoder::bundle::{
    GOLDEN_FILE, MANIFEST_FILE, REQUIRED_FILES, SPEECH_FILE, SpeechManifest, TEXT_FILE, TOKENIZER_FILE, TextManifest,
    sha256_hex,
};
use esr_encoder::golden::{Generator, Golden, GoldenSpeech, GoldenText, waveform};
use esr_encoder::{Bundle, Encoder, Manifest, Runtime};
use tch::{Tensor, no_grad};

use crate::config::{Card, Config, Data};
use crate::encoders;
use crate::evaluate::{CorpusScores, style_table, table};
use crate::graph::Graph;
use crate::nets::log_mel::SAMPLE_RATE;
use crate::nets::speech_tower::SpeechTower;
use crate::nets::text_tower::KEYS;
use crate::onnx::{self, Precision};
use crate::prepare::batch_of;
use crate::tokenizer::TextTokenizer;
use crate::torch::{Params, run};
use crate::trained::trained;
use crate::{placed, tuned_text, weights};

pub(crate) const CARD_FILE: &str = "MODEL_CARD.md";
const GOLDEN_TEXTS: [&str; 6] =
    ["whispering", "angry", "someone speaking slowly and sadly", "a calm voice", "an excited shout", "laughter"];
/// Cosine distance that rounding may cause; one element in 512 that is wrong by a hundredth is more.
const GOLDEN_TOLERANCE: f64 = 2e-5;
const GOLDEN_SPEECH: [(f64, f64, u64); 4] = [(180.0, 2.0, 1), (110.0, 0.7, 2), (260.0, 3.3, 3), (140.0, 5.0, 4)];

/// Everything a bundle is made of, apart from its model card.
pub(crate) struct Parts<'a> {
    pub name: &'a str,
    pub version: &'a str,
    pub seed: u64,
    pub dimension: usize,
    pub data: &'a Data,
    pub card: &'a Card,
    pub max_tokens: usize,
    /// `waveform`, `length` to `embedding`.
    pub speech: &'a Graph,
    /// `input_ids`, `attention_mask` to `embedding`.
    pub text: &'a Graph,
    pub params: &'a Params,
    pub tokenizer: &'a TextTokenizer,
    pub precision: Precision,
}

/// Writes the latest checkpoint of the config's run to `folder`; with `from`, that bundle with the text encoder tuned since.
pub fn export(config: &Config, folder: &Path, precision: Precision, from: Option<&Path>) -> Result<u64> {
    let params = if let Some(bundle) = from { retuned(config, bundle)? } else { finished(config)? };
    write_config(config, folder, params, precision)
}

/// Writes parameters as the bundle of a config, with its model card if there is none yet, and opens it; returns its tag.
pub(crate) fn write_config(config: &Config, folder: &Path, params: Params, precision: Precision) -> Result<u64> {
    // Golden vectors are those of what the bundle holds, and what was trained further is not rounded yet.
    let params = if precision == Precision::Int8 { encoders::round(params) } else { params };
    let parts = Parts {
        name: &config.name,
        version: &config.version,
        seed: config.seed,
        dimension: config.dimension,
        data: &config.data,
        card: &config.card,
        max_tokens: config.text.max_tokens,
        speech: &speech_tower(config, &params).record(config.dimension),
        text: &config.text.tower.record(config.dimension),
        params: &params,
        tokenizer: &TextTokenizer::read(&weights::resolve(&config.text.tokenizer), config.text.max_tokens)?,
        precision,
    };
    write_bundle(folder, &parts)?;
    if !folder.join(CARD_FILE).exists() {
        write_card(config, folder, &[])?;
    }
    opened(folder)
}

/// The config's speech network as some parameters are for: with log-mel statistics where they have rows for them, as `fuse` adds.
pub(crate) fn speech_tower(config: &Config, params: &Params) -> SpeechTower {
    let own = &config.speech.tower;
    let fused = SpeechTower { mel: true, ..own.clone() };
    let rows = params.get("speech.head.outer.weight").map(|weight| weight.size()[0]);
    if rows == Some(fused.pooled_width() as i64) { fused } else { own.clone() }
}

/// The parameters of the config's run.
fn finished(config: &Config) -> Result<Params> {
    let trained = trained(config)?.context("there is no checkpoint; run `esr-trainer train` with this config first")?;
    let mut params: Params = encoders::speech(config, config.speech.tower.last())?;
    params.extend(if config.text.tuning.is_some() { tuned_text::load(config)? } else { encoders::text(config)? });
    params.extend(trained);
    ensure!(
        config.augment.shown.is_none() || placed::file(&config.data.work).exists(),
        "the config's augment.shown has not been placed; run `esr-trainer place` with this config first"
    );
    Ok(params)
}

/// The parameters of a bundle, with the text tower that `tune-text` has made of its own; its styles answer as before.
fn retuned(config: &Config, bundle: &Path) -> Result<Params> {
    let mut params = weights::read_tensors(&bundle.join(SPEECH_FILE))?;
    params.extend(weights::read_tensors(&bundle.join(TEXT_FILE))?);
    let keys = params.get(KEYS).with_context(|| format!("{} has no bank of styles", bundle.display()))?.copy();
    params.extend(tuned_text::tuned(config)?);
    ensure!(
        params[KEYS].size() == keys.size() && params[KEYS].allclose(&keys, 1e-6, 1e-6, false),
        "{} was not tuned from {}: its styles lie elsewhere",
        tuned_text::file(config).display(),
        bundle.display()
    );
    Ok(params)
}

/// Writes all files of a bundle but its model card.
pub(crate) fn write_bundle(folder: &Path, parts: &Parts<'_>) -> Result<()> {
    std::fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    onnx::write(&folder.join(SPEECH_FILE), parts.speech, parts.params, parts.precision)?;
    onnx::write(&folder.join(TEXT_FILE), parts.text, parts.params, parts.precision)?;
    write(folder, TOKENIZER_FILE, parts.tokenizer.json.as_bytes())?;
    // Golden vectors come from libtorch, so that opening the bundle compares the two interpreters.
    let golden = golden(parts.speech, parts.text, parts.params, parts.tokenizer, f64::from(parts.data.longest))?;
    write(folder, GOLDEN_FILE, serde_json::to_string(&golden)?.as_bytes())?;
    let mut files = BTreeMap::new();
    for name in REQUIRED_FILES {
        files.insert(name.to_string(), sha256_hex(&std::fs::read(folder.join(name))?));
    }
    let mut provenance = parts.card.provenance.clone();
    provenance.insert("training data".into(), parts.data.train.join(", "));
    provenance.insert("seed".into(), parts.seed.to_string());
    let weights = match parts.precision {
        Precision::Int8 => "int8 with one scale an output channel",
        Precision::Float => "32-bit floats",
    };
    provenance.insert("weights of the encoders".into(), weights.into());
    let manifest = Manifest {
        format: esr_encoder::bundle::FORMAT,
        name: parts.name.into(),
        version: parts.version.into(),
        dimension: parts.dimension,
        licence: parts.card.licence.clone(),
        description: parts.card.description.clone(),
        speech: SpeechManifest {
            sample_rate: SAMPLE_RATE,
            min_seconds: parts.data.shortest,
            max_seconds: parts.data.longest,
        },
        text: TextManifest { max_tokens: parts.max_tokens },
        files,
        provenance,
    };
    write(folder, MANIFEST_FILE, toml::to_string(&manifest)?.as_bytes())
}

/// Opens a written bundle as production does, which compares its golden vectors; returns its tag.
pub(crate) fn opened(folder: &Path) -> Result<u64> {
    let bundle = Bundle::open(folder)?;
    let runtime = Runtime::load(&esr_encoder::runtime::default_library(), 1)?;
    Encoder::load(&bundle, &runtime).context("the bundle was written, but does not give the golden vectors back")?;
    Ok(bundle.tag())
}

/// Writes the model card, with result tables when there are results.
pub fn write_card(config: &Config, folder: &Path, results: &[CorpusScores]) -> Result<()> {
    let card = &config.card;
    let mut out =
        format!("# {} {}\n\n{}\n\nLicence: {}.\n", config.name, config.version, card.description, card.licence);
    out += "\n## What it is made of\n\n";
    card.provenance.iter().for_each(|(name, terms)| out += &format!("- {name}: {terms}\n"));
    out += &format!(
        "- Trained on: {} (speakers listed in trainer/splits). Seed {}.\n",
        config.data.train.join(", "),
        config.seed
    );
    if !config.augment.derived.is_empty() {
        let made: Vec<&str> = config.augment.derived.iter().map(|d| d.kind.style()).collect();
        out += &format!(
            "- There is little free recorded speech in some styles, so these were made from other clips by signal processing: {}. The \
             voice is replaced by noise through the same vocal tract for whispering; the others are time stretching, pitch shifting, \
             gain, spectral tilt and compression. Real speech in these styles differs.\n",
            made.join(", ")
        );
    }
    out += "\n## What it is bad at\n\n";
    card.weaknesses.iter().for_each(|w| out += &format!("- {w}\n"));
    if !results.is_empty() {
        out += "\n## Results\n\nSpeakers and prompts that were never trained on. Each held-out prompt is asked alone and styles count the same. R@k: one \
                clip of the style among 400 of other styles (or all there are) is within the first k, in exact expectation. mAP: all clips of the \
                style are relevant.";
        let beside = results.iter().any(|r| r.methods.len() > 1);
        if beside {
            out += " The baselines are fitted on the same training data: a ridge map to the frozen text encoder from the frozen, mean-pooled \
                    speech encoder, and from means and deviations of the log-mel bands.";
        }
        out += "\n\n";
        out += &table(results);
        out += "\n### Per style\n\n";
        out += &style_table(results);
        let (config, alone) = (&config.name, if beside { "" } else { " --alone" });
        out += &format!(
            "\nPrinted by `esr-trainer evaluate --bundle models/{config} --split test --styles{alone}` with the config that made it.\n"
        );
        if !card.notes.is_empty() {
            out += "\n### Notes\n\n";
            card.notes.iter().for_each(|note| out += &format!("- {note}\n"));
        }
    }
    write(folder, CARD_FILE, out.as_bytes())
}

fn golden(speech: &Graph, text: &Graph, params: &Params, tokenizer: &TextTokenizer, longest: f64) -> Result<Golden> {
    let row =
        |out: BTreeMap<String, Tensor>| -> Result<Vec<f32>> { Ok(Vec::<f32>::try_from(out["embedding"].get(0))?) };
    let mut texts = vec![];
    for input in GOLDEN_TEXTS {
        let (ids, mask) = tokenizer.encode(&[input.to_string()])?;
        let out = no_grad(|| run(text, params, &[("input_ids", &ids), ("attention_mask", &mask)], false));
        texts.push(GoldenText { input: input.into(), embedding: row(out)? });
    }
    let mut clips = vec![];
    for (hz, seconds, seed) in GOLDEN_SPEECH {
        let generator = Generator::Harmonic { hz, seconds: seconds.min(longest), seed };
        let (waveforms, lengths) = batch_of(&[waveform(&generator)]);
        let out = no_grad(|| run(speech, params, &[("waveform", &waveforms), ("length", &lengths)], false));
        clips.push(GoldenSpeech { generator, embedding: row(out)? });
    }
    Ok(Golden { tolerance: GOLDEN_TOLERANCE, texts, speech: clips })
}

pub(crate) fn write(folder: &Path, name: &str, bytes: &[u8]) -> Result<()> {
    std::fs::write(folder.join(name), bytes).with_context(|| format!("cannot write {}", folder.join(name).display()))
}

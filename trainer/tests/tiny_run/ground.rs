//! What the runs stand on: tiny random networks, a corpus of tones, prompts, and configurations that name them.

use std::path::Path;
use std::sync::MutexGuard;

use esr_trainer::config::Config;
use tch::{Device, Kind, Tensor};

use crate::runs::{alone, write_tones};

const STYLES: [(&str, f32, f32); 3] = [("calm", 120.0, 0.02), ("angry", 300.0, 0.3), ("whisper", 0.0, 0.1)];

fn randn(shape: &[i64]) -> Tensor {
    Tensor::randn(shape, (Kind::Float, Device::Cpu)) / (*shape.last().unwrap() as f64).sqrt()
}

/// A random Whisper with OpenAI's names and a random BERT with the published ones.
fn write_weights(folder: &Path) {
    tch::manual_seed(1);
    let mut whisper: Vec<(String, Tensor)> = vec![
        ("encoder.conv1.weight".into(), randn(&[16, 80, 3])),
        ("encoder.conv1.bias".into(), randn(&[16])),
        ("encoder.conv2.weight".into(), randn(&[16, 16, 3])),
        ("encoder.conv2.bias".into(), randn(&[16])),
        ("encoder.positional_embedding".into(), randn(&[150, 16])),
    ];
    for n in 0..3 {
        let mut add = |name: &str, shape: &[i64]| whisper.push((format!("encoder.blocks.{n}.{name}"), randn(shape)));
        for part in ["query", "key", "value", "out"] {
            add(&format!("attn.{part}.weight"), &[16, 16]);
            if part != "key" {
                add(&format!("attn.{part}.bias"), &[16]);
            }
        }
        add("mlp.0.weight", &[64, 16]);
        add("mlp.0.bias", &[64]);
        add("mlp.2.weight", &[16, 64]);
        add("mlp.2.bias", &[16]);
        for norm in ["attn_ln", "mlp_ln"] {
            whisper.push((format!("encoder.blocks.{n}.{norm}.weight"), Tensor::ones([16], (Kind::Float, Device::Cpu))));
            whisper.push((format!("encoder.blocks.{n}.{norm}.bias"), Tensor::zeros([16], (Kind::Float, Device::Cpu))));
        }
    }
    Tensor::write_safetensors(&whisper, folder.join("whisper.safetensors")).unwrap();

    let words = vocabulary();
    std::fs::write(folder.join("vocab.txt"), words.join("\n") + "\n").unwrap();
    let mut bert: Vec<(String, Tensor)> = vec![
        ("bert.embeddings.word_embeddings.weight".into(), randn(&[words.len() as i64, 12]) * 3.0),
        ("bert.embeddings.position_embeddings.weight".into(), randn(&[40, 12])),
        ("bert.embeddings.token_type_embeddings.weight".into(), randn(&[2, 12])),
    ];
    let mut norm = |path: &str| {
        bert.push((format!("bert.{path}.LayerNorm.weight"), Tensor::ones([12], (Kind::Float, Device::Cpu))));
        bert.push((format!("bert.{path}.LayerNorm.bias"), Tensor::zeros([12], (Kind::Float, Device::Cpu))));
    };
    ["embeddings", "encoder.layer.0.attention.output", "encoder.layer.0.output"].iter().for_each(|p| norm(p));
    for (name, shape) in [
        ("attention.self.query", [12, 12]),
        ("attention.self.key", [12, 12]),
        ("attention.self.value", [12, 12]),
        ("attention.output.dense", [12, 12]),
        ("intermediate.dense", [24, 12]),
        ("output.dense", [12, 24]),
    ] {
        bert.push((format!("bert.encoder.layer.0.{name}.weight"), randn(&shape)));
        bert.push((format!("bert.encoder.layer.0.{name}.bias"), randn(&[shape[0]])));
    }
    Tensor::write_safetensors(&bert, folder.join("bert.safetensors")).unwrap();
}

fn vocabulary() -> Vec<String> {
    let mut words: Vec<String> = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"].iter().map(|s| s.to_string()).collect();
    let text: std::collections::BTreeSet<String> =
        PROMPTS.split(|c: char| !c.is_ascii_lowercase()).filter(|w| !w.is_empty()).map(String::from).collect();
    words.extend(text);
    words
}

const PROMPTS: &str = r#"
[templates.adjective]
train = ["{x}", "a {x} voice"]
heldout = ["somebody {x}"]
[templates.gerund]
train = ["someone {x}"]
heldout = ["a person {x}"]
[templates.noun]
train = ["with {x}"]
heldout = ["full of {x}"]
[templates.pair]
train = ["{a} and {b}", "{g} and {a}"]
heldout = ["{a} while {g}"]
[wordings]
before = { train = ["give me "], heldout = ["find "] }
after = { train = [" now", "!"], heldout = [" soon"] }
not_adjective = { train = ["not {x}"], heldout = ["hardly {x}"] }
[[style]]
name = "calm"
train = { adjective = ["calm", "relaxed"], gerund = ["resting"], noun = ["peace"] }
heldout = { adjective = ["tranquil calm"] }
[[style]]
name = "angry"
train = { adjective = ["angry", "furious"], gerund = ["raging"], noun = ["rage"] }
heldout = { adjective = ["irate angry"] }
[[style]]
name = "whispering"
aliases = ["whisper"]
train = { adjective = ["whispered", "breathy"], gerund = ["whispering"], noun = ["breath"] }
heldout = { adjective = ["hushed whispered"] }
[[style]]
name = "fast"
train = { adjective = ["fast", "rapid"], gerund = ["hurrying"], noun = ["speed"] }
heldout = { adjective = ["quick fast"] }
[[style]]
name = "coughing"
train = { adjective = ["coughing"], gerund = ["coughing"], noun = ["a cough"] }
heldout = { adjective = ["hacking cough"] }
[[style]]
name = "bored"
like = ["calm"]
train = { adjective = ["bored"], gerund = ["yawning"], noun = ["boredom"] }
heldout = { adjective = ["weary bored"] }
"#;

/// Tones of three kinds by eight speakers, with a manifest and a split of the speakers.
fn write_corpus(root: &Path) {
    let folder = root.join("tones");
    std::fs::create_dir_all(&folder).unwrap();
    let mut manifest = String::from("path,speaker,style,text,duration_s,language,extra\n");
    let mut split = String::from("speaker,split\n");
    let mut state = 1u32;
    for speaker in 0..8 {
        let role = ["train", "train", "train", "train", "train", "val", "test", "test"][speaker];
        split += &format!("s{speaker},{role}\n");
        for (style, hertz, noise) in STYLES {
            for take in 0..3 {
                let name = format!("s{speaker}_{style}_{take}.wav");
                write_tones(&folder.join(&name), 16_000, 10_000 + 700 * take, &[(hertz, noise)], speaker, &mut state);
                manifest += &format!("{name},s{speaker},{style},,0.6,en,\n");
            }
        }
    }
    std::fs::write(folder.join("manifest.csv"), manifest).unwrap();
    std::fs::create_dir_all(root.join("splits")).unwrap();
    std::fs::write(root.join("splits/tones.csv"), split).unwrap();
    std::fs::write(root.join("prompts.toml"), PROMPTS).unwrap();
    std::fs::write(root.join("sentences.txt"), "resting with a calm voice\nsomeone furious\nquick rage\n").unwrap();
}

pub fn config(root: &Path, work: &str, tuning: bool) -> Config {
    let at = |name: &str| root.join(name).display().to_string();
    let words = vocabulary().len();
    let bert = format!(
        "{{ family = \"bert\", vocabulary = {words}, width = 12, hidden = 24, layers = 1, heads = 2, positions = 32, epsilon = 1e-12 }}"
    );
    let tuned = format!(
        "[text.tuning]\nweights = {0:?}\ntokenizer = {1:?}\nbert = {bert}\nprompts_per_style = 4\nwords = 10\nsentences = {2:?}\nsentence_count = 2\nsteps = 40\nmore_steps = 4\nteacher_steps = 3\nteacher_rate = 1e-4\nclassifying = 10.0\nbatch = 16\nreworded = 0.5\nnegated = 0.2\nrate = 1e-3\nhead_rate = 1e-2\nnaming = 1.0\nplacing = 1.0\nsharpness = 8.0\nsharpen = 0.3\nlink = 8.0\n",
        at("bert.safetensors"),
        at("vocab.txt"),
        at("sentences.txt")
    );
    let text = format!(
        r#"
name = "tiny"
seed = 3
dimension = 20
[data]
root = {root:?}
train = ["tones"]
splits = {splits:?}
prompts = {prompts:?}
work = {work:?}
shortest = 0.3
longest = 2.0
[speech]
weights = {whisper:?}
int8 = true
cached_layers = [1, 2]
[speech.tower]
whisper = {{ width = 16, heads = 2, positions = 150 }}
layers = [2]
pooling = "even"
deviation = true
mel = true
projection = {{ hidden = 8, dropout = 0.1, standardise = true }}
[text]
weights = {bert_file:?}
tokenizer = {vocab:?}
int8 = true
max_tokens = 16
[text.tower]
bert = {bert}
projection = {{ hidden = 0, dropout = 0.0, standardise = {standardise} }}
{bank}
{tuning}
[augment]
copies = 1.0
derived = [{{ kind = "fast", share = 0.5, corpora = ["tones"] }}]
sounds = {{ kinds = ["coughing"], share = 0.5, corpus = "tones" }}
[training]
epochs = 8
steps = 6
batch = 24
rate = 5e-3
contrastive_from = 1
discriminator_from = 2
multi_positive = true
class_balance = 1.0
average = 0.9
cosine = true
learn_temperature = true
{extra}
"#,
        root = root.display().to_string(),
        splits = at("splits"),
        prompts = at("prompts.toml"),
        work = at(work),
        whisper = at("whisper.safetensors"),
        bert_file = at("bert.safetensors"),
        vocab = at("vocab.txt"),
        standardise = !tuning,
        bank = if tuning { "bank = { styles = 6, sharpness = 8.0 }" } else { "" },
        tuning = if tuning { tuned.as_str() } else { "" },
        extra = if tuning { "tied_classifier = true\nwarm_start = 0.5\ndomains = [[\"tones\"]]\n" } else { "" },
    );
    let file = root.join(format!("{work}.toml"));
    std::fs::write(&file, text).unwrap();
    Config::read(&file).unwrap()
}

/// A folder with weights and a corpus, and the right to draw random numbers.
pub fn ground() -> (MutexGuard<'static, ()>, tempfile::TempDir) {
    let alone = alone();
    let folder = tempfile::tempdir().unwrap();
    write_weights(folder.path());
    write_corpus(folder.path());
    (alone, folder)
}

//! The whole path on tiny networks and generated sounds: prepare, tune-text, train (interrupted and not), evaluate,
//! export, evaluate the bundle. Needs no downloads.

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use esr_trainer::checkpoint::Checkpoint;
use esr_trainer::config::{Config, Fusion, Manner, Processor, Shown, ShownKind, Training, Waveforms};
use esr_trainer::data::splits::Split;
use esr_trainer::evaluate::{Model, OURS, evaluate};
use esr_trainer::export::export;
use esr_trainer::fuse::fuse;
use esr_trainer::nets::speech_tower::Pooling;
use esr_trainer::onnx::Precision;
use esr_trainer::placed::place;
use esr_trainer::prepare::{Form, ensure_complete, prepare};
use esr_trainer::prompts::Side;
use esr_trainer::soup::soup;
use esr_trainer::train::{train, trained};
use esr_trainer::tune_text::tune_text;
use esr_trainer::weights::read_tensors;
use tch::{Device, Kind, Tensor};

/// libtorch has one random generator per process: tests that train must not draw from it at the same time.
static GENERATOR: Mutex<()> = Mutex::new(());

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
                let format = hound::WavSpec {
                    channels: 1,
                    sample_rate: 16_000,
                    bits_per_sample: 16,
                    sample_format: hound::SampleFormat::Int,
                };
                let mut writer = hound::WavWriter::create(folder.join(&name), format).unwrap();
                for n in 0..10_000 + 700 * take {
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    let random = (state >> 8) as f32 / (1 << 23) as f32 - 1.0;
                    let pitch = hertz * (1.0 + 0.02 * speaker as f32);
                    let tone = (n as f32 / 16_000.0 * pitch * std::f32::consts::TAU).sin();
                    writer.write_sample(((tone * 0.4 + random * noise) * 12_000.0) as i16).unwrap();
                }
                writer.finalize().unwrap();
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

fn config(root: &Path, work: &str, tuning: bool) -> Config {
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

fn weights_of(config: &Config) -> Vec<(String, Vec<f32>)> {
    let best = Checkpoint::load(&config.data.work, None).unwrap().unwrap().best();
    best.into_iter().map(|(k, t)| (k, Vec::try_from(t.flatten(0, -1)).unwrap())).collect()
}

/// A folder with weights and a corpus, and the right to draw random numbers.
fn ground() -> (MutexGuard<'static, ()>, tempfile::TempDir) {
    let alone = GENERATOR.lock().unwrap_or_else(PoisonError::into_inner);
    tch::set_num_threads(1);
    let folder = tempfile::tempdir().unwrap();
    write_weights(folder.path());
    write_corpus(folder.path());
    (alone, folder)
}

#[test]
fn the_whole_path_on_tiny_networks() {
    let (_alone, folder) = ground();
    let root = folder.path();

    // A run with the paper's heads, interrupted after three epochs and continued, equals an unbroken one.
    let broken = config(root, "broken", false);
    let added = prepare(&broken, Form::Pooled).unwrap();
    assert!(added > 8 * 9 + 5 * 9, "{added} entries");
    assert_eq!(prepare(&broken, Form::Pooled).unwrap(), 0, "a second run finds everything cached");
    let mut other = broken.clone();
    other.data.test.append(&mut other.data.train);
    let told = prepare(&other, Form::Pooled).unwrap_err().to_string();
    assert!(told.contains("for Train, but by this config it is for Test"), "{told}");
    train(&broken, false, Some(3)).unwrap();
    train(&broken, false, None).unwrap();
    let whole = config(root, "whole", false);
    std::fs::create_dir_all(&whole.data.work).unwrap();
    std::fs::rename(broken.data.work.join("pooled"), whole.data.work.join("pooled")).unwrap();
    train(&whole, false, None).unwrap();
    for ((name, a), (_, b)) in weights_of(&broken).iter().zip(&weights_of(&whole)) {
        assert!(a == b, "{name} differs between an interrupted and an unbroken run");
    }
    let lines = std::fs::read_to_string(broken.data.work.join("metrics.jsonl")).unwrap();
    assert_eq!(lines.lines().count(), 8);
    assert!(lines.contains("contrastive") && !lines.contains("alignment"), "only losses that are on are reported");

    let results = evaluate(&whole, &Model::Run, Split::Test, Side::Heldout, true).unwrap();
    let got = results[0].methods[OURS].ensemble.precision;
    assert!(got > results[0].chance.precision + 0.2, "mAP {got} against chance {}", results[0].chance.precision);

    // The same with a tuned text tower, exported and judged as production runs it.
    let tuned = config(root, "tuned", true);
    std::fs::create_dir_all(&tuned.data.work).unwrap();
    std::fs::rename(whole.data.work.join("pooled"), tuned.data.work.join("pooled")).unwrap();
    tune_text(&tuned, None).unwrap();
    train(&tuned, false, None).unwrap();
    let bundle = root.join("bundle");
    let tag = export(&tuned, &bundle, Precision::Int8, None).unwrap();
    assert_ne!(tag, 0);
    let cached = evaluate(&tuned, &Model::Run, Split::Test, Side::Heldout, true).unwrap();
    let served = evaluate(&tuned, &Model::Bundle(&bundle), Split::Test, Side::Heldout, true).unwrap();
    let (a, b) = (cached[0].methods[OURS].single.precision, served[0].methods[OURS].single.precision);
    assert!((a - b).abs() < 0.02, "cached features rank at {a}, the bundle at {b}");
    assert!(bundle.join("MODEL_CARD.md").exists());
    // What the bundle says about a clip is kept.
    let kept = std::fs::read_dir(tuned.data.cache().join("clips")).unwrap().count();
    let again = evaluate(&tuned, &Model::Bundle(&bundle), Split::Test, Side::Heldout, true).unwrap();
    assert_eq!(again[0].methods[OURS].single.precision, b);
    assert!(kept > 0 && std::fs::read_dir(tuned.data.cache().join("clips")).unwrap().count() == kept);

    // A style without clips is answered with where clips made like it lie.
    let mut shown = tuned.clone();
    let kinds = |style: &str| vec![ShownKind { manner: Manner::Child, styles: vec![style.into()] }];
    let of = |style: &str| Some(Shown { share: 1.0, corpora: vec!["tones".into()], kinds: kinds(style) });
    shown.augment.shown = of("calm");
    assert!(place(&shown).unwrap_err().to_string().contains("which training clips have"));
    shown.augment.shown = of("bored");
    let asked = export(&shown, &bundle, Precision::Int8, None).unwrap_err().to_string();
    assert!(asked.contains("esr-trainer place"), "{asked}");
    assert_eq!(place(&shown).unwrap(), ["bored"]);
    let values = |config: &Config| trained(config).unwrap().unwrap()["text.head.values"].copy();
    let moved = (values(&shown) - values(&tuned)).abs().amax([1i64].as_slice(), false);
    let moved = Vec::<f32>::try_from(moved).unwrap();
    assert!(moved[5] > 1e-3 && moved[..5].iter().all(|x| *x == 0.0), "{moved:?}");
    assert_ne!(export(&shown, &bundle, Precision::Int8, None).unwrap(), tag);

    // Log-mel statistics are added once to a bundle that was trained without them, and stay when its text tower is tuned further.
    let read = |folder: &Path, name: &str| std::fs::read(folder.join(name)).unwrap();
    let mut bare = tuned.clone();
    (bare.data.work, bare.data.cache) = (root.join("bare"), Some(tuned.data.work.clone()));
    bare.speech.tower.mel = false;
    train(&bare, false, None).unwrap();
    let (plain, fused, retuned) = (root.join("plain"), root.join("fused"), root.join("retuned"));
    export(&bare, &plain, Precision::Int8, None).unwrap();
    assert!(fuse(&bare, &plain, &fused).unwrap_err().to_string().contains("speech.fusion"));
    bare.speech.fusion = Some(Fusion { share: 0.5, ridge: 0.2, doubt: 0.5 });
    fuse(&bare, &plain, &fused).unwrap();
    assert_eq!(read(&fused, "text.onnx"), read(&plain, "text.onnx"));
    let heard = evaluate(&bare, &Model::Bundle(&fused), Split::Test, Side::Heldout, false).unwrap();
    let (got, chance) = (heard[0].methods[OURS].single.precision, heard[0].chance.precision);
    assert!(got > chance + 0.2, "mAP {got} against chance {chance}");
    assert!(fuse(&bare, &fused, &retuned).unwrap_err().to_string().contains("already"));
    export(&bare, &retuned, Precision::Int8, Some(&fused)).unwrap();
    assert_eq!(read(&retuned, "speech.onnx"), read(&fused, "speech.onnx"));

    // A bundle's text tower can go on learning; what was placed before the speech side was trained on is refused.
    tune_text(&tuned, Some(&bundle)).unwrap();
    export(&tuned, &retuned, Precision::Int8, Some(&bundle)).unwrap();
    assert_eq!(read(&retuned, "speech.onnx"), read(&bundle, "speech.onnx"));
    assert_ne!(read(&retuned, "text.onnx"), read(&bundle, "text.onnx"));
    let bank = |folder: &Path| read_tensors(&folder.join("text.onnx")).unwrap()["text.head.values"].copy();
    assert_eq!(bank(&retuned), bank(&bundle), "the styles answer as before");
    let mut shorter = tuned.clone();
    shorter.training.epochs = 1;
    train(&shorter, true, None).unwrap();
    assert!(trained(&shown).is_err_and(|error| error.to_string().contains("another speech side")));
    place(&shown).unwrap();
    trained(&shown).unwrap();
}

#[test]
fn blocks_are_trained_over_cached_frames() {
    let (_alone, folder) = ground();
    let root = folder.path();
    let mut config = config(root, "frames", false);
    config.training.unfreeze_from = 2;
    config.training.epochs = 2;
    config.training.steps = 3;
    config.training.encoder_rate = 1e-3;
    config.training.attribute_prompts = 0.5;
    config.speech.tower.pooling = Pooling::Attentive;
    let lacking = ensure_complete(&config, Form::Frames { layer: 1 }).unwrap_err().to_string();
    assert!(lacking.contains("with --frames 1"), "{lacking}");
    prepare(&config, Form::Frames { layer: 1 }).unwrap();
    ensure_complete(&config, Form::Frames { layer: 1 }).unwrap();
    train(&config, false, None).unwrap();
    assert!(config.data.cache().join("attributes").exists(), "voices are measured once and kept");
    let now = weights_of(&config);
    let moved = now
        .iter()
        .find(|(n, _)| n == "speech.encoder.blocks.1.mlp.0.weight")
        .expect("the unfrozen block is in the checkpoint");
    let before = esr_trainer::encoders::speech(&config, 2).unwrap();
    let before = Vec::<f32>::try_from(before["speech.encoder.blocks.1.mlp.0.weight"].flatten(0, -1)).unwrap();
    assert!(moved.1.iter().zip(&before).any(|(a, b)| (a - b).abs() > 1e-4), "the unfrozen block did not move");
    assert!(now.iter().all(|(n, _)| !n.contains("blocks.0.")), "a frozen block is in the checkpoint");
    let attention =
        now.iter().find(|(n, _)| n.starts_with("speech.head.attention.0.outer")).expect("attention is trained");
    assert!(attention.1.iter().any(|w| *w != 0.0));
    let bundle = root.join("bundle");
    export(&config, &bundle, Precision::Float, None).unwrap();
    // The baselines are asked of pooled features.
    prepare(&config, Form::Pooled).unwrap();
    let precision = |model: &Model| {
        let results = evaluate(&config, model, Split::Test, Side::Heldout, true).unwrap();
        results[0].methods[OURS].single.precision
    };
    let (run, served) = (precision(&Model::Run), precision(&Model::Bundle(&bundle)));
    assert!((run - served).abs() < 0.02, "cached frames rank at {run}, the bundle at {served}");
}

#[test]
fn the_whole_encoder_is_trained_from_waveforms() {
    let (_alone, folder) = ground();
    let root = folder.path();
    let head = config(root, "head", true);
    prepare(&head, Form::Pooled).unwrap();
    tune_text(&head, None).unwrap();
    train(&head, false, None).unwrap();
    let bundle = root.join("head-bundle");
    export(&head, &bundle, Precision::Int8, None).unwrap();

    let run = |work: &str, reseed: u64| {
        let mut run = head.clone();
        run.data.cache = Some(head.data.work.clone());
        run.data.work = root.join(work);
        run.training = Training { epochs: 3, steps: 4, batch: 24, encoder_rate: 1e-3, reseed, ..head.training.clone() };
        run.training.waveforms = Some(Waveforms {
            from: bundle.clone(),
            device: Processor::Cpu,
            disturbed: 0.0,
            layer_decay: 0.5,
            validate_every: 2,
            ..Waveforms::default()
        });
        run
    };
    // Interrupted and continued equals unbroken, whatever the threads.
    let broken = run("broken", 0);
    train(&broken, false, Some(1)).unwrap();
    train(&broken, false, None).unwrap();
    let mut whole = run("whole", 0);
    whole.training.waveforms.as_mut().unwrap().workers = 3;
    train(&whole, false, None).unwrap();
    for ((name, a), (_, b)) in weights_of(&broken).iter().zip(&weights_of(&whole)) {
        assert!(a == b, "{name} differs between an interrupted and an unbroken run");
    }
    let lines = std::fs::read_to_string(whole.data.work.join("metrics.jsonl")).unwrap();
    assert_eq!(
        lines.lines().filter(|l| l.contains("validation")).count(),
        2,
        "after two epochs and at the end: {lines}"
    );

    // Everything moves but the table of positions, and kept weights lie between.
    let settings = whole.training.waveforms.clone().unwrap();
    let graph = whole.speech.tower.record_whole(whole.dimension);
    let start = esr_trainer::waveforms::start(&whole, &settings, &graph).unwrap();
    let flat = |t: &Tensor| Vec::<f32>::try_from(t.flatten(0, -1)).unwrap();
    let now: std::collections::BTreeMap<String, Vec<f32>> = weights_of(&whole).into_iter().collect();
    for name in ["conv1.weight", "blocks.0.attn.query.weight", "blocks.1.mlp.0.weight", "positional_embedding"] {
        let name = format!("speech.encoder.{name}");
        let moved = flat(&start[&name]).iter().zip(&now[&name]).any(|(a, b)| (a - b).abs() > 1e-5);
        assert_eq!(moved, !name.contains("positional"), "{name}");
    }
    let mut kept = whole.clone();
    kept.training.waveforms.as_mut().unwrap().keep = 0.25;
    let between = &trained(&kept).unwrap().unwrap()["speech.encoder.conv1.weight"];
    for ((b, s), n) in
        flat(between).iter().zip(flat(&start["speech.encoder.conv1.weight"])).zip(&now["speech.encoder.conv1.weight"])
    {
        assert!((b - (0.75 * n + 0.25 * s)).abs() < 1e-6);
    }

    // The mean of two runs is judged from the clips' files, and its bundle gives the same.
    let mut other = run("other", 7);
    other.training.steps = 30;
    train(&other, false, None).unwrap();
    let long = evaluate(&other, &Model::Run, Split::Test, Side::Heldout, false).unwrap();
    let (got, chance) = (long[0].methods[OURS].ensemble.precision, long[0].chance.precision);
    assert!(got > chance + 0.1, "mAP {got} against chance {chance}");
    assert_eq!(long[0].methods.len(), 1, "no baselines");
    let mean = run("mean", 0);
    soup(&mean, &[whole.data.work.clone(), other.data.work.clone()]).unwrap();
    let theirs: std::collections::BTreeMap<String, Vec<f32>> = weights_of(&other).into_iter().collect();
    for (name, values) in weights_of(&mean) {
        let expected = now[&name].iter().zip(&theirs[&name]).map(|(a, b)| (a + b) / 2.0);
        assert!(values.iter().zip(expected).all(|(v, e)| (v - e).abs() < 1e-5), "{name}");
    }
    assert!(soup(&mean, &[whole.data.work.clone(), head.data.work.clone()]).is_err(), "another network");
    let alone = evaluate(&mean, &Model::Run, Split::Test, Side::Heldout, false).unwrap();
    let own = alone[0].methods[OURS].single.precision;
    let served = root.join("mean-bundle");
    export(&mean, &served, Precision::Int8, None).unwrap();
    let through = evaluate(&mean, &Model::Bundle(&served), Split::Test, Side::Heldout, false).unwrap();
    let through = through[0].methods[OURS].single.precision;
    assert!((own - through).abs() < 0.02, "the run ranks at {own}, the bundle at {through}");
}

/// The tones once more as a corpus of other speakers, in which calm tones are called bored, a style that is never trained.
fn write_second_corpus(root: &Path) {
    let (from, to) = (root.join("tones"), root.join("others"));
    std::fs::create_dir_all(&to).unwrap();
    for file in std::fs::read_dir(&from).unwrap() {
        let file = file.unwrap().path();
        std::fs::copy(&file, to.join(file.file_name().unwrap())).unwrap();
    }
    let manifest = std::fs::read_to_string(from.join("manifest.csv")).unwrap();
    // Speakers are s0 to s7.
    let other = (0..8).fold(manifest, |text, n| text.replace(&format!(",s{n},"), &format!(",other{n},")));
    std::fs::write(to.join("manifest.csv"), other.replace(",calm,", ",bored,")).unwrap();
}

#[test]
fn the_protocol_and_every_question_are_answered() {
    use clap::Parser;
    use esr_trainer::protocol;
    use esr_trainer::questions::command::{self, Question};

    #[derive(Parser)]
    enum Line {
        Protocol(protocol::command::Arguments),
        #[command(subcommand)]
        Question(Question),
    }

    let (_alone, folder) = ground();
    let root = folder.path();
    write_second_corpus(root);
    config(root, "asked", true);
    let file = root.join("asked.toml");
    let text = std::fs::read_to_string(&file)
        .unwrap()
        .replace("train = [\"tones\"]", "train = [\"tones\"]\ntest = [\"others\"]");
    std::fs::write(&file, text).unwrap();
    let run = Config::read(&file).unwrap();
    prepare(&run, Form::Pooled).unwrap();
    tune_text(&run, None).unwrap();
    train(&run, false, None).unwrap();

    let (config, out) = (file.to_str().unwrap(), root.join("answers"));
    let ask = |words: &[&str]| {
        let mut all = vec!["esr-trainer"];
        all.extend(words);
        all.extend(["--config", config, "--output", out.to_str().unwrap()]);
        match Line::try_parse_from(all).unwrap() {
            Line::Protocol(arguments) => {
                let answer = protocol::command::run(&arguments).unwrap();
                arguments.subject.give(&answer).unwrap();
                answer
            }
            Line::Question(question) => command::run(&question).unwrap(),
        }
    };
    let vectors = root.join("vectors.jsonl");
    let all = [
        ask(&["protocol", "--draw", "others", "--replicates", "50", "--embeddings", vectors.to_str().unwrap()]),
        ask(&["question", "negatives", "--drawn", "2"]),
        ask(&["question", "pool-size"]),
        ask(&["question", "languages", "--styles", "calm,angry,whispering", "--english", "tones", "--drawn", "5"]),
        ask(&["question", "prompts"]),
        ask(&["question", "short-speech", "--longest", "1", "--recordings", "12", "--drawn", "4"]),
        ask(&["question", "unseen-styles", "--from", "tones", "--leave-out", "angry", "--epochs", "2"]),
        ask(&["question", "transfer", "--corpora", "others", "--epochs", "2", "--seeds", "0,1"]),
    ];
    for answer in &all {
        let json = std::fs::read_to_string(out.join(format!("{}.json", answer.name))).unwrap();
        assert!(serde_json::from_str::<serde_json::Value>(&json).is_ok());
        assert!(
            !answer.figures.is_empty() && answer.tables.iter().all(|t| !t.rows.is_empty()),
            "{}",
            answer.markdown()
        );
        for figure in &answer.figures {
            let svg = std::fs::read_to_string(out.join(format!("{}.svg", figure.name))).unwrap();
            assert!(
                svg.contains("</svg>") && !svg.contains("NaN") && svg.len() < 60_000,
                "{}: {}",
                figure.name,
                svg.len()
            );
        }
        assert!(!answer.markdown().contains("NaN"), "{}", answer.markdown());
    }
    let of = |n: usize| all[n].markdown();
    // The tones are told apart easily; what was left out is not trained again under its name.
    assert!(of(0).contains("held-out prompts alone") && of(0).contains("| others |"));
    assert!(of(6).contains("| angry | tones |") && of(6).contains("| bored |"), "{}", of(6));
    assert!(run.data.work.join("questions/without-angry-2/checkpoint.safetensors").exists());
    let lines = std::fs::read_to_string(vectors).unwrap().lines().count();
    assert_eq!(lines, 1 + 18 + 72 + 3 + 3, "a header, all test clips, one query a style and corpus");
}

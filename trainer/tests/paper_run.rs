//! The paper's recipe on miniature encoders (the committed reference networks as published weights) and generated sounds:
//! all eight pairs and the ablations as one command, an interrupted run, a run that learns, a bundle that is served.

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use esr_encoder::{Bundle, Cancel, Encoder, Runtime};
use esr_trainer::checkpoint::Checkpoint;
use esr_trainer::data::Clip;
use esr_trainer::finetune::config::{Adversary, Finetune};
use esr_trainer::finetune::embed::Embedder;
use esr_trainer::finetune::evaluate::{evaluate, table};
use esr_trainer::finetune::export::export;
use esr_trainer::finetune::train::{load, train};
use esr_trainer::nets::conv_features::Noise;
use esr_trainer::onnx::Precision;
use esr_trainer::paper::{Plan, Run, run};
use esr_trainer::weights::read_tensors;
use tch::{Device, Tensor};

/// libtorch has one random generator per process: tests that train must not draw from it at the same time.
static GENERATOR: Mutex<()> = Mutex::new(());

const SPEECH: [(&str, &str); 2] = [("wavlm", "wavlm"), ("emotion2vec", "emotion2vec")];
const TEXT: [(&str, &str); 4] =
    [("bert", "vocab.txt"), ("roberta", "vocab.json"), ("t5", "spiece.model"), ("flan-t5", "spiece.model")];
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
train = ["{a} and {b}"]
heldout = ["{a} while {g}"]
[[style]]
name = "calm"
train = { adjective = ["calm", "gentle"] }
heldout = { adjective = ["heldout calm"] }
[[style]]
name = "angry"
train = { adjective = ["angry", "excited"] }
heldout = { adjective = ["heldout angry"] }
[[style]]
name = "whispering"
aliases = ["whisper"]
train = { adjective = ["whispered", "slow whispered"] }
heldout = { adjective = ["heldout whispering"] }
[[style]]
name = "neutral"
aliases = ["default"]
train = { adjective = ["spoken", "in a calm"] }
heldout = { adjective = ["heldout neutral"] }
[[style]]
name = "happy"
train = { adjective = ["happy", "excited"] }
heldout = { adjective = ["heldout happy"] }
[[style]]
name = "sad"
train = { adjective = ["sad", "slow and sad"] }
heldout = { adjective = ["heldout sad"] }
[[style]]
name = "surprise"
train = { adjective = ["very excited", "fast"] }
heldout = { adjective = ["heldout surprise"] }
"#;

fn reference(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference").join(name)
}

/// The reference networks' weights under their published names, and the tokenizers.
fn write_weights(folder: &Path) {
    for (name, _) in SPEECH.into_iter().chain(TEXT) {
        let all = read_tensors(&reference(&format!("{name}.safetensors"))).unwrap();
        let weights: Vec<(String, Tensor)> = all
            .into_iter()
            .filter_map(|(key, tensor)| Some((key.strip_prefix("weights/")?.to_string(), tensor)))
            .collect();
        Tensor::write_safetensors(&weights, folder.join(format!("{name}.safetensors"))).unwrap();
    }
    for name in ["vocab.txt", "vocab.json", "merges.txt", "spiece.model"] {
        std::fs::copy(reference(name), folder.join(name)).unwrap();
    }
}

/// What each style sounds like: hertz of a tone and share of noise.
fn sound(style: &str) -> (f32, f32) {
    match style.to_lowercase().as_str() {
        "angry" | "ang" => (900.0, 0.2),
        "whisper" => (0.0, 0.5),
        "happy" | "hap" => (600.0, 0.05),
        "sad" => (90.0, 0.05),
        "surprise" => (1400.0, 0.1),
        _ => (150.0, 0.02),
    }
}

/// A WAV file with the sound of a style on each channel; a voice is a little higher or lower than another.
fn write_wav(file: &Path, rate: u32, seconds: f32, styles: &[&str], voice: usize) {
    let format = hound::WavSpec {
        channels: styles.len() as u16,
        sample_rate: rate,
        bits_per_sample: 16,
        sample_format: hound::SampleFormat::Int,
    };
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    let mut writer = hound::WavWriter::create(file, format).unwrap();
    let mut state = voice as u32 + 1;
    for n in 0..(seconds * rate as f32) as usize {
        for style in styles {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let random = (state >> 8) as f32 / (1 << 23) as f32 - 1.0;
            let (hertz, noise) = sound(style);
            let pitch = hertz * (1.0 + 0.02 * voice as f32);
            let tone = (n as f32 / rate as f32 * pitch * std::f32::consts::TAU).sin();
            writer.write_sample(((tone * 0.4 + random * noise) * 12_000.0) as i16).unwrap();
        }
    }
    writer.finalize().unwrap();
}

/// Corpora with manifests, by speakers who are for training, choosing and testing.
fn write_corpora(root: &Path, takes: usize) {
    std::fs::create_dir_all(root.join("splits")).unwrap();
    std::fs::write(root.join("prompts.toml"), PROMPTS).unwrap();
    for (corpus, styles) in [("iemocap", 2), ("esd", 3), ("expresso", 2)] {
        let folder = root.join(corpus);
        let (mut manifest, mut split) = (String::from("path,speaker,style\n"), String::from("speaker,split\n"));
        for (speaker, role) in ["train", "train", "train", "val", "test"].into_iter().enumerate() {
            split += &format!("s{speaker},{role}\n");
            for style in &["calm", "angry", "whisper"][..styles] {
                for take in 0..takes {
                    let name = format!("s{speaker}_{style}_{take}.wav");
                    write_wav(&folder.join(&name), 16_000, 0.19 + 0.05 * take as f32, &[style], speaker);
                    manifest += &format!("{name},s{speaker},{style}\n");
                }
            }
        }
        std::fs::write(folder.join("manifest.csv"), manifest).unwrap();
        std::fs::write(root.join(format!("splits/{corpus}.csv")), split).unwrap();
    }
}

/// The three data sets in the layouts in which their owners give them out, as small as they can be.
fn write_sets(root: &Path) {
    for session in 1..=5 {
        let dialogue = format!("Ses0{session}F_impro01");
        let folder = root.join(format!("IEMOCAP/Session{session}"));
        let mut lines = String::from("% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]\n\n");
        for (n, label) in ["neu", "ang", "xxx"].into_iter().enumerate() {
            let turn = format!("{dialogue}_F00{n}");
            lines += &format!("[{n}.0000 - {n}.2500]\t{turn}\t{label}\t[2.5000, 2.5000, 2.5000]\n");
            write_wav(&folder.join(format!("sentences/wav/{dialogue}/{turn}.wav")), 16_000, 0.25, &[label], session);
        }
        std::fs::create_dir_all(folder.join("dialog/EmoEvaluation")).unwrap();
        std::fs::write(folder.join(format!("dialog/EmoEvaluation/{dialogue}.txt")), lines).unwrap();
    }
    for speaker in 11..=20 {
        for (emotion, first) in [("Neutral", 1), ("Angry", 351), ("Happy", 701), ("Sad", 1051), ("Surprise", 1401)] {
            for n in 0..3 {
                let file = root.join(format!("ESD/{speaker:04}/{emotion}/{speaker:04}_{:06}.wav", first + n));
                write_wav(&file, 16_000, 0.2, &[emotion], speaker);
            }
        }
    }
    let audio = root.join("expresso/audio_48khz");
    let (mut train, mut dev, mut test) = (String::from("# recordings\n"), String::new(), String::new());
    for style in ["default", "whisper", "happy"] {
        for n in 1..=4 {
            let name = format!("ex01_{style}_0000{n}");
            write_wav(&audio.join(format!("read/ex01/{style}/base/{name}.wav")), 48_000, 0.2, &[style], n);
            *(if n < 3 {
                &mut train
            } else if n == 3 {
                &mut dev
            } else {
                &mut test
            }) += &format!("{name}\n");
        }
    }
    let talk = "ex01-ex02_happy-sad_001";
    write_wav(&audio.join(format!("conversational/ex01-ex02/happy-sad/{talk}.wav")), 48_000, 3.0, &["happy", "sad"], 1);
    train += &format!("{talk}\t(1.5s,)\n");
    test += &format!("{talk}\t(,1.5s)\n");
    std::fs::create_dir_all(root.join("expresso/splits")).unwrap();
    for (name, lines) in [("train", train), ("dev", dev), ("test", test)] {
        std::fs::write(root.join(format!("expresso/splits/{name}.txt")), lines).unwrap();
    }
}

/// The shipped config of a pair with the sizes of the reference networks, short clips and few epochs.
fn miniature(root: &Path, speech: &str, text: &str) -> toml::Table {
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("configs/paper/{speech}-{text}.toml"));
    let mut config: toml::Table = std::fs::read_to_string(shipped).unwrap().parse().unwrap();
    let backbone = |name: &str, side: &str| -> toml::Value {
        let json = std::fs::read_to_string(reference(&format!("{name}.json"))).unwrap();
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        toml::Value::try_from(&json[side]["backbone"]).unwrap()
    };
    let at = |name: &str| toml::Value::from(root.join(name).display().to_string());
    let mut set = |table: &str, key: &str, value: toml::Value| {
        config[table].as_table_mut().unwrap().insert(key.into(), value);
    };
    for (key, name) in [("splits", "splits"), ("prompts", "prompts.toml"), ("work", "work"), ("root", ".")] {
        set("data", key, at(name));
    }
    set("data", "shortest", 0.1.into());
    set("data", "longest", 2.0.into());
    set("text", "max_tokens", 24.into());
    let tokenizer = TEXT.iter().find(|(name, _)| *name == text).unwrap().1;
    set("speech", "weights", format!("{speech}.safetensors").into());
    set("text", "weights", format!("{text}.safetensors").into());
    set("text", "tokenizer", tokenizer.into());
    for (key, value) in [
        ("epochs", 3),
        ("batch", 6),
        ("contrastive_from", 1),
        ("discriminator_from", 2),
        ("keep_every", 2),
        ("keep_all_from", 0),
    ] {
        set("training", key, value.into());
    }
    for (key, value) in [("crop", 0.25), ("rate", 1e-2), ("classifier_rate", 1e-2), ("discriminator_rate", 1e-3)] {
        set("training", key, value.into());
    }
    set("training", "device", "cpu".into());
    config["speech"]["net"].as_table_mut().unwrap().insert("backbone".into(), backbone(speech, "speech"));
    config["text"]["net"].as_table_mut().unwrap().insert("backbone".into(), backbone(text, "text"));
    config.insert("dimension".into(), 10.into());
    config
}

/// One config, with weights and work folder below `root`.
fn single(root: &Path, speech: &str, text: &str, work: &str) -> Finetune {
    let mut config: Finetune = miniature(root, speech, text).try_into().unwrap();
    config.data.work = root.join(work);
    // The corpora with manifests.
    config.data.sets.clear();
    for path in [&mut config.speech.weights, &mut config.text.weights, &mut config.text.tokenizer] {
        *path = root.join("weights").join(&*path);
    }
    config
}

/// A folder with weights and corpora, and the right to draw random numbers.
fn ground(takes: usize) -> (MutexGuard<'static, ()>, tempfile::TempDir) {
    let alone = GENERATOR.lock().unwrap_or_else(PoisonError::into_inner);
    tch::set_num_threads(1);
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(folder.path().join("weights")).unwrap();
    write_weights(&folder.path().join("weights"));
    write_corpora(folder.path(), takes);
    (alone, folder)
}

fn weights_of(config: &Finetune) -> Vec<(String, Vec<f32>)> {
    let best = Checkpoint::load(&config.data.work, None).unwrap().unwrap().best();
    best.into_iter().map(|(k, t)| (k, Vec::try_from(t.flatten(0, -1)).unwrap())).collect()
}

#[test]
fn eight_pairs_and_the_ablations_in_one_command() {
    let (_alone, folder) = ground(1);
    let root = folder.path();
    write_sets(&root.join("sets"));
    std::fs::create_dir_all(root.join("configs")).unwrap();
    for (speech, _) in SPEECH {
        for (text, _) in TEXT {
            let mut config = miniature(root, speech, text);
            for (key, value) in [("validate_every", 0), ("epochs", 2), ("discriminator_from", 1)] {
                config["training"].as_table_mut().unwrap().insert(key.into(), value.into());
            }
            std::fs::write(root.join(format!("configs/{speech}-{text}.toml")), toml::to_string(&config).unwrap())
                .unwrap();
        }
    }
    let plan = Plan {
        data: root.join("sets"),
        weights: root.join("weights"),
        configs: root.join("configs"),
        work: root.join("paper"),
        seeds: vec![1, 2],
        ablate: "emotion2vec-roberta".into(),
    };
    let report = run(&plan).unwrap();
    let runs: Vec<Run> =
        serde_json::from_str(&std::fs::read_to_string(root.join("paper/results.json")).unwrap()).unwrap();
    assert_eq!(runs.len(), 2 * (8 + 7));
    // IEMOCAP is only trained on; the first of 3 clips of a speaker and emotion of ESD is for choosing, the second for testing;
    // by file, all of a conversation is trained on.
    for run in &runs {
        let found: Vec<(&str, usize, usize)> =
            run.corpora.iter().map(|c| (c.corpus.as_str(), c.clips, c.styles.len())).collect();
        assert_eq!(found, [("esd", 50, 5), ("expresso", 3, 3)]);
    }
    // Two seeds of one run differ, and so does a run with a part left out.
    let find = |without: usize, seed| {
        runs.iter().find(|r| r.name == plan.ablate && r.without.len() == without && r.seed == seed).unwrap()
    };
    let precisions = |r: &Run| r.corpora.iter().map(|c| c.mean.precision).collect::<Vec<_>>();
    assert!(precisions(find(0, 1)) != precisions(find(0, 2)) || precisions(find(0, 1)) != precisions(find(3, 1)));
    for line in [
        "| wavlm-flan-t5 | ",
        "| full method | ",
        "| without adversary and augmentation and classifier | ",
        "| chance | ",
    ] {
        assert_eq!(report.lines().filter(|l| l.starts_with(line)).count() % 2, 0, "{line}\n{report}");
        assert!(report.contains(line), "{line}\n{report}");
    }
    assert!(report.contains(" ± ") && report.contains("| esd | 0 to 1 s | 50 |"), "{report}");
    let drawing = std::fs::read_to_string(root.join("paper/wavlm-t5/seed-1/tsne-esd.svg")).unwrap();
    assert!(drawing.contains("<svg") && drawing.contains("surprise"));
    // A second call finds everything done.
    let file = root.join("paper/emotion2vec-bert/seed-1/checkpoint.safetensors");
    let written = std::fs::metadata(&file).unwrap().modified().unwrap();
    assert_eq!(run(&plan).unwrap(), report);
    assert_eq!(std::fs::metadata(&file).unwrap().modified().unwrap(), written);
    let unknown = run(&Plan { ablate: "whisper-bert".into(), ..plan }).unwrap_err();
    assert!(unknown.to_string().contains("whisper-bert"), "{unknown}");
}

#[test]
fn an_interrupted_run_equals_an_unbroken_one() {
    let (_alone, folder) = ground(2);
    let root = folder.path();
    let broken = single(root, "wavlm", "bert", "broken");
    train(&broken, false, Some(1)).unwrap();
    train(&broken, false, None).unwrap();
    let mut whole = single(root, "wavlm", "bert", "whole");
    // Threads don't change what is heard.
    whole.training.workers = 3;
    train(&whole, false, None).unwrap();
    for ((name, a), (_, b)) in weights_of(&broken).iter().zip(&weights_of(&whole)) {
        assert!(a == b, "{name} differs between an interrupted and an unbroken run");
    }
    assert!(broken.data.work.join("epoch-2.safetensors").exists());
    let lines = std::fs::read_to_string(broken.data.work.join("metrics.jsonl")).unwrap();
    let lines: Vec<&str> = lines.lines().collect();
    assert_eq!(lines.len(), 3);
    assert!(
        !lines[0].contains("contrastive") && lines[1].contains("contrastive") && !lines[1].contains("discriminator")
    );
    assert!(lines[2].contains("discriminator") && lines[2].contains("validation"));
    // Another config does not go on with this checkpoint.
    let other = Finetune { dimension: 11, ..broken };
    assert!(train(&other, false, None).unwrap_err().to_string().contains("another config"));
}

#[test]
fn a_run_learns_and_is_served() {
    let (_alone, folder) = ground(3);
    let root = folder.path();
    for (speech, text) in [("wavlm", "flan-t5"), ("emotion2vec", "flan-t5")] {
        let mut config = single(root, speech, text, speech);
        config.training.epochs = 24;
        (config.training.rate, config.training.classifier_rate) = (3e-3, 3e-3);
        config.training.adversary = Adversary::Paper;
        config.text.net.dropout = 0.0;
        config.speech.net.noise = Some(Noise::default());
        config.speech.net.mask = true;
        train(&config, false, None).unwrap();
        let evaluation = evaluate(&config).unwrap();
        let results = &evaluation.corpora;
        let above: f64 = results.iter().map(|r| r.mean.precision - r.chance.precision).sum::<f64>() / 3.0;
        assert!(above > 0.12, "{speech}: mAP is only {above} above chance\n{}", table(results));
        let bundle = root.join(format!("{speech}-bundle"));
        export(&config, &bundle, Precision::Float, results).unwrap();
        assert!(std::fs::read_to_string(bundle.join("MODEL_CARD.md")).unwrap().contains("| esd | 9 |"));

        // Production embeds clips and texts as the trainer does, in batches of different lengths.
        let params = load(&config, Device::Cpu).unwrap().unwrap();
        let embedder = Embedder::new(&config, &params, Device::Cpu).unwrap();
        let clip = |name: &str| Clip {
            corpus: "esd".into(),
            path: root.join("esd").join(name),
            speaker: String::new(),
            styles: vec![],
            seconds: 0.0,
        };
        let clips = [clip("s4_calm_0.wav"), clip("s4_angry_2.wav"), clip("s4_whisper_1.wav")];
        let runtime = Runtime::load(&esr_encoder::runtime::default_library(), 1).unwrap();
        let mut served = Encoder::load(&Bundle::open(&bundle).unwrap(), &runtime).unwrap();
        let waveforms: Vec<_> =
            clips.iter().map(|c| esr_trainer::audio_file::waveform(&c.path, 16_000).unwrap()).collect();
        let near = |ours: Tensor, theirs: Vec<esr_encoder::Embedding>| {
            for (n, theirs) in theirs.iter().enumerate() {
                let ours = Vec::<f32>::try_from(ours.get(n as i64)).unwrap();
                let worst = ours.iter().zip(theirs.as_slice()).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                assert!(worst < 1e-4, "{speech}: {worst}");
            }
        };
        near(embedder.clips(&clips, None).unwrap().0, served.embed_speech(&waveforms, &Cancel::default()).unwrap());
        let texts = ["a calm voice", "whispered", "someone who is very angry indeed"];
        let owned = texts.map(String::from);
        near(embedder.texts(&owned).unwrap(), served.embed_texts(&texts, &Cancel::default()).unwrap());
    }
}

#[test]
fn the_adversary_has_two_readings() {
    let (_alone, folder) = ground(1);
    let mut recipe = single(folder.path(), "wavlm", "bert", "unused").training;
    recipe.discriminator = 0.1;
    for (reading, weight) in [(Adversary::Paper, 0.1), (Adversary::Released, 1.1)] {
        recipe.adversary = reading;
        assert!((recipe.adversarial_weight() - weight).abs() < 1e-12);
    }
    recipe.discriminator = 0.0;
    assert_eq!(recipe.adversarial_weight(), 0.0);
}

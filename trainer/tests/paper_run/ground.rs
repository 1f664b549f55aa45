//! What the runs stand on: miniature networks, corpora of generated sounds, prompts, and configurations that name them.

use std::path::Path;
use std::sync::MutexGuard;

use esr_trainer::finetune::config::Finetune;
use esr_trainer::weights::read_tensors;
use tch::Tensor;

use crate::runs::{alone, write_tones};

pub const SPEECH: [(&str, &str); 2] = [("wavlm", "wavlm"), ("emotion2vec", "emotion2vec")];
pub const TEXT: [(&str, &str); 4] =
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
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    let channels: Vec<(f32, f32)> = styles.iter().map(|style| sound(style)).collect();
    write_tones(file, rate, (seconds * rate as f32) as usize, &channels, voice, &mut (voice as u32 + 1));
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
pub fn write_sets(root: &Path) {
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
pub fn miniature(root: &Path, speech: &str, text: &str) -> toml::Table {
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
pub fn single(root: &Path, speech: &str, text: &str, work: &str) -> Finetune {
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
pub fn ground(takes: usize) -> (MutexGuard<'static, ()>, tempfile::TempDir) {
    let alone = alone();
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(folder.path().join("weights")).unwrap();
    write_weights(&folder.path().join("weights"));
    write_corpora(folder.path(), takes);
    (alone, folder)
}

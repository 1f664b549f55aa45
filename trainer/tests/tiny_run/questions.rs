//! The protocol and the questions, asked of a tiny run.

use std::path::Path;

use esr_trainer::config::Config;
use esr_trainer::prepare::{Form, prepare};
use esr_trainer::train::train;
use esr_trainer::tune_text::tune_text;

use crate::ground::{config, ground};

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

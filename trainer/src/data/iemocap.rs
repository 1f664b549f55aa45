//! IEMOCAP as its owners give it out: `Session{1-5}/dialog/EmoEvaluation/*.txt` holds one line a turn,
//! `[start - end]<TAB>turn<TAB>label<TAB>[valence, activation, dominance]`, whose label is the one that most annotators
//! agreed on; the turn's sound is `Session{n}/sentences/wav/{dialogue}/{turn}.wav`.
//!
//! The paper's released code takes the label from the column `major_emotion` of a copy of the set, keeps nine of them and
//! trains on everything; so does this, with the labels of the owners' files.

use anyhow::{Result, ensure};

use super::source::{Listed, Source};
use super::splits::Split;

const SESSIONS: std::ops::RangeInclusive<usize> = 1..=5;
/// Short labels and the words that the released code knows them by. Turns labelled `oth` or `xxx` (no agreement) are left
/// out.
const KEPT: [(&str, &str); 9] = [
    ("ang", "angry"),
    ("dis", "disgust"),
    ("exc", "excited"),
    ("fea", "fear"),
    ("fru", "frustrated"),
    ("hap", "happy"),
    ("neu", "neutral"),
    ("sad", "sad"),
    ("sur", "surprise"),
];
const LEFT_OUT: [&str; 2] = ["oth", "xxx"];

pub(super) fn read(set: &Source<'_>) -> Result<Vec<Listed>> {
    let mut all = vec![];
    for session in SESSIONS {
        let folder = set.folder.join(format!("Session{session}"));
        let labels = folder.join("dialog/EmoEvaluation");
        let dialogues = set.names(&labels)?;
        for name in dialogues.iter().filter(|name| name.ends_with(".txt")) {
            let file = labels.join(name);
            let dialogue = name.trim_end_matches(".txt");
            for (number, line) in set.text(&file)?.lines().enumerate() {
                let Some(turn) = Turn::parse(line) else { continue };
                let Some((_, label)) = KEPT.iter().find(|(short, _)| *short == turn.label) else {
                    ensure!(
                        LEFT_OUT.contains(&turn.label),
                        "{} line {}: the label {:?} is none of IEMOCAP's; is the file damaged?",
                        file.display(),
                        number + 1,
                        turn.label
                    );
                    continue;
                };
                let path = folder.join("sentences/wav").join(dialogue).join(format!("{}.wav", turn.name));
                set.need(&path)?;
                let clip = set.clip(path, format!("iemocap_{}", turn.speaker), label, turn.seconds)?;
                all.push(Listed { clip, split: Split::Train });
            }
        }
    }
    Ok(all)
}

/// A line about one turn.
#[derive(Debug, PartialEq)]
struct Turn<'a> {
    name: &'a str,
    /// Session and gender, such as `Ses01F`: the first part of the name with the letter of the one who speaks.
    speaker: String,
    label: &'a str,
    seconds: f32,
}

impl<'a> Turn<'a> {
    /// `None` for lines of single annotators, headings and empty lines.
    fn parse(line: &'a str) -> Option<Self> {
        let mut fields = line.split('\t');
        let times = fields.next()?.trim().strip_prefix('[')?.strip_suffix(']')?;
        let (from, until) = times.split_once('-')?;
        let (from, until): (f32, f32) = (from.trim().parse().ok()?, until.trim().parse().ok()?);
        let (name, label) = (fields.next()?.trim(), fields.next()?.trim());
        let session = name.get(..5)?;
        let who = name.rsplit('_').next()?.chars().next()?;
        Some(Self { name, speaker: format!("{session}{who}"), label, seconds: until - from })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::Path;

    use super::*;
    use crate::data::sets::{Kind, Set};
    use crate::prompts::Prompts;

    #[test]
    fn only_lines_of_turns_are_read() {
        let turn = Turn::parse("[6.2901 - 8.2357]\tSes01F_impro01_M000\tneu\t[2.5000, 2.5000, 2.5000]").unwrap();
        assert_eq!((turn.name, turn.speaker.as_str(), turn.label), ("Ses01F_impro01_M000", "Ses01M", "neu"));
        assert!((turn.seconds - 1.9456).abs() < 1e-4);
        for line in
            ["% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]", "", "C-E2:\tNeutral;\t()", "A-E3:\tval 3;\t()"]
        {
            assert_eq!(Turn::parse(line), None, "{line}");
        }
    }

    /// The five sessions with as many turns of each label as the set has: neu 1708, fru 1849, and so on.
    fn write_tree(root: &Path) {
        let counts = [
            ("neu", 1708),
            ("ang", 1103),
            ("sad", 1084),
            ("hap", 595),
            ("exc", 1041),
            ("fru", 1849),
            ("fea", 40),
            ("sur", 107),
            ("dis", 2),
            ("oth", 3),
            ("xxx", 2507),
        ];
        let labels: Vec<&str> = counts.iter().flat_map(|(label, n)| std::iter::repeat_n(*label, *n)).collect();
        for session in 1..=5 {
            let folder = root.join(format!("Session{session}"));
            let evaluation = folder.join("dialog/EmoEvaluation");
            std::fs::create_dir_all(evaluation.join("Categorical")).unwrap();
            std::fs::write(evaluation.join("._Ses.txt"), [0u8, 5, 22, 7, 200]).unwrap();
            for (part, gender) in ["F", "M"].iter().enumerate() {
                let dialogue = format!("Ses0{session}{gender}_impro01");
                let wav = folder.join("sentences/wav").join(&dialogue);
                std::fs::create_dir_all(&wav).unwrap();
                let mut text = String::from("% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]\n\n");
                for (n, label) in labels.iter().enumerate().filter(|(n, _)| n % 10 == 2 * (session - 1) + part) {
                    let name = format!("{dialogue}_{}{n:05}", if n % 20 < 10 { "F" } else { "M" });
                    text += &format!("[{n}.0000 - {}.5000]\t{name}\t{label}\t[2.5, 2.5, 2.5]\n", n + 2);
                    text += "C-E1:\tNeutral;\t()\nA-E1:\tval 3; act 2; dom  2;\t()\n\n";
                    std::fs::write(wav.join(format!("{name}.wav")), "").unwrap();
                }
                std::fs::write(evaluation.join(format!("{dialogue}.txt")), text).unwrap();
            }
        }
    }

    #[test]
    fn a_whole_tree_gives_what_the_set_has() {
        let folder = tempfile::tempdir().unwrap();
        write_tree(folder.path());
        let prompts = Prompts::parse(include_str!("../../data/prompts.toml")).unwrap();
        let set = Set { kind: Kind::Iemocap, path: ".".into() };
        let all = set.read("iemocap", folder.path(), folder.path(), &prompts).unwrap();
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        let mut speakers = std::collections::BTreeSet::new();
        for listed in &all {
            *counts.entry(&listed.clip.styles[0]).or_default() += 1;
            speakers.insert(&listed.clip.speaker);
            assert_eq!((listed.split, listed.clip.seconds), (Split::Train, 2.5));
        }
        assert_eq!((all.len(), speakers.len()), (10_039 - 2510, 10));
        assert_eq!((counts["frustrated"], counts["disgusted"], counts["fearful"]), (1849, 2, 40));

        // A clip that is gone is named.
        std::fs::remove_file(&all[0].clip.path).unwrap();
        let error = format!("{:#}", set.read("iemocap", folder.path(), folder.path(), &prompts).unwrap_err());
        assert!(error.contains(all[0].clip.path.file_name().unwrap().to_str().unwrap()), "{error}");
    }
}

//! ESD as its owners give it out: `{speaker}/{Emotion}/{speaker}_{6 digits}.wav`, in older copies with a folder
//! `train`, `test` or `evaluation` below the emotion. The split is that of the paper's released code: of each speaker and
//! emotion, sorted by name, the first 20 are for choosing, the next 30 for testing, the rest for training. So speakers
//! are heard in every role, but no sentence is. Where a copy has not all 350 clips of a speaker and emotion, the same shares
//! are taken and a warning is printed.

use std::path::{Path, PathBuf};

use anyhow::Result;

use super::source::{Listed, Source};
use super::splits::Split;

const EMOTIONS: [&str; 5] = ["Angry", "Happy", "Neutral", "Sad", "Surprise"];
/// Clips of a speaker and emotion in the whole set.
const EACH: usize = 350;
const FOR_CHOOSING: usize = 20;
const FOR_TESTING: usize = 30;

pub(super) fn read(set: &Source<'_>, speakers: std::ops::RangeInclusive<usize>) -> Result<Vec<Listed>> {
    let mut all = vec![];
    for speaker in speakers {
        for emotion in EMOTIONS {
            let folder = set.folder.join(format!("{speaker:04}")).join(emotion);
            let mut files = vec![];
            find(set, &folder, &mut files)?;
            files.sort_by(|a, b| a.file_name().cmp(&b.file_name()));
            let count = files.len();
            if count != EACH {
                eprintln!(
                    "warning: {} holds {count} WAV files, not {EACH}: not the split of the paper",
                    folder.display()
                );
            }
            for (place, file) in files.into_iter().enumerate() {
                let clip = set.clip(file, format!("esd_{speaker:04}"), emotion, 0.0)?;
                all.push(Listed { clip, split: role(place, count) });
            }
        }
    }
    Ok(all)
}

/// The role of the clip at a place, counted from 0, among the sorted `count` clips of a speaker and emotion.
fn role(place: usize, count: usize) -> Split {
    let share = |of: usize| (of * count).div_ceil(EACH);
    match place {
        _ if place < share(FOR_CHOOSING) => Split::Val,
        _ if place < share(FOR_CHOOSING) + share(FOR_TESTING) => Split::Test,
        _ => Split::Train,
    }
}

fn find(set: &Source<'_>, folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for name in set.names(folder)? {
        let path = folder.join(&name);
        if path.is_dir() {
            find(set, &path, files)?;
        } else if name.to_lowercase().ends_with(".wav") {
            files.push(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::data::sets::{Kind, Set};
    use crate::prompts::Prompts;

    /// All 35,000 names of ESD, without sound; the Mandarin half in the older layout.
    fn write_tree(root: &Path) {
        for speaker in 1..=20 {
            for (emotion, first) in [("Neutral", 1), ("Angry", 351), ("Happy", 701), ("Sad", 1051), ("Surprise", 1401)]
            {
                let folder = root.join(format!("{speaker:04}/{emotion}"));
                for n in 0..350 {
                    let part = match n {
                        _ if speaker > 10 => "",
                        0..20 => "evaluation",
                        20..50 => "test",
                        _ => "train",
                    };
                    let folder = folder.join(part);
                    if n == 0 || n == 20 || n == 50 {
                        std::fs::create_dir_all(&folder).unwrap();
                    }
                    std::fs::write(folder.join(format!("{speaker:04}_{:06}.wav", first + n)), "").unwrap();
                }
            }
            std::fs::write(root.join(format!("{speaker:04}/{speaker:04}.txt")), "").unwrap();
        }
    }

    #[test]
    fn the_whole_set_is_split_as_released() {
        let folder = tempfile::tempdir().unwrap();
        write_tree(folder.path());
        let prompts = Prompts::parse(include_str!("../../data/prompts.toml")).unwrap();
        for (kind, first) in [(Kind::EsdEnglish, 11), (Kind::EsdMandarin, 1)] {
            let set = Set { kind, path: ".".into() };
            let all = set.read("esd", folder.path(), folder.path(), &prompts).unwrap();
            let mut counts: BTreeMap<Split, usize> = BTreeMap::new();
            let mut sentences: BTreeMap<usize, Split> = BTreeMap::new();
            for listed in &all {
                *counts.entry(listed.split).or_default() += 1;
                let name = listed.clip.path.file_stem().unwrap().to_str().unwrap();
                let sentence = (name[5..].parse::<usize>().unwrap() - 1) % 350;
                assert_eq!(*sentences.entry(sentence).or_insert(listed.split), listed.split, "sentence {sentence}");
            }
            assert_eq!((counts[&Split::Train], counts[&Split::Val], counts[&Split::Test]), (15_000, 1000, 1500));
            let angry = all.iter().find(|l| l.clip.styles == ["angry"]).unwrap();
            assert_eq!(angry.clip.speaker, format!("esd_{first:04}"));
            assert_eq!(
                (sentences[&19], sentences[&20], sentences[&49], sentences[&50]),
                (Split::Val, Split::Test, Split::Test, Split::Train)
            );
        }
        std::fs::remove_dir_all(folder.path().join("0013/Sad")).unwrap();
        let set = Set { kind: Kind::EsdEnglish, path: ".".into() };
        let error = format!("{:#}", set.read("esd", folder.path(), folder.path(), &prompts).unwrap_err());
        assert!(error.contains("0013/Sad is missing") && error.contains("https://"), "{error}");
    }

    #[test]
    fn smaller_copies_keep_the_shares() {
        let roles: Vec<Split> = (0..6).map(|place| role(place, 6)).collect();
        assert_eq!(roles, [Split::Val, Split::Test, Split::Train, Split::Train, Split::Train, Split::Train]);
        assert_eq!((0..349).filter(|place| role(*place, 349) == Split::Test).count(), 30);
    }
}

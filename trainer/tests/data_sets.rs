//! Expresso in its owners' exact layout, in miniature, with sound: what is cut where, who says it how, and which split it
//! falls into under both readings. IEMOCAP and ESD need no sound and are tested beside their readers.

use std::collections::BTreeMap;
use std::path::Path;

use esr_trainer::audio_file;
use esr_trainer::data::sets::{Kind, Listed, Set};
use esr_trainer::prompts::Prompts;

const RATE: u32 = 48_000;

fn prompts() -> Prompts {
    Prompts::parse(include_str!("../data/prompts.toml")).unwrap()
}

/// A tone on each channel while one of its stretches (in seconds) lasts, else silence.
fn write_wav(file: &Path, seconds: f64, channels: &[(f64, &[(f64, f64)])]) {
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    let format = hound::WavSpec {
        channels: channels.len() as u16,
        sample_rate: RATE,
        bits_per_sample: 16,
        sample_format: hound::SampleFormat::Int,
    };
    let mut writer = hound::WavWriter::create(file, format).unwrap();
    for n in 0..(seconds * f64::from(RATE)) as usize {
        let t = n as f64 / f64::from(RATE);
        for (hertz, stretches) in channels {
            let loud = stretches.iter().any(|(from, until)| t >= *from && t < *until);
            let amplitude = if loud { 9000.0 } else { 0.0 };
            writer.write_sample((amplitude * (t * hertz * std::f64::consts::TAU).sin()) as i16).unwrap();
        }
    }
    writer.finalize().unwrap();
}

/// Two conversations, one long reading, some short ones, one of a style that is left out, and the split files.
fn write_tree(root: &Path) {
    let audio = root.join("audio_48khz");
    let talk = audio.join("conversational");
    // Left: 12 s of speech with a short gap, a long gap, 0.5 s that are too short. Right: 4 s in the middle.
    write_wav(
        &talk.join("ex01-ex02/default/ex01-ex02_default_001.wav"),
        24.0,
        &[(300.0, &[(1.0, 6.0), (7.0, 13.0), (20.0, 20.5)]), (500.0, &[(8.0, 12.0)])],
    );
    // 30 s without a pause on the left, nothing on the right.
    write_wav(
        &talk.join("ex03-ex02/sad-sympathetic/ex03-ex02_sad-sympathetic_004.wav"),
        30.0,
        &[(300.0, &[(0.0, 30.0)]), (500.0, &[])],
    );
    write_wav(
        &talk.join("ex03-ex02/child-childdir/ex03-ex02_child-childdir_001.wav"),
        3.0,
        &[(300.0, &[(0.0, 3.0)]), (500.0, &[(0.0, 3.0)])],
    );
    let read = audio.join("read");
    let short = |path: &str| write_wav(&read.join(path), 1.2, &[(200.0, &[(0.0, 1.2)])]);
    write_wav(&read.join("ex01/default/longform/ex01_default_longform_00001.wav"), 25.5, &[(250.0, &[(0.0, 25.5)])]);
    short("ex01/default/base/ex01_default_00001.wav");
    short("ex01/default/base/ex01_default_emphasis_00183.wav");
    short("ex02/happy/base/ex02_happy_00363.wav");
    short("ex02/whisper/base/ex02_whisper_00001.wav");
    short("ex02/singing/base/ex02_singing_00001.wav");
    let splits = root.join("splits");
    std::fs::create_dir_all(&splits).unwrap();
    let heading = "# If only one segment is extracted, it has a range behind its name\n";
    let train = "ex01-ex02_default_001\t(10.0s,)\nex03-ex02_sad-sympathetic_004\t(10.0s,)\nex03-ex02_child-childdir_001\n\
                 ex01_default_longform_00001\t(20.0s,)\nex01_default_00001\nex02_whisper_00001\n";
    let dev = "ex01_default_longform_00001\t(,10.0s)\nex02_happy_00363\n";
    let test = "ex01-ex02_default_001\t(,10.0s)\nex03-ex02_sad-sympathetic_004\t(,10.0s)\n\
                ex01_default_longform_00001\t(10.0s,20.0s)\nex01_default_emphasis_00183\n";
    for (name, lines) in [("train", train), ("dev", dev), ("test", test)] {
        std::fs::write(splits.join(format!("{name}.txt")), format!("{heading}{lines}")).unwrap();
    }
}

/// Style, speaker and split of each clip by the file and the piece, times rounded to tenths.
fn summary(all: &[Listed]) -> BTreeMap<String, String> {
    all.iter()
        .map(|listed| {
            let name = listed.clip.path.file_name().unwrap().to_str().unwrap();
            let (file, fragment) = name.split_once('#').unwrap_or((name, ""));
            let rounded = fragment
                .split(&['=', ',', '&'][..])
                .map(|part| part.parse::<f64>().map_or(String::new(), |t| format!(" {t:.1}")))
                .collect::<String>();
            let split = format!("{:?}", listed.split).to_lowercase();
            (format!("{file}{rounded}"), format!("{} {} {split}", listed.clip.speaker, listed.clip.class()))
        })
        .collect()
}

fn read(root: &Path, kind: Kind) -> anyhow::Result<Vec<Listed>> {
    Set { kind, path: "expresso".into() }.read("expresso", root, &root.join("cache"), &prompts())
}

#[test]
fn conversations_are_cut_and_both_readings_of_the_splits_hold() {
    let folder = tempfile::tempdir().unwrap();
    write_tree(&folder.path().join("expresso"));
    let by_file = read(folder.path(), Kind::Expresso).unwrap();
    let got = summary(&by_file);
    // Frames of 128 ms blur each edge by up to 64 ms; a stretch of 12 s becomes 10 s and what is left of it.
    let expected: BTreeMap<String, String> = [
        ("ex01-ex02_default_001.wav 1.0 11.0 0.0", "expresso_ex01 neutral train"),
        ("ex01-ex02_default_001.wav 11.0 13.1 0.0", "expresso_ex01 neutral train"),
        ("ex01-ex02_default_001.wav 8.0 12.1 1.0", "expresso_ex02 neutral train"),
        ("ex03-ex02_sad-sympathetic_004.wav 0.0 10.0 0.0", "expresso_ex03 sad train"),
        ("ex03-ex02_sad-sympathetic_004.wav 10.0 20.0 0.0", "expresso_ex03 sad train"),
        ("ex03-ex02_sad-sympathetic_004.wav 20.0 30.0 0.0", "expresso_ex03 sad train"),
        ("ex01_default_longform_00001.wav 0.0 10.0", "expresso_ex01 neutral train"),
        ("ex01_default_longform_00001.wav 10.0 20.0", "expresso_ex01 neutral train"),
        ("ex01_default_longform_00001.wav 20.0 25.5", "expresso_ex01 neutral train"),
        ("ex01_default_00001.wav", "expresso_ex01 neutral train"),
        ("ex01_default_emphasis_00183.wav", "expresso_ex01 neutral test"),
        ("ex02_happy_00363.wav", "expresso_ex02 happy val"),
        ("ex02_whisper_00001.wav", "expresso_ex02 whispering train"),
    ]
    .map(|(a, b)| (a.to_string(), b.to_string()))
    .into();
    assert_eq!(got, expected);

    let by_range = summary(&read(folder.path(), Kind::ExpressoRanges).unwrap());
    let of = |name: &str| by_range.get(name).map_or("nothing", String::as_str);
    // Pieces are cut at the ends of the ranges, and begin anew there.
    assert_eq!(of("ex01-ex02_default_001.wav 1.0 10.0 0.0"), "expresso_ex01 neutral test");
    assert_eq!(of("ex01-ex02_default_001.wav 10.0 13.1 0.0"), "expresso_ex01 neutral train");
    assert_eq!(of("ex01-ex02_default_001.wav 8.0 10.0 1.0"), "expresso_ex02 neutral test");
    assert_eq!(of("ex03-ex02_sad-sympathetic_004.wav 0.0 10.0 0.0"), "expresso_ex03 sad test");
    assert_eq!(of("ex03-ex02_sad-sympathetic_004.wav 10.0 20.0 0.0"), "expresso_ex03 sad train");
    assert_eq!(of("ex01_default_longform_00001.wav 0.0 10.0"), "expresso_ex01 neutral val");
    assert_eq!(of("ex01_default_longform_00001.wav 10.0 20.0"), "expresso_ex01 neutral test");
    assert_eq!(of("ex01_default_longform_00001.wav 20.0 25.5"), "expresso_ex01 neutral train");
    assert_eq!(by_range.len(), expected.len() + 1, "{by_range:?}");

    // A piece is the sound of its channel: twelve seconds in all on the left, at 300 Hz.
    let piece = by_file.iter().find(|l| l.clip.path.to_str().unwrap().contains("&channel=1")).unwrap();
    let samples = audio_file::read(&piece.clip.path).unwrap();
    assert!((samples.len() as f32 / 16_000.0 - piece.clip.seconds).abs() < 1e-3);
    let middle = &samples[16_000..32_000];
    let crossings = middle.windows(2).filter(|w| (w[0] < 0.0) != (w[1] < 0.0)).count();
    assert!((crossings as i64 - 1000).abs() < 4, "{crossings} crossings of zero in a second of 500 Hz");
}

#[test]
fn silences_are_remembered_and_a_missing_file_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("expresso");
    write_tree(&root);
    let first = read(folder.path(), Kind::Expresso).unwrap();
    // Were it not for the cache, a recording that is silent now would have no clips.
    let talk = root.join("audio_48khz/conversational/ex01-ex02/default/ex01-ex02_default_001.wav");
    let bytes = std::fs::metadata(&talk).unwrap().len() as usize;
    let mut silent = std::fs::read(&talk).unwrap();
    silent[44..bytes].fill(0);
    std::fs::write(&talk, silent).unwrap();
    assert_eq!(read(folder.path(), Kind::Expresso).unwrap(), first);
    std::fs::remove_dir_all(folder.path().join("cache")).unwrap();
    assert!(read(folder.path(), Kind::Expresso).unwrap().len() < first.len());

    std::fs::remove_file(&talk).unwrap();
    let error = format!("{:#}", read(folder.path(), Kind::Expresso).unwrap_err());
    assert!(error.contains("ex01-ex02_default_001.wav") && error.contains("https://"), "{error}");
    std::fs::remove_file(root.join("splits/dev.txt")).unwrap();
    let error = format!("{:#}", read(folder.path(), Kind::ExpressoRanges).unwrap_err());
    assert!(error.contains("dev.txt is missing"), "{error}");
    std::fs::write(root.join("splits/dev.txt"), "ex02_happy_00363\t(from,to)\n").unwrap();
    let error = format!("{:#}", read(folder.path(), Kind::ExpressoRanges).unwrap_err());
    assert!(error.contains("dev.txt line 1") && error.contains("(from,to)"), "{error}");
}

#[test]
fn sets_are_named_in_a_config() {
    let text = "kind = \"expresso-ranges\"\npath = \"Expresso\"\n";
    let set: Set = toml::from_str(text).unwrap();
    assert_eq!(set, Set { kind: Kind::ExpressoRanges, path: "Expresso".into() });
    assert!(toml::from_str::<Set>("kind = \"expresso-by-hand\"\npath = \"x\"\n").is_err());
}

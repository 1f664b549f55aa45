//! Every format that is promised, decoded and compared with what was written: sample formats against a naive writer,
//! compressed ones against the sine sweep they were made from (see `fixtures/make_fixtures.sh`).

use std::f64::consts::TAU;
use std::path::Path;

use esr_audio::{Container, DecodeError, Limits, Pcm, decode, info};
use proptest::prelude::*;

mod wav;
use wav::{Encoding, WavFile};

fn fixture(name: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)).unwrap()
}

/// The sweep of the fixtures at second `t`.
fn sweep(t: f64) -> f64 {
    if (0.0..0.5).contains(&t) { 0.5 * (TAU * (200.0 * t + 1000.0 * t * t)).sin() } else { 0.0 }
}

/// Largest normalised correlation of the clip with the sweep over shifts of up to 0.08 s, and the shift in seconds.
fn best_match(pcm: &Pcm) -> (f64, f64) {
    let rate = f64::from(pcm.rate());
    let energy = |values: &mut dyn Iterator<Item = f64>| values.map(|value| value * value).sum::<f64>();
    let clip_energy = energy(&mut pcm.samples().iter().map(|sample| f64::from(*sample)));
    let sweep_energy = energy(&mut (0..(rate / 2.0) as usize).map(|n| sweep(n as f64 / rate)));
    let steps = (0.08 * rate) as i64;
    (-steps..=steps)
        .map(|shift| {
            let dot: f64 = pcm
                .samples()
                .iter()
                .enumerate()
                .map(|(n, sample)| f64::from(*sample) * sweep((n as i64 - shift) as f64 / rate))
                .sum();
            (dot / (clip_energy * sweep_energy).sqrt(), shift as f64 / rate)
        })
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .unwrap()
}

fn check_fixture(name: &str, container: Container, codec: &str, rate: u32, correlation: f64) {
    let bytes = fixture(name);
    let pcm = decode(&bytes, &Limits::default()).unwrap_or_else(|error| panic!("{name}: {error}"));
    assert_eq!((pcm.rate(), pcm.channels()), (rate, 1), "{name}");
    let (got, shift) = best_match(&pcm);
    assert!(got > correlation, "{name}: correlation {got} at a shift of {shift} s");
    let seconds = pcm.frames() as f64 / f64::from(rate);
    assert!((0.49..0.68).contains(&seconds), "{name}: {seconds} s");
    let told = info(&bytes, &Limits::default()).unwrap();
    assert_eq!((told.container, told.codec.as_str(), told.rate, told.channels), (container, codec, rate, 1), "{name}");
    assert_eq!(told.frames, pcm.frames() as u64, "{name}");
}

#[test]
fn every_compressed_format_gives_the_sweep_back() {
    check_fixture("sweep.flac", Container::Flac, "flac", 8_000, 0.9999);
    check_fixture("sweep_flac.ogg", Container::Ogg, "flac", 8_000, 0.9999);
    check_fixture("sweep.ogg", Container::Ogg, "vorbis", 16_000, 0.99);
    check_fixture("sweep.mp3", Container::Mp3, "mp3", 16_000, 0.98);
    check_fixture("sweep_bare.mp3", Container::Mp3, "mp3", 16_000, 0.98);
    check_fixture("sweep.m4a", Container::Mp4, "aac", 16_000, 0.93);
    check_fixture("sweep_moov_last.m4a", Container::Mp4, "aac", 16_000, 0.93);
    check_fixture("sweep.aac", Container::Adts, "aac", 16_000, 0.93);
    check_fixture("sweep_alac.m4a", Container::Mp4, "alac", 8_000, 0.9999);
    check_fixture("sweep_alaw.wav", Container::Wav, "pcm_alaw", 16_000, 0.999);
    check_fixture("sweep_mulaw.wav", Container::Wav, "pcm_mulaw", 16_000, 0.999);
    check_fixture("sweep_adpcm_ms.wav", Container::Wav, "adpcm_ms", 16_000, 0.995);
    check_fixture("sweep_adpcm_ima.wav", Container::Wav, "adpcm_ima_wav", 16_000, 0.995);
}

#[test]
fn a_tag_and_a_picture_before_the_sound_change_nothing() {
    let plain = fixture("sweep_bare.mp3");
    let mut tagged = b"ID3\x04\0\0\0\x01\0\0".to_vec();
    tagged.extend(vec![0xffu8; 128 * 128]);
    tagged.extend([0; 300]);
    tagged.extend(&plain);
    assert_eq!(decode(&tagged, &Limits::default()).unwrap(), decode(&plain, &Limits::default()).unwrap());
}

#[test]
fn a_wav_that_was_piped_has_no_length_and_is_read_to_its_end() {
    let file = WavFile { encoding: Encoding::I16, channels: 1, rate: 8_000, extensible: false };
    let samples: Vec<f64> = (0..400).map(|n| (n as f64 * 0.3).sin() * 0.5).collect();
    let mut bytes = file.write(&samples);
    bytes[4..8].fill(0xff);
    bytes[40..44].fill(0xff);
    assert_eq!(decode(&bytes, &Limits::default()).unwrap().frames(), 400);
}

#[test]
fn limits_are_kept_and_named() {
    let file = WavFile { encoding: Encoding::I16, channels: 2, rate: 8_000, extensible: false };
    let bytes = file.write(&vec![0.25; 16_000]);
    let fine = Limits { max_bytes: bytes.len() as u64, max_seconds: 1.0, max_channels: 2, max_rate: 8_000 };
    assert_eq!(decode(&bytes, &fine).unwrap().frames(), 8_000);
    let check = |limits: Limits, message: &str| {
        assert_eq!(decode(&bytes, &limits).unwrap_err().to_string(), message);
        assert_eq!(info(&bytes, &limits).unwrap_err().to_string(), message);
    };
    check(Limits { max_bytes: 32_000, ..fine }, "the audio file has 32044 bytes, over the limit of 32000");
    let too_long = "the audio is longer than the limit of 0.5 seconds at 8000 Hz and 2 channel(s)";
    check(Limits { max_seconds: 0.5, ..fine }, too_long);
    check(Limits { max_channels: 1, ..fine }, "the audio has 2 channels, over the limit of 1");
    check(Limits { max_rate: 7_999, ..fine }, "the audio's rate is 8000 Hz, over the limit of 7999");
}

#[test]
fn a_resampled_sine_keeps_its_pitch_loudness_and_place() {
    for rate in [8_000u32, 11_025, 22_050, 24_000, 44_100, 48_000, 96_000] {
        for hz in [110.0, 440.0, 3_000.0] {
            let file = WavFile { encoding: Encoding::F32, channels: 1, rate, extensible: false };
            let tone = |n: usize, rate: u32| 0.5 * (TAU * hz * n as f64 / f64::from(rate)).sin();
            let samples: Vec<f64> = (0..rate as usize).map(|n| tone(n, rate)).collect();
            let wave = decode(&file.write(&samples), &Limits::default()).unwrap().to_model_rate(16_000).unwrap();
            assert_eq!(wave.samples().len(), 16_000);
            // Both ends ring, because the tone starts and stops there.
            let worst =
                (2_000..14_000).map(|n| (f64::from(wave.samples()[n]) - tone(n, 16_000)).abs()).fold(0.0, f64::max);
            assert!(worst < 1e-3, "{rate} Hz, tone of {hz} Hz: off by {worst}");
        }
    }
}

#[test]
fn what_the_model_rate_cannot_carry_is_removed_and_not_folded_down() {
    let file = WavFile { encoding: Encoding::F32, channels: 1, rate: 48_000, extensible: false };
    let samples: Vec<f64> = (0..48_000).map(|n| 0.5 * (TAU * 11_000.0 * f64::from(n) / 48_000.0).sin()).collect();
    let wave = decode(&file.write(&samples), &Limits::default()).unwrap().to_model_rate(16_000).unwrap();
    let loudest = wave.samples()[2_000..14_000].iter().fold(0.0f32, |loudest, sample| loudest.max(sample.abs()));
    assert!(loudest < 1e-4, "{loudest}");
}

fn encoding() -> impl Strategy<Value = Encoding> {
    proptest::sample::select(Encoding::ALL.to_vec())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_sample_format_comes_back_as_written(
        encoding in encoding(),
        channels in 1u16..9,
        rate in 1_000u32..192_001,
        extensible: bool,
        samples in proptest::collection::vec(-1.0f64..1.0, 1..300),
    ) {
        let frames = samples.len().div_ceil(channels as usize);
        let mut samples = samples;
        samples.resize(frames * channels as usize, 0.25);
        let file = WavFile { encoding, channels, rate, extensible };
        let pcm = decode(&file.write(&samples), &Limits::default()).unwrap();
        prop_assert_eq!((pcm.rate(), pcm.channels(), pcm.frames()), (rate, channels, frames));
        for (got, written) in pcm.samples().iter().zip(&samples) {
            let error = (f64::from(*got) - encoding.quantise(*written)).abs();
            prop_assert!(error < 1e-7, "{got} for {written}");
        }
    }

    #[test]
    fn mixing_down_is_the_mean(channels in 1u16..7, samples in proptest::collection::vec(-1.0f64..1.0, 12..120)) {
        let frames = samples.len() / channels as usize;
        let samples = &samples[..frames * channels as usize];
        let file = WavFile { encoding: Encoding::F64, channels, rate: 16_000, extensible: true };
        let wave = decode(&file.write(samples), &Limits::default()).unwrap().to_model_rate(16_000);
        let mean = |frame: &[f64]| frame.iter().sum::<f64>() / frame.len() as f64;
        let expected: Vec<f64> = samples.chunks_exact(channels as usize).map(mean).collect();
        let wave = wave.unwrap();
        for (got, expected) in wave.samples().iter().zip(&expected) {
            prop_assert!((f64::from(*got) - expected).abs() < 1e-6);
        }
        prop_assert_eq!(wave.samples().len(), frames);
    }

    #[test]
    fn damaged_bytes_never_panic(name in proptest::sample::select(vec!["sweep.flac", "sweep.ogg", "sweep.mp3",
        "sweep.m4a", "sweep_alac.m4a", "sweep.aac", "sweep_adpcm_ms.wav"]),
        changes in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..20))
    {
        let mut bytes = fixture(name);
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        // Whatever comes back, it comes back; sound that does come back can go on.
        if let Ok(pcm) = decode(&bytes, &Limits::default()) {
            prop_assert!(pcm.frames() > 0 && pcm.samples().iter().all(|sample| sample.is_finite()));
            let _ = pcm.to_model_rate(16_000);
        }
    }
}

#[test]
fn errors_name_the_format() {
    let check = |bytes: &[u8], expected: &str| {
        let error = decode(bytes, &Limits::default()).unwrap_err();
        assert!(error.to_string().contains(expected), "{error} lacks {expected:?}");
    };
    check(b"", "holds no samples");
    check(b"%PDF-1.7", "[25, 50, 44, 46");
    check(b"OggS", "Ogg");
    check(&fixture("sweep.flac")[..2_000], "ends too early");
    check(&fixture("sweep_alaw.wav")[..2_000], "it is truncated: its header states 8000 samples, 1942 are there");
    assert!(matches!(decode(b"RIFF\0\0\0\0WAVE", &Limits::default()), Err(DecodeError::Malformed(_))));
}

//! Files made to hurt: each must be answered by the right class of error (or by sound) within a cap on processor time
//! and on memory. The corpus is made here; nothing is downloaded. All cases run in one test, because the allocator's
//! peak belongs to the whole process.

use std::path::Path;
use std::time::Duration;

use esr_audio::{DecodeError, Limits, Pcm, WaveformError, decode};
use peak_alloc::PeakAlloc;
use rustix::time::{ClockId, clock_gettime};

mod flac;
mod wav;
use wav::{Encoding, WavFile};

#[global_allocator]
static HEAP: PeakAlloc = PeakAlloc;

const LIMITS: Limits = Limits { max_bytes: 8 << 20, max_seconds: 60.0, max_channels: 8, max_rate: 48_000 };

/// For files that are refused by their header, or that are small: buffers of a demuxer and a decoder.
const SMALL_HEAP: usize = 16 << 20;

/// For files that decode up to the limit of 60 s at 16 kHz: 3.84 MB of samples, three times while the buffer grows.
const FULL_HEAP: usize = SMALL_HEAP + 3 * 60 * 16_000 * 4;

/// Processor time for one file, in an unoptimised build on a slow machine.
const TIME: Duration = Duration::from_secs(4);

fn check(name: &str, bytes: &[u8], heap: usize, expected: impl Fn(&Result<Pcm, DecodeError>) -> bool) {
    let before = HEAP.current_usage();
    HEAP.reset_peak_usage();
    let start = thread_time();
    let result = decode(bytes, &LIMITS);
    let took = thread_time() - start;
    let peak = HEAP.peak_usage().saturating_sub(before);
    let told = match &result {
        Ok(pcm) => format!("{} frames", pcm.frames()),
        Err(error) => error.to_string(),
    };
    println!("{name}: {told} ({} ms, {} KiB)", took.as_millis(), peak >> 10);
    assert!(!told.contains("gave up"), "{name}: a decoder panicked");
    assert!(expected(&result), "{name}: {told}");
    assert!(took < TIME, "{name}: took {took:?}");
    assert!(peak < heap, "{name}: used {peak} bytes of heap, over {heap}");
}

fn thread_time() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

fn malformed(result: &Result<Pcm, DecodeError>) -> bool {
    matches!(result, Err(DecodeError::Malformed(_)))
}

fn empty(result: &Result<Pcm, DecodeError>) -> bool {
    matches!(result, Err(DecodeError::Empty))
}

fn too_long(result: &Result<Pcm, DecodeError>) -> bool {
    matches!(result, Err(DecodeError::TooLong { .. }))
}

/// Damage whose class depends on where it lies: any error, or sound, but never a panic.
fn answered(_: &Result<Pcm, DecodeError>) -> bool {
    true
}

fn refused(result: &Result<Pcm, DecodeError>) -> bool {
    result.is_err()
}

fn fixture(name: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)).unwrap()
}

const FIXTURES: [&str; 13] = [
    "sweep.flac",
    "sweep_flac.ogg",
    "sweep.ogg",
    "sweep.mp3",
    "sweep_bare.mp3",
    "sweep.m4a",
    "sweep_moov_last.m4a",
    "sweep.aac",
    "sweep_alac.m4a",
    "sweep_alaw.wav",
    "sweep_mulaw.wav",
    "sweep_adpcm_ms.wav",
    "sweep_adpcm_ima.wav",
];

#[test]
fn hostile_files_are_answered_in_bounded_time_and_memory() {
    // The codec tables are built once per process and are not the first file's fault.
    decode(&fixture("sweep.mp3"), &LIMITS).unwrap();
    wav_headers_that_lie();
    samples_that_are_no_sound();
    bombs();
    tags_and_metadata();
    mp4_tables();
    garbage_behind_a_magic();
    truncation_at_every_place();
}

fn wav_headers_that_lie() {
    let plain = WavFile { encoding: Encoding::I16, channels: 1, rate: 16_000, extensible: false };
    let second = [7u8; 32_000];
    check("an honest file", &plain.with_data(&second, 32_000), SMALL_HEAP, |result| result.is_ok());
    check("zero bytes", b"", SMALL_HEAP, empty);
    check("no samples", &plain.with_data(&[], 0), SMALL_HEAP, empty);
    check("ten hours in 44 bytes", &plain.with_data(&[], 16_000 * 2 * 36_000), SMALL_HEAP, too_long);
    check("ten seconds stated, one there", &plain.with_data(&second, 320_000), SMALL_HEAP, malformed);
    check("a second stated, none there", &plain.with_data(&[], 32_000), SMALL_HEAP, malformed);
    check("half a sample", &plain.with_data(&[1], 1), SMALL_HEAP, refused);
    let slow = WavFile { rate: 0, ..plain };
    check("a rate of zero", &slow.with_data(&second, 32_000), SMALL_HEAP, refused);
    let slow = WavFile { rate: 1, ..plain };
    check("a rate of 1 Hz", &slow.with_data(&second, 32_000), SMALL_HEAP, malformed);
    let fast = WavFile { rate: u32::MAX, ..plain };
    check("a rate of 4 GHz", &fast.with_data(&second, 32_000), SMALL_HEAP, |result| {
        matches!(result, Err(DecodeError::RateTooHigh { rate: u32::MAX, .. }))
    });
    for extensible in [false, true] {
        let none = WavFile { channels: 0, extensible, ..plain };
        check("no channels", &none.with_data(&second, 32_000), SMALL_HEAP, refused);
        let many = WavFile { channels: 65_535, extensible, ..plain };
        check("65,535 channels", &many.with_data(&second, 32_000), SMALL_HEAP, refused);
        let nine = WavFile { channels: 9, extensible, ..plain };
        check("nine channels", &nine.with_data(&second, 32_000), SMALL_HEAP, |result| {
            matches!(result, Err(DecodeError::TooManyChannels { channels: 9, limit: 8 }))
        });
    }
    let mut bits = plain.with_data(&second, 32_000);
    bits[34..36].copy_from_slice(&65_535u16.to_le_bytes());
    check("65,535 bits a sample", &bits, SMALL_HEAP, refused);
    let mut block = plain.with_data(&second, 32_000);
    block[32..34].fill(0);
    check("a block of no bytes", &block, SMALL_HEAP, answered);
    check("over the byte limit", &plain.with_data(&vec![7; 9 << 20], 9 << 20), SMALL_HEAP, |result| {
        matches!(result, Err(DecodeError::TooManyBytes { .. }))
    });
}

fn samples_that_are_no_sound() {
    for encoding in [Encoding::F32, Encoding::F64] {
        let file = WavFile { encoding, channels: 2, rate: 16_000, extensible: false };
        for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 1e30] {
            let mut samples = vec![0.5; 4_000];
            samples[3_001] = value;
            check(&format!("{value} in {encoding:?}"), &file.write(&samples), SMALL_HEAP, malformed);
        }
    }
    let file = WavFile { encoding: Encoding::I16, channels: 1, rate: 16_000, extensible: false };
    let silence = decode(&file.write(&vec![0.0; 16_000]), &LIMITS).unwrap();
    assert_eq!(silence.to_model_rate(16_000), Err(WaveformError::Silent));
    let opposite: Vec<f64> = (0..16_000).map(|n| if n % 2 == 0 { 0.5 } else { -0.5 }).collect();
    let cancelling = decode(&WavFile { channels: 2, ..file }.write(&opposite), &LIMITS).unwrap();
    assert_eq!(cancelling.to_model_rate(16_000), Err(WaveformError::Silent));
}

fn bombs() {
    // Ten hours of silence in 130 KB of FLAC, first with an honest length and then with none.
    let frames_per_block = 65_535;
    let blocks = 16_000 * 36_000 / frames_per_block as u64;
    let total = blocks * u64::from(frames_per_block);
    check("FLAC bomb, length stated", &flac::silence(16_000, 1, frames_per_block, blocks, total), SMALL_HEAP, too_long);
    let unstated = flac::silence(16_000, 1, frames_per_block, blocks, 0);
    check("FLAC bomb, no length", &unstated, FULL_HEAP, too_long);
    let wide = flac::silence(16_000, 8, frames_per_block, blocks, 0);
    check("FLAC bomb, eight channels", &wide, SMALL_HEAP + 8 * (FULL_HEAP - SMALL_HEAP), too_long);
    let lying = flac::silence(16_000, 1, 16_000, 3, 16_000 * 59);
    check("FLAC that states more than it has", &lying, FULL_HEAP, malformed);
    check("FLAC of one honest block", &flac::silence(16_000, 1, 16_000, 1, 16_000), SMALL_HEAP, |result| {
        result.as_ref().is_ok_and(|pcm| pcm.frames() == 16_000 && pcm.samples().iter().all(|sample| *sample == 0.0))
    });
    check("FLAC of two blocks and no stated length", &flac::silence(16_000, 1, 16_000, 2, 0), SMALL_HEAP, |result| {
        result.as_ref().is_ok_and(|pcm| pcm.frames() == 32_000)
    });
    check("FLAC without a block", &flac::silence(16_000, 1, 4_096, 0, 0), SMALL_HEAP, refused);
    // The same half second over and over is a valid MP3 or AAC stream of any length.
    check("MP3 of eleven minutes", &fixture("sweep_bare.mp3").repeat(1_300), FULL_HEAP, too_long);
    check("AAC of eleven minutes", &fixture("sweep.aac").repeat(1_300), FULL_HEAP, too_long);
    check("a thousand Ogg files in a row", &fixture("sweep.ogg").repeat(1_000), FULL_HEAP, answered);
}

fn tags_and_metadata() {
    let mut tag = b"ID3\x04\0\0\x7f\x7f\x7f\x7f".to_vec();
    tag.resize(33, 0xff);
    check("33 bytes of ID3 that state 256 MiB", &tag, SMALL_HEAP, refused);
    let mut tag = b"ID3\x03\0\0\0\0\0\x17".to_vec();
    tag.resize(33, 0);
    check("33 bytes of ID3 and nothing behind", &tag, SMALL_HEAP, refused);
    let mut picture = fixture("sweep.flac");
    // A picture block of 16 MiB before the last metadata block; nothing of it is there.
    picture.splice(42..42, [6, 0xff, 0xff, 0xff, 0, 0, 0, 3]);
    check("a FLAC picture that is not there", &picture, SMALL_HEAP, refused);
    let mut real = fixture("sweep.flac");
    let body = vec![0u8; 6 << 20];
    let length = body.len() as u32;
    let mut block = vec![1, (length >> 16) as u8, (length >> 8) as u8, length as u8];
    block.extend(body);
    real.splice(42..42, block);
    check("six megabytes of FLAC padding", &real, SMALL_HEAP, |result| result.is_ok());
}

/// Overwrites the bytes `offset` behind the four letters of an atom's name.
fn patch(bytes: &mut [u8], name: &[u8; 4], offset: usize, value: &[u8]) {
    let at = bytes.windows(4).rposition(|window| window == name).unwrap() + 4 + offset;
    bytes[at..at + value.len()].copy_from_slice(value);
}

fn mp4_tables() {
    let forever = u32::MAX.to_be_bytes();
    let check_patch = |what: &str, name: &[u8; 4], offset: usize, value: &[u8]| {
        for file in ["sweep.m4a", "sweep_alac.m4a"] {
            let mut bytes = fixture(file);
            patch(&mut bytes, name, offset, value);
            check(&format!("{what} in {file}"), &bytes, SMALL_HEAP, answered);
        }
    };
    check_patch("four billion samples", b"stsz", 8, &forever);
    check_patch("four billion samples of one byte", b"stsz", 4, &[0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff]);
    check_patch("a sample of 4 GiB", b"stsz", 12, &forever);
    check_patch("a chunk beyond the file", b"stco", 8, &forever);
    check_patch("four billion chunks", b"stco", 4, &forever);
    check_patch("four billion samples to a chunk", b"stsc", 12, &forever);
    check_patch("no samples to a chunk", b"stsc", 12, &[0; 4]);
    check_patch("endless samples", b"stts", 12, &forever);
    check_patch("a time scale of zero", b"mdhd", 12, &[0; 4]);
    let mut cookie = fixture("sweep_alac.m4a");
    // The cookie's atom is the second of that name, inside the sample entry.
    patch(&mut cookie, b"alac", 4, &forever);
    check("ALAC packets of four billion frames", &cookie, SMALL_HEAP, malformed);
    let mut deep = b"\0\0\0\x10ftypM4A \0\0\0\0".to_vec();
    for level in (0..10_000u32).rev() {
        deep.extend((8 * (level + 1)).to_be_bytes());
        deep.extend(b"moov");
    }
    check("ten thousand nested atoms", &deep, SMALL_HEAP, refused);
}

fn garbage_behind_a_magic() {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut noise = |length: usize| -> Vec<u8> {
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        };
        (0..length).map(|_| next()).collect()
    };
    let magics: [&[u8]; 8] = [
        b"RIFF\xff\xff\xff\xffWAVE",
        b"RIFF\xff\xff\xff\xffWAVEfmt \x10\0\0\0",
        b"fLaC",
        b"OggS\0\x02",
        b"\0\0\0\x18ftypM4A ",
        &[0xff, 0xfb, 0x90, 0x00],
        &[0xff, 0xf1, 0x50, 0x80],
        b"ID3\x04\0\0\0\0\0\0",
    ];
    for magic in magics {
        for round in 0..8 {
            let mut bytes = magic.to_vec();
            bytes.extend(noise(64 << 10));
            check(&format!("noise {round} behind {magic:02x?}"), &bytes, SMALL_HEAP, answered);
        }
    }
    check("noise alone", &noise(1 << 20), SMALL_HEAP, answered);
}

fn truncation_at_every_place() {
    for name in FIXTURES {
        let bytes = fixture(name);
        let exact = name.ends_with(".wav") || name == "sweep.flac";
        // Every place of the header, then every 41st byte: a prime, so that it meets every alignment.
        for cut in (0..bytes.len()).filter(|cut| *cut < 512 || cut % 41 == 0) {
            let result = decode(&bytes[..cut], &LIMITS);
            if let Err(error) = &result {
                assert!(!error.to_string().contains("gave up"), "{name} cut at {cut}: a decoder panicked");
            }
            assert!(!exact || result.is_err(), "{name} cut at {cut} was accepted");
        }
    }
}

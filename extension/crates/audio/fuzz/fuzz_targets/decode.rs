//! Any bytes through the whole path from file to waveform. `run.sh` beside the manifest gives it its corpus and limits.
//!
//! libFuzzer judges time, memory and sanitizer reports; the assertions judge the promises that types make.
#![no_main]

use std::sync::Once;

use esr_audio::{Limits, decode, info};
use libfuzzer_sys::fuzz_target;

/// Small, so that running into them is common and the memory that a clip may cost is known.
const LIMITS: Limits = Limits { max_bytes: 1 << 20, max_seconds: 10.0, max_channels: 8, max_rate: 96_000 };

static KEEP_OUR_PANICS: Once = Once::new();

fuzz_target!(|bytes: &[u8]| {
    // libFuzzer's hook aborts on every panic, also on one that `decode` fences in. Those are symphonia's bugs and end
    // as "malformed audio"; a panic anywhere else is ours and still ends the run.
    KEEP_OUR_PANICS.call_once(|| {
        let abort = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            let fenced = panic.location().is_some_and(|location| location.file().contains("/symphonia-"));
            if !fenced {
                abort(panic);
            }
        }));
    });
    let told = info(bytes, &LIMITS);
    let Ok(pcm) = decode(bytes, &LIMITS) else {
        assert!(told.is_err(), "info and decode disagree");
        return;
    };
    let told = told.expect("info and decode disagree");
    assert_eq!((told.rate, told.channels, told.frames), (pcm.rate(), pcm.channels(), pcm.frames() as u64));
    assert!(pcm.frames() > 0 && pcm.channels() <= LIMITS.max_channels && pcm.rate() <= LIMITS.max_rate);
    assert!(pcm.frames() as f64 <= f64::from(LIMITS.max_seconds) * f64::from(pcm.rate()) + 1.0);
    let expected = (pcm.frames() as u64 * 16_000).div_ceil(u64::from(pcm.rate()));
    if let Ok(waveform) = pcm.to_model_rate(16_000) {
        assert_eq!(waveform.samples().len() as u64, expected);
        assert!(waveform.samples().iter().all(|sample| sample.is_finite()));
    }
});

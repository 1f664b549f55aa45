//! Sounds of the body, made from nothing: noise, pulses of a voice and short impulses go through the resonances of a mouth
//! that is drawn at random. There is no free corpus of coughs, yawns and clicks; these stand in for one, and only roughly.
//! Knows samples only; how many are made is decided in `variants`.

mod kinds;
mod mouth;

use rand::Rng;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::augment;
use crate::nets::log_mel::SAMPLE_RATE;

use kinds::Click;
use mouth::Mouth;

const RATE: f32 = SAMPLE_RATE as f32;

/// Sounds that can be made.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, PartialEq, Eq, Hash)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs, reason = "the names say it")]
pub enum Sound {
    Coughing,
    ThroatClearing,
    Sneezing,
    NoseBlowing,
    Panting,
    Sighing,
    Yawning,
    Moaning,
    Crying,
    Screaming,
    LipPopping,
    LipSmacking,
    TongueClicking,
    TeethGrinding,
    TeethChattering,
}

impl Sound {
    /// The style it stands for.
    pub fn style(self) -> &'static str {
        match self {
            Self::Coughing => "coughing",
            Self::ThroatClearing => "throat-clearing",
            Self::Sneezing => "sneezing",
            Self::NoseBlowing => "nose-blowing",
            Self::Panting => "panting",
            Self::Sighing => "sighing",
            Self::Yawning => "yawning",
            Self::Moaning => "moaning",
            Self::Crying => "crying",
            Self::Screaming => "screaming",
            Self::LipPopping => "lip-popping",
            Self::LipSmacking => "lip-smacking",
            Self::TongueClicking => "tongue-clicking",
            Self::TeethGrinding => "teeth-grinding",
            Self::TeethChattering => "teeth-chattering",
        }
    }
}

/// One sound of 0.5 to 4 seconds, as some microphone in some room would take it.
pub fn sound(kind: Sound, random: &mut ChaCha8Rng) -> Vec<f32> {
    let size = random.random_range(0.88..1.22);
    let mut mouth = Mouth { random, size, out: vec![] };
    match kind {
        Sound::Coughing => mouth.cough(),
        Sound::ThroatClearing => mouth.clear_throat(),
        Sound::Sneezing => mouth.sneeze(),
        Sound::NoseBlowing => mouth.blow_nose(),
        Sound::Panting => mouth.pant(),
        Sound::Sighing => mouth.sigh(),
        Sound::Yawning => mouth.yawn(),
        Sound::Moaning => mouth.moan(),
        Sound::Crying => mouth.cry(),
        Sound::Screaming => mouth.scream(),
        Sound::LipPopping => mouth.clicks(Click { hertz: (350.0, 1100.0), sharpness: 5.0, wet: 0, gap: (0.2, 0.8) }),
        Sound::TongueClicking => {
            mouth.clicks(Click { hertz: (1000.0, 3200.0), sharpness: 9.0, wet: 0, gap: (0.2, 0.7) })
        }
        Sound::LipSmacking => mouth.clicks(Click { hertz: (1200.0, 4200.0), sharpness: 2.5, wet: 7, gap: (0.2, 0.6) }),
        Sound::TeethChattering => {
            mouth.clicks(Click { hertz: (1800.0, 5000.0), sharpness: 6.0, wet: 0, gap: (0.06, 0.13) })
        }
        Sound::TeethGrinding => mouth.grind(),
    }
    let (out, random) = (mouth.out, mouth.random);
    record(out, random)
}

/// A little room, a band limit, noise and some level.
fn record(dry: Vec<f32>, random: &mut ChaCha8Rng) -> Vec<f32> {
    let mut out = dry.clone();
    out.resize(dry.len() + (0.15 * RATE) as usize, 0.0);
    let strength = random.random_range(0.0..0.35f32);
    for _ in 0..40 {
        let seconds: f32 = random.random_range(0.003..0.14);
        let gain = strength * (-seconds / 0.05).exp() * random.random_range(-1.0..1.0);
        let delay = (seconds * RATE) as usize;
        dry.iter().enumerate().for_each(|(n, s)| out[n + delay] += gain * s);
    }
    augment::filter(&mut out, random.random_range(3400.0..7600.0), false);
    augment::filter(&mut out, random.random_range(50.0..160.0), true);
    augment::add_noise(&mut out, random.random_range(22.0..50.0), random.random_range(0.0..0.97), random);
    augment::level(&mut out, random.random_range(-32.0..-14.0));
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    const ALL: [Sound; 15] = [
        Sound::Coughing,
        Sound::ThroatClearing,
        Sound::Sneezing,
        Sound::NoseBlowing,
        Sound::Panting,
        Sound::Sighing,
        Sound::Yawning,
        Sound::Moaning,
        Sound::Crying,
        Sound::Screaming,
        Sound::LipPopping,
        Sound::LipSmacking,
        Sound::TongueClicking,
        Sound::TeethGrinding,
        Sound::TeethChattering,
    ];

    #[test]
    fn every_sound_is_finite_heard_and_of_sensible_length() {
        for kind in ALL {
            for seed in 0..20 {
                let made = sound(kind, &mut ChaCha8Rng::seed_from_u64(seed));
                let seconds = made.len() as f32 / RATE;
                assert!((0.3..9.0).contains(&seconds), "{kind:?} {seed}: {seconds} s");
                assert!(made.iter().all(|s| s.is_finite()), "{kind:?} {seed}");
                assert!(augment::loud_rms(&made) > 1e-3, "{kind:?} {seed}");
            }
        }
    }
}

//! Decides which altered copies are made of which clip, and makes them. The choice and every random parameter follow from
//! the seed and the clip's path alone, so that an interrupted run continues as it began.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use sha2::{Digest, Sha256};

use crate::augment;
use crate::config::{Augment, Manner};
use crate::data::Clip;
use crate::data::splits::Split;
use crate::room::rerecord;
use crate::sounds::{Sound, sound};
use crate::voice;

/// One form of a clip.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Variant {
    /// As recorded.
    Original,
    /// A copy whose style is unchanged.
    Copy(usize),
    /// A copy with another manner of speaking.
    Made(Manner),
    /// No copy at all: a sound of the body that the clip only lends its speaker's role and the seed.
    Sound(Sound),
}

impl Manner {
    /// The style concept it makes.
    pub fn style(self) -> &'static str {
        match self {
            Self::Whisper => "whispering",
            Self::Fast => "fast",
            Self::Slow => "slow",
            Self::Projected => "projected",
            Self::Soft => "soft",
            Self::HighPitched => "high-pitched",
            Self::LowPitched => "low-pitched",
            Self::Child => "child voice",
            Self::ChildDirected => "child-directed",
        }
    }
}

impl Variant {
    /// Name in the feature cache.
    pub fn name(self) -> String {
        match self {
            Self::Original => "original".into(),
            Self::Copy(n) => format!("copy-{n}"),
            Self::Made(manner) => format!("made-{}", manner.style()),
            Self::Sound(kind) => format!("sound-{}", kind.style()),
        }
    }
}

/// The forms of a clip that are cached, the original first; only training speakers' clips have others.
pub fn variants(config: &Augment, clip: &Clip, split: Split, seed: u64) -> Vec<Variant> {
    let mut random = generator(seed, clip, "choice");
    let mut all = vec![Variant::Original];
    for derived in &config.derived {
        let drawn = random.random::<f64>() < derived.share;
        if drawn && split == Split::Train && derived.corpora.contains(&clip.corpus) {
            all.push(Variant::Made(derived.kind));
        }
    }
    if split == Split::Train {
        let more = usize::from(random.random::<f64>() < config.copies.fract());
        all.extend((0..config.copies as usize + more).map(Variant::Copy));
    }
    if let Some(sounds) = config.sounds.as_ref().filter(|s| s.corpus == clip.corpus && split == Split::Train) {
        let mut random = generator(seed, clip, "sounds");
        all.extend(
            sounds.kinds.iter().filter(|_| random.random::<f64>() < sounds.share).map(|kind| Variant::Sound(*kind)),
        );
    }
    all
}

/// The styles of a form: a made manner replaces "neutral" and joins everything else, a sound replaces all.
pub fn styles(clip: &Clip, variant: Variant) -> Vec<String> {
    match variant {
        Variant::Made(manner) => {
            let kept = clip.styles.iter().filter(|s| *s != "neutral" && *s != manner.style());
            kept.cloned().chain([manner.style().to_string()]).collect()
        }
        Variant::Sound(kind) => vec![kind.style().to_string()],
        _ => clip.styles.clone(),
    }
}

/// The samples of a form, the same each time.
pub fn render(samples: &[f32], clip: &Clip, variant: Variant, seed: u64) -> Vec<f32> {
    if variant == Variant::Original {
        return samples.to_vec();
    }
    unclipped(form(samples, variant, &mut generator(seed, clip, &variant.name())))
}

/// The samples of a form with everything drawn from `random`, cut to a random piece of at most `longest` samples and, with the
/// chance `disturbed`, heard through other equipment.
pub fn render_anew(
    samples: &[f32],
    variant: Variant,
    longest: usize,
    disturbed: f64,
    random: &mut ChaCha8Rng,
) -> Vec<f32> {
    let out = form(samples, variant, random);
    let piece = augment::crop(augment::trim(&out), longest, random);
    let heard = random.random::<f64>() < disturbed;
    unclipped(if heard { rerecord(piece, random) } else { piece.to_vec() })
}

fn form(samples: &[f32], variant: Variant, random: &mut ChaCha8Rng) -> Vec<f32> {
    match variant {
        Variant::Original => samples.to_vec(),
        Variant::Copy(_) => disturb(samples, random),
        Variant::Made(manner) => make(samples, manner, random),
        Variant::Sound(kind) => sound(kind, random),
    }
}

/// Brought below full scale, as a sound file would hold it.
fn unclipped(mut samples: Vec<f32>) -> Vec<f32> {
    let peak = samples.iter().fold(0.0f32, |m, s| m.max(s.abs()));
    if peak > 0.99 {
        samples.iter_mut().for_each(|s| *s *= 0.99 / peak);
    }
    samples
}

fn make(samples: &[f32], manner: Manner, random: &mut ChaCha8Rng) -> Vec<f32> {
    let mut out = match manner {
        Manner::Whisper => {
            let mut out = augment::whisper(samples, random);
            augment::level(&mut out, random.random_range(-38.0..-22.0));
            out
        }
        Manner::Fast => augment::stretch(samples, random.random_range(1.35..1.75)),
        Manner::Slow => augment::stretch(samples, random.random_range(0.58..0.76)),
        Manner::Projected => augment::project(samples, random),
        Manner::Soft => augment::soften(samples, random),
        Manner::HighPitched => augment::shift_pitch(samples, random.random_range(1.25..1.6)),
        Manner::LowPitched => augment::shift_pitch(samples, random.random_range(0.65..0.8)),
        Manner::Child => voiced(samples, voice::child(samples, random)),
        Manner::ChildDirected => voiced(samples, voice::child_directed(samples, random)),
    };
    if random.random_bool(0.5) {
        augment::add_noise(&mut out, random.random_range(25.0..45.0), random.random_range(0.0..0.95), random);
    }
    out
}

/// What was made of a voice; without a voice the clip stays as it is.
fn voiced(samples: &[f32], made: Option<Vec<f32>>) -> Vec<f32> {
    made.unwrap_or_else(|| samples.to_vec())
}

/// Changes of recording, not of speaking.
fn disturb(samples: &[f32], random: &mut ChaCha8Rng) -> Vec<f32> {
    let rate = crate::nets::log_mel::SAMPLE_RATE as f32;
    let longest = (random.random_range(1.5..8.0) * rate) as usize;
    let piece = augment::crop(augment::trim(samples), longest, random);
    let mut out = if random.random_bool(0.6) {
        augment::resample(piece, random.random_range(0.94..1.07))
    } else {
        piece.to_vec()
    };
    if random.random_bool(0.5) {
        augment::tilt(&mut out, random.random_range(-0.3..0.3));
    }
    if random.random_bool(0.35) {
        augment::filter(&mut out, random.random_range(2800.0..7000.0), false);
    }
    if random.random_bool(0.35) {
        augment::filter(&mut out, random.random_range(60.0..300.0), true);
    }
    if random.random_bool(0.6) {
        augment::add_noise(&mut out, random.random_range(12.0..40.0), random.random_range(0.0..0.97), random);
    }
    augment::gain(&mut out, random.random_range(-10.0..8.0));
    out
}

/// What a clip's random choices for a purpose are drawn from.
pub(crate) fn generator(seed: u64, clip: &Clip, purpose: &str) -> ChaCha8Rng {
    let name = clip.path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let digest = Sha256::digest(format!("{seed}|{}|{name}|{purpose}", clip.corpus));
    ChaCha8Rng::from_seed(digest.into())
}

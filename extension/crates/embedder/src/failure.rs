//! Every error of the crates below, told as the wire's failure: whose fault, which item, what to do. Knows no sockets.

use esr_audio::{DecodeError, WaveformError};
use esr_encoder::{BundleError, EmbedError, LoadError, RunError, RuntimeError, TextError};
use esr_wire::{Failure, FailureKind};

/// A failure without item and hint.
pub fn failure(kind: FailureKind, message: impl Into<String>) -> Failure {
    Failure { kind, item: None, message: message.into(), hint: None }
}

/// Adds what to do about it.
pub fn with_hint(mut failure: Failure, hint: &str) -> Failure {
    failure.hint = Some(hint.into());
    failure
}

/// Adds which text or clip it was.
pub fn of_item(mut failure: Failure, item: usize) -> Failure {
    failure.item = Some(item as u32);
    failure
}

/// A clip that cannot be decoded.
pub fn decoding(error: &DecodeError) -> Failure {
    use DecodeError as E;
    let (kind, hint) = match error {
        E::Empty => (FailureKind::EmptyAudio, "Store NULL where there is no sound."),
        E::Unsupported(_) => {
            (FailureKind::UnsupportedAudio, "Convert the clip to WAV, FLAC, Ogg Vorbis, MP3, AAC or ALAC.")
        }
        E::Malformed(_) => (FailureKind::MalformedAudio, "Check that the whole file was stored."),
        E::TooManyBytes { .. } | E::TooLong { .. } => {
            (FailureKind::AudioLimit, "Cut the recording into shorter clips, or raise the limit.")
        }
        E::TooManyChannels { .. } | E::RateTooHigh { .. } => {
            (FailureKind::AudioLimit, "Convert the clip, or raise the limit.")
        }
        E::OutOfMemory => (FailureKind::OutOfMemory, "Lower the limit on audio seconds."),
    };
    with_hint(failure(kind, error.to_string()), hint)
}

/// A clip that decodes to nothing a model could embed.
pub fn waveform(error: &WaveformError) -> Failure {
    match error {
        WaveformError::Empty | WaveformError::Silent => with_hint(
            failure(FailureKind::EmptyAudio, error.to_string()),
            "A clip without sound has no speaking style; store NULL.",
        ),
        WaveformError::NotFinite { .. } | WaveformError::Rate { .. } => {
            failure(FailureKind::MalformedAudio, error.to_string())
        }
    }
}

/// An embedding that was not made.
pub fn embedding(error: &EmbedError) -> Failure {
    match error {
        EmbedError::Text { item, source } => {
            let hint = match source {
                TextError::Empty => "Describe a speaking style, such as 'whispering'.",
                TextError::TooLong { .. } | TextError::Tokenizer(_) => "Describe the style in one sentence.",
            };
            of_item(with_hint(failure(FailureKind::BadText, source.to_string()), hint), *item)
        }
        EmbedError::Rate { .. } => failure(FailureKind::Internal, error.to_string()),
        // The requester is gone, so nobody reads this.
        EmbedError::Run(RunError::Cancelled) => failure(FailureKind::Timeout, error.to_string()),
        EmbedError::Run(RunError::Answer(_)) => failure(FailureKind::BadModel, error.to_string()),
        EmbedError::Run(RunError::Runtime(reason)) => {
            let kind = if is_of_memory(reason) { FailureKind::OutOfMemory } else { FailureKind::Internal };
            failure(kind, error.to_string())
        }
    }
}

/// Whether ONNX Runtime or CUDA failed for want of memory, as far as their words tell; the last ones are the arena's that has
/// reached its limit.
fn is_of_memory(reason: &str) -> bool {
    let words = ["bad_alloc", "Failed to allocate", "out of memory", "ALLOC_FAILED", "smaller than requested"];
    words.iter().any(|word| reason.contains(word))
}

/// A folder that is no bundle.
pub fn bundle(error: &BundleError) -> Failure {
    with_hint(failure(FailureKind::BadModel, error.to_string()), "Install the model again.")
}

/// A bundle that does not run.
pub fn loading(name: &str, error: &LoadError) -> Failure {
    if let LoadError::Device(error) = error {
        return runtime(error);
    }
    let message = format!("model {name:?}: {error}");
    if is_of_memory(&message) {
        return with_hint(failure(FailureKind::OutOfMemory, message), MEMORY_HINT);
    }
    with_hint(failure(FailureKind::BadModel, message), "Install the model again.")
}

const MEMORY_HINT: &str = "Raise esr.cuda_memory_limit, or free memory of the GPU or of the machine.";

/// No ONNX Runtime, or not on the device that was asked for.
pub fn runtime(error: &RuntimeError) -> Failure {
    if is_of_memory(&error.to_string()) {
        return with_hint(failure(FailureKind::OutOfMemory, error.to_string()), MEMORY_HINT);
    }
    let hint = match error {
        RuntimeError::NoCuda { .. } => {
            "Install ONNX Runtime built for CUDA, its CUDA libraries and the driver, or set esr.execution_provider to auto or cpu."
        }
        _ => "`make install` puts the library beside esr-embedder.",
    };
    with_hint(failure(FailureKind::MissingRuntime, error.to_string()), hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn want_of_memory_is_told_apart_from_a_damaged_model_and_a_missing_gpu() {
        let arena = "Available memory of 1048576 is smaller than requested bytes of 4718592";
        let told = |failure: Failure| (failure.kind, failure.hint.unwrap());
        let (kind, hint) = told(loading("m", &LoadError::Model(format!("speech.onnx: {arena}"))));
        assert!(kind == FailureKind::OutOfMemory && hint.contains("esr.cuda_memory_limit"), "{hint}");
        let (kind, hint) = told(loading("m", &LoadError::Model("speech.onnx: it has no graph".into())));
        assert!(kind == FailureKind::BadModel && hint.contains("Install the model again"), "{hint}");
        let missing = |reason: &str| LoadError::Device(RuntimeError::NoCuda { reason: reason.into() });
        let (kind, hint) = told(loading("m", &missing("libcudnn.so.9: cannot open shared object file")));
        assert!(kind == FailureKind::MissingRuntime && hint.contains("or set esr.execution_provider"), "{hint}");
        assert_eq!(told(loading("m", &missing(arena))).0, FailureKind::OutOfMemory);
        assert_eq!(embedding(&EmbedError::Run(RunError::Runtime(arena.into()))).kind, FailureKind::OutOfMemory);
    }
}

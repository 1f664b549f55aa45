//! The one table from what can go wrong to what SQL sees: SQLSTATE, message, detail, hint.
//!
//! Every operation has its own small error enum; this file alone turns them into [`SqlError`]. Applications may rely on
//! the SQLSTATEs; `COMMENT`s in the install script and the README name them.

use esr_ivf::StoreError;
use esr_wire::{Failure, FailureKind};
use pgrx::PgSqlErrorCode;
use pgrx::pg_sys::panic::ErrorReport;

use crate::am::error::IndexError;
use crate::client::error::EmbedError;
use crate::server;
use crate::vector::VectorError;
use crate::writing::error::TriggerError;

/// An error as PostgreSQL reports it.
#[derive(Debug)]
pub struct SqlError {
    state: PgSqlErrorCode,
    message: String,
    detail: Option<String>,
    hint: Option<String>,
}

impl SqlError {
    /// An error without detail or hint.
    pub fn new(state: PgSqlErrorCode, message: impl Into<String>) -> Self {
        Self { state, message: message.into(), detail: None, hint: None }
    }

    /// Adds what to do about it.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds facts that help to find the cause.
    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// SQLSTATE, message and hint.
    pub fn into_parts(self) -> (PgSqlErrorCode, String, Option<String>) {
        (self.state, self.message, self.hint)
    }

    /// Reports the error to PostgreSQL, which aborts the statement. Unwinds; the guard of the SQL function that is
    /// running turns the unwinding into an `ereport(ERROR)`.
    pub fn raise(self) -> ! {
        let mut report = ErrorReport::new(self.state, readable(self.message), "esr");
        if let Some(detail) = self.detail {
            report = report.set_detail(readable(detail));
        }
        if let Some(hint) = self.hint {
            report = report.set_hint(readable(hint));
        }
        std::panic::panic_any(report)
    }
}

/// The value, or the error raised: where a callback ends.
pub fn or_raise<T, E: Into<SqlError>>(result: Result<T, E>) -> T {
    match result {
        Ok(value) => value,
        Err(error) => error.into().raise(),
    }
}

/// PostgreSQL takes messages in the database's encoding. Where that is not UTF-8, letters that a message repeats from
/// somebody's input are spelled out instead.
fn readable(message: String) -> String {
    if message.is_ascii() || server::speaks_utf8() {
        return message;
    }
    let spell = |c: char| if c.is_ascii() { c.to_string() } else { c.escape_unicode().to_string() };
    message.chars().map(spell).collect()
}

impl From<VectorError> for SqlError {
    fn from(error: VectorError) -> Self {
        use PgSqlErrorCode as State;
        let message = error.to_string();
        match error {
            VectorError::Syntax { .. } => SqlError::new(State::ERRCODE_INVALID_TEXT_REPRESENTATION, message)
                .hint("Write an esr_vector as '[1,2,3]', or as '[1,2,3]@0123456789abcdef' with its model's tag."),
            VectorError::NoDimensions => {
                SqlError::new(State::ERRCODE_DATA_EXCEPTION, message).hint("Give at least one element, as in '[1]'.")
            }
            VectorError::TooManyDimensions => SqlError::new(State::ERRCODE_PROGRAM_LIMIT_EXCEEDED, message)
                .hint("Reduce the vector before storing it; models for speech style use a few hundred elements."),
            VectorError::NotFinite { .. } | VectorError::OutOfRange { .. } => {
                SqlError::new(State::ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE, message)
                    .hint("Elements must be finite numbers within the range of type real.")
            }
            VectorError::Overflow { .. } => SqlError::new(State::ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE, message)
                .hint("Scale the vectors down first, for example with esr_normalize()."),
            VectorError::DifferentDimensions { .. } => SqlError::new(State::ERRCODE_DATA_EXCEPTION, message)
                .hint("Both sides must be embeddings of the same model; esr_dims() shows the dimensions of a value."),
            VectorError::WrongDimensions { expected, .. } => SqlError::new(State::ERRCODE_DATA_EXCEPTION, message)
                .hint(format!("The column or cast was declared as esr_vector({expected}).")),
            VectorError::DifferentModels { .. } => SqlError::new(State::ERRCODE_INVALID_PARAMETER_VALUE, message).hint(
                "Embed both sides with the same model, or cast one side to real[] and back to compare regardless.",
            ),
            VectorError::BadModifier { .. } => SqlError::new(State::ERRCODE_INVALID_PARAMETER_VALUE, message)
                .hint("Declare the type as esr_vector or esr_vector(n), such as esr_vector(512)."),
            VectorError::NullElement { .. } => SqlError::new(State::ERRCODE_NULL_VALUE_NOT_ALLOWED, message)
                .hint("Remove the NULLs with array_remove(array, NULL), or replace them."),
            VectorError::NotOneDimensional { .. } => SqlError::new(State::ERRCODE_DATA_EXCEPTION, message)
                .hint("Cast a one-dimensional array, such as '{1,2,3}'."),
            VectorError::MalformedBinary { .. } => SqlError::new(State::ERRCODE_INVALID_BINARY_REPRESENTATION, message)
                .hint("The binary form is described beside the type in the extension's install script."),
            VectorError::Damaged { .. } => SqlError::new(State::ERRCODE_DATA_CORRUPTED, message)
                .hint("The stored value was not written by esr; restore the row from a backup."),
            VectorError::BadAggregateState => SqlError::new(State::ERRCODE_INVALID_PARAMETER_VALUE, message)
                .hint("The functions behind avg(esr_vector) and sum(esr_vector) are not meant to be called directly."),
        }
    }
}

impl From<EmbedError> for SqlError {
    fn from(error: EmbedError) -> Self {
        use PgSqlErrorCode as State;
        let message = error.to_string();
        match error {
            EmbedError::Refused(failure) => failure.into(),
            EmbedError::NotStartable(_) => SqlError::new(
                State::ERRCODE_SYSTEM_ERROR,
                discreet(message, "the embedder cannot be started; the server log says why"),
            )
            .hint(
                "It is tried again every few seconds. Look at esr.embedder_program, esr.onnxruntime_library and \
                 esr.model_directory, and into the server log; \"make install\" puts the files in place.",
            ),
            EmbedError::Unavailable { waited, .. } => {
                let bare = format!("no embedder within {} ms; the server log says why", waited.as_millis());
                SqlError::new(State::ERRCODE_SYSTEM_ERROR, discreet(message, &bare))
                    .hint("Look into the server log, or raise esr.embedder_timeout.")
            }
            EmbedError::NoWorkerSlot => SqlError::new(State::ERRCODE_CONFIGURATION_LIMIT_EXCEEDED, message)
                .hint("Raise max_worker_processes, or add esr to shared_preload_libraries; both need a restart."),
            EmbedError::Died(_) => SqlError::new(State::ERRCODE_SYSTEM_ERROR, message).hint(
                "It is started again by itself: repeat the statement. The server log says how it ended; if it ends each \
                 time, one of the inputs is to blame.",
            ),
            EmbedError::TooSlow(_) => SqlError::new(State::ERRCODE_SYSTEM_ERROR, message)
                .hint("Send fewer or shorter inputs at a time, or raise esr.embedder_timeout."),
            EmbedError::Stranger { .. } => SqlError::new(State::ERRCODE_INSUFFICIENT_PRIVILEGE, message)
                .hint("Somebody else has placed a socket in the data directory; check its permissions."),
            EmbedError::Mismatch(_) => SqlError::new(State::ERRCODE_SYSTEM_ERROR, message)
                .hint("Install esr and esr-embedder of the same release, then restart the server."),
            EmbedError::Request(_) => SqlError::new(State::ERRCODE_PROGRAM_LIMIT_EXCEEDED, message)
                .hint("Send fewer or shorter inputs at a time."),
        }
    }
}

/// A message that names files of the server, or what others may know of it.
fn discreet(message: String, bare: &str) -> String {
    if server::may_see_paths() { message } else { bare.into() }
}

impl From<Failure> for SqlError {
    fn from(failure: Failure) -> Self {
        use PgSqlErrorCode as State;
        let (state, hint) = match failure.kind {
            FailureKind::MalformedAudio | FailureKind::UnsupportedAudio => (
                State::ERRCODE_INVALID_BINARY_REPRESENTATION,
                "The bytea must hold a whole audio file: WAV, FLAC, Ogg Vorbis, MP3, AAC or M4A.",
            ),
            FailureKind::AudioLimit => {
                (State::ERRCODE_PROGRAM_LIMIT_EXCEEDED, "A superuser can raise the settings esr.audio_max_*.")
            }
            FailureKind::EmptyAudio => (State::ERRCODE_DATA_EXCEPTION, "A clip must hold audible sound."),
            FailureKind::BadText => {
                (State::ERRCODE_INVALID_PARAMETER_VALUE, "Describe a speaking style in a few words.")
            }
            FailureKind::UnknownModel => (
                State::ERRCODE_UNDEFINED_OBJECT,
                "The view esr_models lists the models; esr.default_model names the default.",
            ),
            FailureKind::BadModel => {
                (State::ERRCODE_CONFIG_FILE_ERROR, "Install the model bundle again; its files do not belong together.")
            }
            FailureKind::MissingRuntime => (
                State::ERRCODE_UNDEFINED_FILE,
                "Install ONNX Runtime where esr.onnxruntime_library says, or change that setting and reload.",
            ),
            FailureKind::Timeout => (State::ERRCODE_SYSTEM_ERROR, "Raise esr.embedder_timeout."),
            FailureKind::Overloaded => (State::ERRCODE_INSUFFICIENT_RESOURCES, "Repeat the statement later."),
            FailureKind::OutOfMemory => (State::ERRCODE_OUT_OF_MEMORY, "Send fewer or shorter inputs at a time."),
            FailureKind::Protocol => (
                State::ERRCODE_SYSTEM_ERROR,
                "Install esr and esr-embedder of the same release, then restart the server.",
            ),
            FailureKind::Internal => {
                (State::ERRCODE_INTERNAL_ERROR, "This is a bug; please report it with the server log.")
            }
        };
        let message = match failure.kind {
            FailureKind::BadModel => {
                discreet(failure.message, "the model's bundle is damaged; the server log says where")
            }
            FailureKind::MissingRuntime => {
                discreet(failure.message, "ONNX Runtime's library is missing or too old; the server log says which")
            }
            _ => failure.message,
        };
        SqlError::new(state, message).hint(failure.hint.unwrap_or_else(|| hint.to_owned()))
    }
}

impl From<TriggerError> for SqlError {
    fn from(error: TriggerError) -> Self {
        use PgSqlErrorCode as State;
        let message = error.to_string();
        match error {
            TriggerError::NotAsTrigger(_) => SqlError::new(State::ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED, message)
                .hint("Attach it with esr_attach(table, audio_column, style_column)."),
            TriggerError::WrongType { .. } => SqlError::new(State::ERRCODE_DATATYPE_MISMATCH, message)
                .hint("The table has changed since; run esr_detach and esr_attach again."),
            TriggerError::Embed { source, row } => SqlError::from(source).detail(row),
            TriggerError::Vector(error) => error.into(),
        }
    }
}

impl From<IndexError> for SqlError {
    fn from(error: IndexError) -> Self {
        use PgSqlErrorCode as State;
        let message = error.to_string();
        match error {
            IndexError::Pages { index, problem: StoreError::Format { .. } } => {
                SqlError::new(State::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, message).hint(reindex(&index))
            }
            IndexError::Pages { index, .. } => {
                SqlError::new(State::ERRCODE_INDEX_CORRUPTED, message).hint(reindex(&index))
            }
            IndexError::Inconsistent { index, all, .. } => {
                SqlError::new(State::ERRCODE_INDEX_CORRUPTED, message).detail(all.join("\n")).hint(reindex(&index))
            }
            IndexError::WrongDimensions { expected, .. } => SqlError::new(State::ERRCODE_DATA_EXCEPTION, message)
                .hint(format!("Declare the column as esr_vector({expected}), so that no other vector gets in.")),
            IndexError::OtherModel { .. } => SqlError::new(State::ERRCODE_INVALID_PARAMETER_VALUE, message).hint(
                "Embed all rows with one model, or make an index for each: CREATE INDEX ... WHERE esr_model_tag(column) = '...'.",
            ),
            IndexError::UnknownDimensions { .. } => {
                SqlError::new(State::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, message).hint(
                    "The table is empty, so declare the column as esr_vector(n) with its number of dimensions, such as esr_vector(512).",
                )
            }
            IndexError::NoOrder { .. } => SqlError::new(State::ERRCODE_FEATURE_NOT_SUPPORTED, message)
                .hint("Use ORDER BY column <=> query, with the operator of the index's operator class."),
            IndexError::NotMvcc { .. } => SqlError::new(State::ERRCODE_FEATURE_NOT_SUPPORTED, message)
                .hint("Queries of SQL always have one; this is a bug of whoever scans the index otherwise."),
            IndexError::NotAnIndex { .. } => SqlError::new(State::ERRCODE_WRONG_OBJECT_TYPE, message)
                .hint("Name an index made by CREATE INDEX ... USING esr_ivf; of a partitioned one, the index of a partition."),
            IndexError::Denied { .. } => SqlError::new(State::ERRCODE_INSUFFICIENT_PRIVILEGE, message).hint(
                "Describing an index is for its owner and for members of pg_read_all_stats, checking it for its owner, \
                 measuring its recall for whoever may read all rows of the table.",
            ),
            IndexError::BadArgument { .. } => SqlError::new(State::ERRCODE_INVALID_PARAMETER_VALUE, message)
                .hint("As in: SELECT * FROM esr_index_recall('clips_style_idx');"),
            IndexError::Vector(error) => error.into(),
        }
    }
}

fn reindex(index: &str) -> String {
    format!("REINDEX INDEX \"{index}\"; builds it anew from the table.")
}

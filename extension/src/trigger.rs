//! The trigger that `esr_attach` creates: embeds a row's audio before the row is written.
//!
//! BEFORE ROW, so that each row is written once; an AFTER trigger would write it a second time. Its arguments are the
//! names of the audio column, of the style column, and of the model.
//!
//! Unsafe is allowed here: a trigger gets its row as raw structures of PostgreSQL's.
#![allow(unsafe_code)]

use std::ffi::CStr;

use pgrx::PgTupleDesc;
use pgrx::pg_sys::{self, Datum};

use crate::client::EmbedError;
use crate::fmgr::{Call, IntoSql};
use crate::vector::{VectorError, check_fits, io};
use crate::{datum, embed, sql_function};

sql_function!(esr_embed_row, embed_row);

/// Why a row could not be embedded.
#[derive(Debug, thiserror::Error)]
pub enum TriggerError {
    /// Called in some other way.
    #[error("esr_embed_row can only be called as a BEFORE ROW trigger with three arguments")]
    NotAsTrigger,
    /// A column has gone or was renamed.
    #[error("column \"{column}\" of relation \"{table}\" does not exist")]
    NoColumn {
        /// The name in the trigger's arguments.
        column: String,
        /// The table.
        table: String,
    },
    /// A column's type was changed.
    #[error("column \"{column}\" of relation \"{table}\" has another type than when the trigger was attached")]
    WrongType {
        /// The column.
        column: String,
        /// The table.
        table: String,
    },
    /// The clip has no embedding.
    #[error("{source}")]
    Embed {
        /// Why.
        source: EmbedError,
        /// Where.
        row: String,
    },
    /// The embedding does not fit the column.
    #[error(transparent)]
    Vector(#[from] VectorError),
}

fn embed_row(call: &Call) -> Result<Datum, TriggerError> {
    // SAFETY: `Firing::of` checks that this call comes from the trigger manager, which fills everything that is read.
    unsafe {
        let firing = Firing::of(call).ok_or(TriggerError::NotAsTrigger)?;
        let [audio_name, style_name, model] = firing.arguments().ok_or(TriggerError::NotAsTrigger)?;
        let audio = firing.column(&audio_name)?;
        let style = firing.column(&style_name)?;
        if firing.type_of(audio) != pg_sys::BYTEAOID {
            return Err(TriggerError::WrongType { column: audio_name, table: firing.table() });
        }
        let clip = firing.new_value(audio);
        if let Some(old) = firing.old {
            let unchanged = |column| same(firing.value(old, column), firing.new_value(column));
            // Programs that write every column back must not pay for the audio they did not touch. Whoever wants it
            // embedded again sets the style to NULL.
            if unchanged(audio) && unchanged(style) && firing.new_value(style).is_some() {
                return Ok(Datum::from(firing.new));
            }
        }
        let embedding = match clip {
            None => None,
            Some(clip) => {
                let embedding =
                    embed::embed_clip(datum::bytes(clip), &model).map_err(|source| TriggerError::Embed {
                        source,
                        row: format!("While embedding column \"{audio_name}\" of table \"{}\".", firing.table()),
                    })?;
                check_fits(embedding.as_vector().elements.len(), io::modifier(firing.modifier_of(style)))?;
                Some(embedding.into_sql(call))
            }
        };
        Ok(Datum::from(firing.with(style, embedding)))
    }
}

/// Two values as they are stored: a value out of line that was not touched keeps its address, so this never fetches one.
///
/// # Safety
/// Both are values of one column of variable length.
unsafe fn same(old: Option<Datum>, new: Option<Datum>) -> bool {
    unsafe extern "C-unwind" {
        // Declared in utils/datum.h, which pgrx does not bind.
        fn datumIsEqual(left: Datum, right: Datum, by_value: bool, length: i32) -> bool;
    }
    match (old, new) {
        (None, None) => true,
        // SAFETY: as the caller says.
        (Some(old), Some(new)) => unsafe { datumIsEqual(old, new, false, -1) },
        _ => false,
    }
}

/// One firing of the trigger.
struct Firing {
    data: *mut pg_sys::TriggerData,
    descriptor: pg_sys::TupleDesc,
    new: pg_sys::HeapTuple,
    old: Option<pg_sys::HeapTuple>,
}

impl Firing {
    /// # Safety
    /// `call` is the call that is running.
    unsafe fn of(call: &Call) -> Option<Self> {
        // SAFETY: the context of a call is NULL or a node, whose first field is its kind; for a trigger it is TriggerData.
        unsafe {
            let context = (*call.info()).context;
            if context.is_null() || (*context).type_ != pg_sys::NodeTag::T_TriggerData {
                return None;
            }
            let data = context.cast::<pg_sys::TriggerData>();
            let event = (*data).tg_event;
            let timing = pg_sys::TRIGGER_EVENT_TIMINGMASK | pg_sys::TRIGGER_EVENT_ROW;
            if event & timing != pg_sys::TRIGGER_EVENT_BEFORE | pg_sys::TRIGGER_EVENT_ROW {
                return None;
            }
            let (new, old) = match event & pg_sys::TRIGGER_EVENT_OPMASK {
                pg_sys::TRIGGER_EVENT_INSERT => ((*data).tg_trigtuple, None),
                pg_sys::TRIGGER_EVENT_UPDATE => ((*data).tg_newtuple, Some((*data).tg_trigtuple)),
                _ => return None,
            };
            Some(Self { data, descriptor: (*(*data).tg_relation).rd_att, new, old })
        }
    }

    unsafe fn arguments(&self) -> Option<[String; 3]> {
        // SAFETY: PostgreSQL keeps `tgnargs` NUL-terminated strings.
        unsafe {
            let trigger = (*self.data).tg_trigger;
            let argument = |index| CStr::from_ptr(*(*trigger).tgargs.add(index)).to_string_lossy().into_owned();
            ((*trigger).tgnargs == 3).then(|| [argument(0), argument(1), argument(2)])
        }
    }

    unsafe fn table(&self) -> String {
        // SAFETY: a name is a NUL-terminated array of an open relation.
        unsafe {
            let name = &(*(*(*self.data).tg_relation).rd_rel).relname;
            CStr::from_ptr(name.data.as_ptr()).to_string_lossy().into_owned()
        }
    }

    /// Number of a column, counting from one.
    unsafe fn column(&self, name: &str) -> Result<i32, TriggerError> {
        // SAFETY: the descriptor lives as long as the relation is open.
        let number = unsafe { pg_sys::SPI_fnumber(self.descriptor, datum::c_string(name).as_ptr()) };
        if number > 0 {
            return Ok(number);
        }
        // SAFETY: as above.
        Err(TriggerError::NoColumn { column: name.to_owned(), table: unsafe { self.table() } })
    }

    unsafe fn type_of(&self, column: i32) -> pg_sys::Oid {
        // SAFETY: `column` came from `Firing::column`.
        unsafe { pg_sys::SPI_gettypeid(self.descriptor, column) }
    }

    unsafe fn modifier_of(&self, column: i32) -> i32 {
        // SAFETY: as `type_of`; the wrapper gives its reference back when it is dropped.
        unsafe { PgTupleDesc::from_pg_unchecked(self.descriptor) }.get(column as usize - 1).map_or(-1, |a| a.atttypmod)
    }

    unsafe fn value(&self, tuple: pg_sys::HeapTuple, column: i32) -> Option<Datum> {
        let mut is_null = false;
        // SAFETY: `tuple` is a row of this table and `column` came from `Firing::column`.
        let value = unsafe { pg_sys::SPI_getbinval(tuple, self.descriptor, column, &mut is_null) };
        (!is_null).then_some(value)
    }

    unsafe fn new_value(&self, column: i32) -> Option<Datum> {
        // SAFETY: as `value`.
        unsafe { self.value(self.new, column) }
    }

    /// The new row with one column replaced.
    unsafe fn with(&self, column: i32, value: Option<Datum>) -> pg_sys::HeapTuple {
        let (mut column, mut is_null) = (column, value.is_none());
        let mut value = value.unwrap_or(Datum::from(0));
        // SAFETY: one column, one value, one flag; PostgreSQL copies them.
        unsafe {
            pg_sys::heap_modify_tuple_by_cols(self.new, self.descriptor, 1, &mut column, &mut value, &mut is_null)
        }
    }
}

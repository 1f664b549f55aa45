//! One firing of a trigger, seen from Rust: which row, which columns, which model.
//!
//! All triggers of `esr_attach` are made `INSERT OR UPDATE OF audio, style`: PostgreSQL keeps such a list as column
//! numbers, which survive RENAME, follow into partitions and dumps, and make DROP COLUMN ask for CASCADE. Their one
//! argument is the model.
//!
//! Unsafe is allowed here: a trigger gets its row as raw structures of PostgreSQL's.
#![allow(unsafe_code)]

use std::ffi::CStr;

use pgrx::pg_sys::{self, Datum, Oid};

use crate::am::relation::row_id;
use crate::datum;
use crate::error::SqlError;
use crate::fmgr::{Call, IntoSql};
use crate::model_usage;
use crate::vector::{OwnedVector, check_fits, io};
use crate::writing::error::TriggerError;
use crate::writing::statement::Position;
use crate::writing::target::Target;

/// When a trigger fires.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Timing {
    /// Before a row is stored.
    BeforeRow,
    /// After it, once the statement has stored all its rows.
    AfterRow,
    /// Before the statement.
    BeforeStatement,
    /// After the statement and all triggers AFTER ROW.
    AfterStatement,
}

/// One firing of a trigger.
pub struct Firing {
    data: *mut pg_sys::TriggerData,
    /// When.
    pub timing: Timing,
    new: pg_sys::HeapTuple,
    old: Option<pg_sys::HeapTuple>,
    audio: i16,
    style: i16,
    model: String,
}

impl Firing {
    /// The firing that a call is about; `None` if it is called in some other way.
    pub fn of(call: &Call) -> Option<Self> {
        // SAFETY: the context of a call is NULL or a node, whose first field is its kind; for a trigger it is TriggerData,
        // which the trigger manager fills; it keeps `tgnattr` numbers and `tgnargs` NUL-terminated strings.
        unsafe {
            let context = (*call.info()).context;
            if context.is_null() || (*context).type_ != pg_sys::NodeTag::T_TriggerData {
                return None;
            }
            let data = context.cast::<pg_sys::TriggerData>();
            let event = (*data).tg_event;
            let is_row = event & pg_sys::TRIGGER_EVENT_ROW != 0;
            let timing = match (event & pg_sys::TRIGGER_EVENT_TIMINGMASK, is_row) {
                (pg_sys::TRIGGER_EVENT_BEFORE, true) => Timing::BeforeRow,
                (pg_sys::TRIGGER_EVENT_AFTER, true) => Timing::AfterRow,
                (pg_sys::TRIGGER_EVENT_BEFORE, false) => Timing::BeforeStatement,
                (pg_sys::TRIGGER_EVENT_AFTER, false) => Timing::AfterStatement,
                _ => return None,
            };
            let (new, old) = match event & pg_sys::TRIGGER_EVENT_OPMASK {
                pg_sys::TRIGGER_EVENT_INSERT => ((*data).tg_trigtuple, None),
                pg_sys::TRIGGER_EVENT_UPDATE => ((*data).tg_newtuple, Some((*data).tg_trigtuple)),
                _ => return None,
            };
            let trigger = &*(*data).tg_trigger;
            if trigger.tgnattr != 2 || trigger.tgnargs != 1 {
                return None;
            }
            let model = CStr::from_ptr(*trigger.tgargs).to_string_lossy().into_owned();
            Some(Self { data, timing, new, old, audio: *trigger.tgattr, style: *trigger.tgattr.add(1), model })
        }
    }

    fn relation(&self) -> pg_sys::Relation {
        // SAFETY: a trigger's relation is open while it fires.
        unsafe { (*self.data).tg_relation }
    }

    fn descriptor(&self) -> pg_sys::TupleDesc {
        // SAFETY: as above.
        unsafe { (*self.relation()).rd_att }
    }

    /// The table that fired.
    pub fn table(&self) -> Oid {
        // SAFETY: as above.
        unsafe { (*self.relation()).rd_id }
    }

    /// Its name.
    pub fn table_name(&self) -> String {
        // SAFETY: as above.
        unsafe { crate::am::relation::name(self.relation()) }
    }

    /// Whether a table is the one that fired, or the fired one is a partition of it.
    pub fn is_part_of(&self, table: Oid) -> bool {
        unsafe extern "C-unwind" {
            // Declared in catalog/partition.h, which pgrx does not bind.
            fn get_partition_ancestors(relation: Oid) -> *mut pg_sys::List;
        }
        if table == self.table() {
            return true;
        }
        // SAFETY: the relation is open; the list is of numbers and lies in the current memory context.
        unsafe {
            (*(*self.relation()).rd_rel).relispartition
                && pg_sys::list_member_oid(get_partition_ancestors(self.table()), table)
        }
    }

    /// What the trigger is attached to.
    pub fn target(&self) -> Target {
        Target { relation: self.table(), audio: self.audio, style: self.style, model: self.model.clone() }
    }

    /// Number of the style column.
    pub fn style(&self) -> i16 {
        self.style
    }

    /// Name of the model.
    pub fn model(&self) -> &str {
        &self.model
    }

    /// Refuses a model that the table's owner may not use. Whoever writes into the table needs no right of his own.
    pub fn check_model(&self) -> Result<(), SqlError> {
        // SAFETY: a trigger's relation is open while it fires.
        let owner = unsafe { (*(*self.relation()).rd_rel).relowner };
        model_usage::check(&self.model, owner)
    }

    fn attribute(&self, column: i16) -> &pg_sys::FormData_pg_attribute {
        // SAFETY: PostgreSQL drops a trigger whose column is dropped, so the number names an attribute of the table.
        unsafe {
            let attributes = (*self.descriptor()).attrs.as_ptr();
            &*attributes.add(column as usize - 1)
        }
    }

    /// Name of the audio column.
    pub fn audio_name(&self) -> String {
        // SAFETY: a name is NUL-terminated.
        unsafe { CStr::from_ptr(self.attribute(self.audio).attname.data.as_ptr()) }.to_string_lossy().into_owned()
    }

    /// Refuses columns whose types were changed since the trigger was made.
    pub fn check_types(&self) -> Result<(), TriggerError> {
        // SAFETY: looks a type up.
        let base = |column| unsafe { pg_sys::getBaseType(self.attribute(column).atttypid) };
        let is_vector = || {
            // SAFETY: looks a function up; `esr_embed_row` and the type lie in the same schema.
            unsafe {
                let schema = pg_sys::get_func_namespace((*(*self.data).tg_trigger).tgfoid);
                datum::type_is(base(self.style), "esr_vector", schema)
            }
        };
        if base(self.audio) == pg_sys::BYTEAOID && is_vector() {
            return Ok(());
        }
        Err(TriggerError::WrongType { column: self.audio_name(), table: self.table_name() })
    }

    /// Whether a row may be stored without a vector at first. Not where a constraint forbids it, and not in a foreign
    /// table, whose rows have no place by which to find them again.
    pub fn may_wait(&self) -> bool {
        // SAFETY: looks a type up; the relation is open.
        unsafe {
            let style = self.attribute(self.style);
            let is_domain = pg_sys::get_typtype(style.atttypid) as u8 == pg_sys::TYPTYPE_DOMAIN;
            let kind = (*(*self.relation()).rd_rel).relkind as u8;
            !style.attnotnull && !is_domain && kind == pg_sys::RELKIND_RELATION
        }
    }

    fn value(&self, tuple: pg_sys::HeapTuple, column: i16) -> Option<Datum> {
        let mut is_null = false;
        // SAFETY: `tuple` is a row of this table and `column` one of its columns.
        let value = unsafe { pg_sys::SPI_getbinval(tuple, self.descriptor(), column.into(), &mut is_null) };
        (!is_null).then_some(value)
    }

    /// The clip of the new row.
    pub fn clip(&self) -> Option<&[u8]> {
        // SAFETY: `check_types` has seen that the column holds bytes, which live as long as the call.
        self.value(self.new, self.audio).map(|clip| unsafe { datum::bytes(clip) })
    }

    /// Whether the new row has a clip; fetches nothing.
    pub fn has_clip(&self) -> bool {
        self.value(self.new, self.audio).is_some()
    }

    /// Whether the new row has a vector.
    pub fn has_style(&self) -> bool {
        self.value(self.new, self.style).is_some()
    }

    /// Whether this is an UPDATE that leaves the audio as it is stored.
    pub fn keeps_audio(&self) -> bool {
        self.keeps(self.audio)
    }

    /// Whether this is an UPDATE that leaves a column as it is stored: a value out of line that was not touched keeps its
    /// address, so this never fetches one.
    fn keeps(&self, column: i16) -> bool {
        unsafe extern "C-unwind" {
            // Declared in utils/datum.h, which pgrx does not bind.
            fn datumIsEqual(left: Datum, right: Datum, by_value: bool, length: i32) -> bool;
        }
        let Some(old) = self.old else { return false };
        match (self.value(old, column), self.value(self.new, column)) {
            (None, None) => true,
            // SAFETY: two values of one column of variable length.
            (Some(old), Some(new)) => unsafe { datumIsEqual(old, new, false, -1) },
            _ => false,
        }
    }

    /// Where the new row lies; only after it was stored.
    pub fn tid(&self) -> String {
        // SAFETY: a trigger AFTER ROW gets the row as it was stored.
        let row = row_id(unsafe { (*self.new).t_self });
        format!("({},{})", row.block, row.offset)
    }

    /// The row as it is.
    pub fn unchanged(&self) -> Datum {
        Datum::from(self.new)
    }

    /// The row with this style.
    pub fn with_style(&self, call: &Call, vector: Option<OwnedVector>) -> Result<Datum, TriggerError> {
        let style = self.attribute(self.style);
        let mut modifier = style.atttypmod;
        // SAFETY: looks a type up.
        unsafe { pg_sys::getBaseTypeAndTypmod(style.atttypid, &mut modifier) };
        if let Some(vector) = &vector {
            check_fits(vector.as_vector().elements.len(), io::modifier(modifier))?;
        }
        let (mut column, mut is_null) = (i32::from(self.style), vector.is_none());
        let mut value = vector.map_or(Datum::from(0), |vector| vector.into_sql(call));
        // SAFETY: one column, one value, one flag; PostgreSQL copies them. The row is not checked against a domain after
        // this, so it is checked here.
        unsafe {
            if pg_sys::get_typtype(style.atttypid) as u8 == pg_sys::TYPTYPE_DOMAIN {
                let context = pg_sys::CurrentMemoryContext;
                pg_sys::domain_check(value, is_null, style.atttypid, std::ptr::null_mut(), context);
            }
            let descriptor = self.descriptor();
            let row = pg_sys::heap_modify_tuple_by_cols(self.new, descriptor, 1, &mut column, &mut value, &mut is_null);
            Ok(Datum::from(row))
        }
    }

    /// Where in the nesting of transactions this is. The statement writes, so that it has a transaction id.
    pub fn position(&self) -> Position {
        // SAFETY: in a running transaction.
        unsafe {
            Position {
                transaction: pg_sys::GetTopTransactionId().into_inner(),
                subtransaction: pg_sys::GetCurrentSubTransactionId(),
                level: pg_sys::GetCurrentTransactionNestLevel(),
            }
        }
    }
}

//! Exact vectors of the table's rows: the second seam of `esr-ivf`. Knows tables and snapshots, not what is searched for.
//!
//! A scan measures its last few candidates here, a hundred or so for each query, so a row must cost about a microsecond: a
//! column of a heap is read straight from the page, and only a value that has to be fetched from elsewhere is copied.
//!
//! Unsafe is allowed here. Pointers are PostgreSQL's: the slot holds a pin on the page of the last row, and what is read
//! from it is used before the next row is asked for. [`TableVectors::close`] gives everything back; after an error the
//! transaction's abort does, so dropping does nothing.
#![allow(unsafe_code)]

use std::ptr::null_mut;

use esr_ivf::{ExactVectors, RowId};
use esr_vector::{Metric, metric};
use pgrx::varlena::varatt_is_1b_e;
use pgrx::{pg_sys, pg_sys::Datum};

use super::error::IndexError;
use super::heap_rows::HeapRows;
use super::pg_missing;
use super::relation::{Index, item_pointer};
use crate::datum;
use crate::error::{SqlError, or_raise};
use crate::vector::{Vector, VectorError};

/// Where the indexed value of a row is found.
enum Value {
    /// In a column of the table.
    Column(i16),
    /// By evaluating the index's expression.
    Expression { info: *mut pg_sys::IndexInfo, state: *mut pg_sys::EState, context: *mut pg_sys::ExprContext },
}

/// Reads the indexed values of single rows.
pub struct TableVectors {
    table: pg_sys::Relation,
    fetch: *mut pg_sys::IndexFetchTableData,
    slot: *mut pg_sys::TupleTableSlot,
    snapshot: pg_sys::Snapshot,
    value: Value,
    /// The short way to a column of a heap.
    heap: Option<(HeapRows, i16)>,
    /// For copies of values that are not plain in their row.
    scratch: pg_sys::MemoryContext,
    /// Pages of the table when they were last counted.
    blocks: u32,
    index: Index,
}

impl TableVectors {
    /// Opens a table for reading rows as a snapshot sees them, in the current memory context.
    ///
    /// # Safety
    /// `table` is `index`'s and is open until [`TableVectors::close`]; the snapshot stays registered, and the current
    /// memory context alive, as long.
    pub unsafe fn open(table: pg_sys::Relation, index: Index, snapshot: pg_sys::Snapshot) -> Self {
        // SAFETY: as the caller says.
        unsafe {
            let info = pg_sys::BuildIndexInfo(index.raw());
            let column = (*info).ii_IndexAttrNumbers[0];
            let value = if column > 0 {
                Value::Column(column)
            } else {
                let state = pg_sys::CreateExecutorState();
                Value::Expression { info, state, context: pg_sys::MakePerTupleExprContext(state) }
            };
            let slot = pg_sys::table_slot_create(table, null_mut());
            if let Value::Expression { context, .. } = value {
                (*context).ecxt_scantuple = slot;
            }
            let blocks = pg_sys::RelationGetNumberOfBlocksInFork(table, pg_sys::ForkNumber::MAIN_FORKNUM);
            Self {
                table,
                fetch: pg_missing::index_fetch_begin(table),
                slot,
                snapshot,
                heap: HeapRows::of(table).filter(|_| column > 0).map(|rows| (rows, column)),
                value,
                scratch: pg_sys::AllocSetContextCreateInternal(
                    pg_sys::CurrentMemoryContext,
                    c"esr_ivf exact vectors".as_ptr(),
                    pg_sys::ALLOCSET_DEFAULT_MINSIZE as usize,
                    pg_sys::ALLOCSET_DEFAULT_INITSIZE as usize,
                    pg_sys::ALLOCSET_DEFAULT_MAXSIZE as usize,
                ),
                blocks,
                index,
            }
        }
    }

    /// Gives back what `open` took.
    pub fn close(mut self) {
        if let Some((rows, _)) = &mut self.heap {
            rows.forget();
        }
        // SAFETY: `open` made all of these; none is used afterwards.
        unsafe {
            pg_sys::ExecDropSingleTupleTableSlot(self.slot);
            pg_missing::index_fetch_end(self.fetch);
            if let Value::Expression { state, .. } = self.value {
                pg_sys::FreeExecutorState(state);
            }
            pg_sys::MemoryContextDelete(self.scratch);
        }
    }

    /// Refuses a row that lies beyond the table's end.
    #[inline]
    fn require_in_table(&mut self, row: RowId) {
        if row.block >= self.blocks {
            self.count_blocks(row);
        }
    }

    /// The table may have grown since it was opened; an index that points beyond its end is damaged.
    #[cold]
    fn count_blocks(&mut self, row: RowId) {
        // SAFETY: the table is open.
        self.blocks = unsafe { pg_sys::RelationGetNumberOfBlocksInFork(self.table, pg_sys::ForkNumber::MAIN_FORKNUM) };
        if row.block >= self.blocks {
            let RowId { block, offset } = row;
            let problem = format!("it points to row ({block},{offset}), and the table has {} blocks", self.blocks);
            let error =
                IndexError::Inconsistent { index: self.index.name(), problem: problem.clone(), all: vec![problem] };
            SqlError::from(error).raise();
        }
    }

    /// The indexed value of the version of a row that the snapshot sees; `None` if it sees none, or NULL. Valid until
    /// the next call.
    #[inline]
    fn fetch(&mut self, row: RowId, snapshot: pg_sys::Snapshot) -> Option<Datum> {
        self.require_in_table(row);
        // SAFETY: `open` made fetch and slot for this table.
        unsafe {
            if !pg_missing::index_fetch_tuple(self.fetch, item_pointer(row), snapshot, self.slot) {
                return None;
            }
            match self.value {
                Value::Column(column) => {
                    if (*self.slot).tts_nvalid < column {
                        pg_sys::slot_getsomeattrs_int(self.slot, column.into());
                    }
                    let place = usize::from(column.unsigned_abs()) - 1;
                    let is_null = *(*self.slot).tts_isnull.add(place);
                    if is_null { None } else { Some(*(*self.slot).tts_values.add(place)) }
                }
                Value::Expression { info, state, context } => {
                    let (mut value, mut is_null) = (Datum::from(0), true);
                    pg_sys::MemoryContextReset((*context).ecxt_per_tuple_memory);
                    let outside = pg_sys::MemoryContextSwitchTo((*context).ecxt_per_tuple_memory);
                    pg_sys::FormIndexDatum(info, self.slot, state, &mut value, &mut is_null);
                    pg_sys::MemoryContextSwitchTo(outside);
                    if is_null { None } else { Some(value) }
                }
            }
        }
    }

    /// Shows the indexed vector of the version of a row that the scan's snapshot sees; `None` if it sees none, or NULL.
    #[inline]
    fn show<T>(&mut self, row: RowId, show: impl FnOnce(Vector<'_>) -> Result<T, VectorError>) -> Option<T> {
        self.require_in_table(row);
        let (snapshot, scratch) = (self.snapshot, self.scratch);
        let shown = match &mut self.heap {
            // SAFETY: the row's block exists; `open` says that the snapshot is valid and found the column.
            Some((rows, column)) => unsafe {
                rows.with_column(row, snapshot, *column, |value| read(scratch, value, show))?
            },
            None => read(scratch, self.fetch(row, snapshot)?, show),
        };
        Some(or_raise(shown))
    }
}

/// Lends a stored vector to a function, in the scratch memory if it must be copied.
#[inline]
fn read<T>(
    scratch: pg_sys::MemoryContext,
    value: Datum,
    read: impl FnOnce(Vector<'_>) -> Result<T, VectorError>,
) -> Result<T, VectorError> {
    // SAFETY: the value is of the index's column, an esr_vector; it outlives this call, and a copy outlives `read`.
    unsafe {
        if datum::is_plain(value) {
            return read(datum::vector(value)?);
        }
        let outside = pg_sys::MemoryContextSwitchTo(scratch);
        let result = datum::vector(value).and_then(read);
        pg_sys::MemoryContextSwitchTo(outside);
        pg_sys::MemoryContextReset(scratch);
        result
    }
}

/// Distances to a query, as a scan's snapshot sees the rows.
pub struct Distances {
    vectors: TableVectors,
    query: Vec<f32>,
    distance: fn(&[f32], &[f32]) -> f64,
}

impl Distances {
    /// Distances from a query under a metric, a row on the operator's left.
    pub fn new(vectors: TableVectors, query: &[f32], metric: Metric) -> Self {
        Self { vectors, query: query.to_vec(), distance: metric::of(metric) }
    }

    /// Refuses a row that lies beyond the table's end: an error that names the index.
    #[inline]
    pub fn require_in_table(&mut self, row: RowId) {
        self.vectors.require_in_table(row);
    }

    /// The table's rows, for another query or to close them.
    pub fn into_vectors(self) -> TableVectors {
        self.vectors
    }
}

impl ExactVectors for Distances {
    #[inline]
    fn distance(&mut self, row: RowId) -> Option<f64> {
        let (query, distance) = (&self.query, self.distance);
        self.vectors.show(row, |vector| {
            if vector.elements.len() != query.len() {
                let (left, right) = (vector.elements.len(), query.len());
                return Err(VectorError::DifferentDimensions { left, right });
            }
            Ok(distance(vector.elements, query))
        })
    }

    #[inline]
    fn announce(&mut self, row: RowId) {
        self.vectors.require_in_table(row);
        if let Some((rows, _)) = &mut self.vectors.heap {
            rows.announce(row);
        }
    }

    fn forget(&mut self) {
        if let Some((rows, _)) = &mut self.vectors.heap {
            rows.forget();
        }
    }
}

/// Vectors whoever may see their rows, for VACUUM.
///
/// All versions of a row that an index knows by one row id have the same indexed value, so the first version that is left
/// will do. Of a row that nobody can see any more, a value stored elsewhere may be gone already: it is read only if the
/// row is alive or being written.
impl esr_ivf::TableVectors for TableVectors {
    fn vector(&mut self, row: RowId, into: &mut Vec<f32>) -> bool {
        let any = (&raw const pg_sys::SnapshotAnyData).cast_mut();
        let Some(mut value) = self.fetch(row, any) else { return false };
        // SAFETY: the value is of the index's column, an esr_vector.
        if unsafe { varatt_is_1b_e(value.cast_mut_ptr()) } {
            let mut dirty = pg_missing::dirty_snapshot();
            match self.fetch(row, &mut dirty) {
                Some(living) => value = living,
                None => return false,
            }
        }
        let copied = read(self.scratch, value, |vector| {
            into.clear();
            into.extend_from_slice(vector.elements);
            Ok(())
        });
        or_raise(copied);
        true
    }
}

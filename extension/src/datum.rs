//! Values in PostgreSQL's memory, seen from Rust: vectors, byte strings and text, in and out; arrays are in `datum/array.rs`.
//!
//! Unsafe is allowed here. Pointers come from PostgreSQL as arguments of the running call; what is returned borrows from
//! that call, and what is built lies in the current memory context.
#![allow(unsafe_code)]

mod array;

use std::borrow::Cow;
use std::ffi::{CStr, CString, c_char};

use pgrx::pg_sys::{self, Datum};
use pgrx::{PgSqlErrorCode, varlena};

use crate::error::SqlError;
use crate::vector::{Vector, VectorError, layout};

pub use array::{ArrayParts, Bytes, Element, ServerText, array, new_array, new_vector_array, type_modifiers};

/// Reads an `esr_vector`, fetching and decompressing it first where the row holds it elsewhere or packed.
///
/// # Safety
/// `datum` is an `esr_vector` that outlives `'a`.
#[inline]
pub unsafe fn vector<'a>(datum: Datum) -> Result<Vector<'a>, VectorError> {
    let mut value: *mut pg_sys::varlena = datum.cast_mut_ptr();
    // SAFETY: the pointer is a varlena (see above); after detoasting it is a plain one, `varsize_4b` bytes long, of which
    // `decode` has found at least a header and exactly its elements, 4-byte aligned like every plain varlena.
    unsafe {
        if !varlena::varatt_is_4b_u(value) {
            value = pg_sys::pg_detoast_datum(value);
        }
        let bytes = varlena::varsize_4b(value);
        if bytes < layout::HEADER_BYTES {
            return Err(VectorError::Damaged { problem: format!("{bytes} bytes") });
        }
        let start = value.cast::<u8>();
        let (dimensions, tag) = layout::decode(&*start.add(4).cast(), bytes)?;
        let elements = std::slice::from_raw_parts(start.add(layout::HEADER_BYTES).cast::<f32>(), dimensions);
        Ok(Vector { tag, elements })
    }
}

/// Whether [`vector`] reads a value where it lies, without a copy in the current memory context.
///
/// # Safety
/// `datum` is a value of variable length.
#[inline]
pub unsafe fn is_plain(datum: Datum) -> bool {
    // SAFETY: as the caller says.
    unsafe { varlena::varatt_is_4b_u(datum.cast_mut_ptr()) }
}

/// Like [`vector`], for the argument of a distance: asks the CPU to fetch the row that a scan will most likely visit next
/// while this one is being measured. A scan of vectors is bound by the latency of memory, and a vector is too far from
/// the next one for the CPU to guess; this takes a quarter off the time of an exact scan (512 dimensions, warm buffers).
///
/// # Safety
/// As [`vector`].
#[inline]
pub unsafe fn scanned_vector<'a>(datum: Datum) -> Result<Vector<'a>, VectorError> {
    // SAFETY: as the caller says; prefetching is a hint that may be given for any address.
    unsafe {
        let vector = vector(datum)?;
        prefetch_next_row(datum.value(), layout::value_bytes(vector.elements.len()));
        Ok(vector)
    }
}

/// Bytes of a row around a vector: line pointer, tuple header, a few small columns.
const ROW_OVERHEAD: usize = 64;

/// Fetches the neighbour of a value in a shared buffer. Rows lie on their page from the end downwards in the order in
/// which a scan visits them, so the next one is just before this one; after the lowest comes the top of the next page,
/// which often is in the next buffer.
#[inline]
fn prefetch_next_row(value: usize, bytes: usize) {
    const PAGE: usize = pg_sys::BLCKSZ as usize;
    // SAFETY: PostgreSQL sets both once, before any backend runs.
    let (pool, pool_bytes) = unsafe { (pg_sys::BufferBlocks as usize, pg_sys::NBuffers as usize * PAGE) };
    let position = value.wrapping_sub(pool);
    if position >= pool_bytes {
        return;
    }
    let row = bytes + ROW_OVERHEAD;
    let on_page = position % PAGE;
    let from = if on_page >= row { value - row } else { value - on_page + 2 * PAGE - row };
    prefetch(from as *const u8, row);
}

/// Asks the CPU to have these bytes at hand soon. A hint, which may be given for any address.
#[inline(always)]
pub fn prefetch(start: *const u8, bytes: usize) {
    const LINE: usize = 64;
    #[cfg(target_arch = "x86_64")]
    for offset in (0..bytes).step_by(LINE) {
        // SAFETY: a prefetch never faults, whatever the address.
        unsafe {
            std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(start.wrapping_add(offset).cast());
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (start, bytes, LINE);
}

/// Copies a vector into the current memory context.
pub fn new_vector(vector: Vector<'_>) -> Datum {
    let size = layout::value_bytes(vector.elements.len());
    let header = layout::encode(vector.elements.len(), vector.tag);
    // SAFETY: the allocation is `size` bytes, which is the header and the elements.
    unsafe {
        let start = new_varlena(size);
        std::ptr::copy_nonoverlapping(header.as_ptr(), start.add(4), header.len());
        let elements = vector.elements;
        std::ptr::copy_nonoverlapping(
            elements.as_ptr().cast::<u8>(),
            start.add(layout::HEADER_BYTES),
            size_of_val(elements),
        );
        Datum::from(start)
    }
}

/// Reads a variable-length value of plain bytes.
///
/// # Safety
/// `datum` is a `bytea` or `text` that outlives `'a`.
pub unsafe fn bytes<'a>(datum: Datum) -> &'a [u8] {
    let mut value: *mut pg_sys::varlena = datum.cast_mut_ptr();
    // SAFETY: what is neither external nor compressed can be read where it lies; `pg_detoast_datum_packed` makes it so.
    unsafe {
        let is_readable =
            varlena::varatt_is_4b_u(value) || (varlena::varatt_is_1b(value) && !varlena::varatt_is_1b_e(value));
        if !is_readable {
            value = pg_sys::pg_detoast_datum_packed(value);
        }
        varlena::varlena_to_byte_slice(value)
    }
}

/// Changes a `bytea`: in place where that is allowed and the value is plain, else a copy of it. Returns the one changed.
///
/// # Safety
/// `datum` is a `bytea`; where it is `in_place`, nobody else reads it: PostgreSQL lets an aggregate write over its own
/// transition value.
pub unsafe fn change_bytes(datum: Datum, in_place: bool, change: impl FnOnce(&mut [u8])) -> Datum {
    let mut value: *mut pg_sys::varlena = datum.cast_mut_ptr();
    // SAFETY: as the caller says. A plain varlena holds `varsize_4b - 4` bytes behind its length.
    unsafe {
        if !in_place || !varlena::varatt_is_4b_u(value) {
            value = pg_sys::pg_detoast_datum_copy(value);
        }
        let content = value.cast::<u8>().add(4);
        change(std::slice::from_raw_parts_mut(content, varlena::varsize_4b(value) - 4));
    }
    Datum::from(value)
}

/// Copies bytes into the current memory context as a `bytea`.
pub fn new_bytes(content: &[u8]) -> Datum {
    // SAFETY: the allocation is 4 bytes longer than the content.
    unsafe {
        let start = new_varlena(content.len() + 4);
        std::ptr::copy_nonoverlapping(content.as_ptr(), start.add(4), content.len());
        Datum::from(start)
    }
}

/// Copies text into the current memory context, in the server's encoding.
pub fn new_text(content: &str) -> Datum {
    new_bytes(&to_server(content))
}

/// Copies text into the current memory context as a `cstring`; for our own output, which is ASCII without NUL.
pub fn new_cstring(content: &str) -> Datum {
    // SAFETY: the allocation is one byte longer than the content.
    unsafe {
        let start = pg_sys::palloc(content.len() + 1).cast::<u8>();
        std::ptr::copy_nonoverlapping(content.as_ptr(), start, content.len());
        start.add(content.len()).write(0);
        Datum::from(start)
    }
}

/// Text as Rust wants it, whatever the database's encoding.
pub fn to_utf8(server: &[u8]) -> Result<Cow<'_, str>, SqlError> {
    // SAFETY: asks PostgreSQL for a conversion of `server.len()` bytes at a valid pointer; it returns either the same
    // pointer (nothing to convert) or a NUL-terminated copy in the current memory context.
    let converted = unsafe {
        let from = server.as_ptr().cast::<c_char>();
        let to = pg_sys::pg_server_to_any(from, server.len() as i32, pg_sys::pg_enc::PG_UTF8 as i32);
        if std::ptr::eq(to, from) { Cow::Borrowed(server) } else { Cow::Owned(CStr::from_ptr(to).to_bytes().to_vec()) }
    };
    let invalid = |_| {
        SqlError::new(PgSqlErrorCode::ERRCODE_CHARACTER_NOT_IN_REPERTOIRE, "text is not valid UTF-8")
            .hint("A database with encoding SQL_ASCII must hold UTF-8 text to be embedded.")
    };
    match converted {
        Cow::Borrowed(bytes) => std::str::from_utf8(bytes).map(Cow::Borrowed).map_err(|_| invalid(())),
        Cow::Owned(bytes) => String::from_utf8(bytes).map(Cow::Owned).map_err(|_| invalid(())),
    }
}

/// Text as the server wants it.
pub fn to_server(text: &str) -> Cow<'_, [u8]> {
    // SAFETY: as in `to_utf8`.
    unsafe {
        let from = text.as_ptr().cast::<c_char>();
        let to = pg_sys::pg_any_to_server(from, text.len() as i32, pg_sys::pg_enc::PG_UTF8 as i32);
        if std::ptr::eq(to, from) {
            Cow::Borrowed(text.as_bytes())
        } else {
            Cow::Owned(CStr::from_ptr(to).to_bytes().to_vec())
        }
    }
}

/// An allocation in the current memory context whose varlena length is set.
///
/// # Safety
/// The caller fills all bytes after the first four.
unsafe fn new_varlena(size: usize) -> *mut u8 {
    // SAFETY: palloc never returns NULL; it raises an error.
    unsafe {
        let start = pg_sys::palloc(size);
        varlena::set_varsize_4b(start.cast(), size as i32);
        start.cast()
    }
}

/// Takes the bytes that are left in the message a `recv` function was given.
pub fn take_message(internal: Datum) -> Vec<u8> {
    // SAFETY: PostgreSQL passes a StringInfo to recv functions; `cursor` never passes `len`.
    unsafe {
        let message: pg_sys::StringInfo = internal.cast_mut_ptr();
        let (start, end) = ((*message).cursor as usize, (*message).len as usize);
        (*message).cursor = (*message).len;
        std::slice::from_raw_parts((*message).data.cast::<u8>().add(start), end - start).to_vec()
    }
}

/// Whether a type is the one of this name in this schema.
pub fn type_is(found: pg_sys::Oid, name: &str, schema: pg_sys::Oid) -> bool {
    let name = c_string(name);
    let cache = pg_sys::SysCacheIdentifier::TYPENAMENSP as i32;
    let number = pg_sys::Anum_pg_type_oid as i16;
    let (key, none) = (Datum::from(name.as_ptr()), Datum::from(0));
    // SAFETY: looks a type up by two keys, name and schema.
    found == unsafe { pg_sys::GetSysCacheOid(cache, number, key, Datum::from(schema), none, none) }
}

/// PostgreSQL's own hash of a byte string, so that hash joins and partitions spread as they do for its own types.
pub fn hash(bytes: &[u8], seed: u64) -> u64 {
    unsafe extern "C-unwind" {
        // Declared in common/hashfn.h, which pgrx does not bind.
        fn hash_bytes_extended(bytes: *const u8, length: i32, seed: u64) -> u64;
    }
    // SAFETY: reads `length` bytes at a valid pointer and cannot raise an error.
    unsafe { hash_bytes_extended(bytes.as_ptr(), bytes.len() as i32, seed) }
}

/// A C string for PostgreSQL; bytes after a NUL, which no name of ours has, are cut off.
pub fn c_string(text: &str) -> CString {
    let end = text.find('\0').unwrap_or(text.len());
    CString::new(&text[..end]).unwrap_or_default()
}

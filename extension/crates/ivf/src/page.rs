//! What lies on the pages. Change anything here or in [`crate::block`] and [`FORMAT`] goes up.
//!
//! ```text
//! block 0: meta ──▶ model pages (rotation, codebook: one byte stream over a chain of pages)
//!            ├────▶ directory pages ─▶ ...   one entry a list: head page, size, centroid in bytes
//!            └────▶ free pages ─▶ ...
//!
//! list: head ─▶ page ─▶ page ─▶ ...           new rows go to the head; when it is full its rows move to a new second page
//!
//! list page: | PageHeader | epoch, version, live, fresh | block 0 | block 1 | ...       blocks: see [`crate::block`]
//! ```
//!
//! Lists 0 and 1 have no centroid: they hold the rows whose column is NULL and those whose distance is not a number (zero
//! vectors under cosine). All numbers are little-endian.

use zerocopy::little_endian::{F32, U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::store::{BlockNumber, CONTENT_BYTES, NO_BLOCK, StoreError};

/// Version of everything in this file.
pub const FORMAT: u16 = 3;

const MAGIC: u32 = u32::from_le_bytes(*b"esrI");

/// Where the meta page is.
pub const META_BLOCK: BlockNumber = 0;

/// The list of rows whose column is NULL.
pub const NULL_LIST: u32 = 0;
/// The list of rows whose distance to anything is not a number.
pub const UNRANKED_LIST: u32 = 1;
/// The first list with a centroid.
pub const FIRST_LIST: u32 = 2;

/// Recall targets that a calibration has been made for.
pub const TARGETS: [f32; 10] = [0.5, 0.7, 0.8, 0.85, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999];
/// Numbers of rows wanted that a calibration has been made for.
pub const RANKS: [u32; 4] = [1, 10, 100, 1000];
/// Classes of queries that a calibration tells apart, by how far out their nearest rows lie ([`crate::surprise`]).
pub const CLASSES: usize = 4;

/// What a page is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum Kind {
    /// Block 0.
    Meta = 1,
    /// A piece of the model.
    Model = 2,
    /// Entries of lists.
    Directory = 3,
    /// Rows of a list.
    List = 4,
    /// Waiting to be used again.
    Free = 5,
}

/// First bytes of every page.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct PageHeader {
    magic: U32,
    kind: U16,
    format: U16,
    /// Next page of the chain, or [`NO_BLOCK`].
    pub next: U32,
    /// List pages: the list; model and directory pages: position in their chain.
    pub owner: U32,
}

/// The meta page.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Meta {
    /// Kind [`Kind::Meta`].
    pub page: PageHeader,
    /// Goes up with each training; pages of lists carry it.
    pub epoch: U32,
    /// Goes up with every change of the directory or the model.
    pub generation: U32,
    /// Elements of a vector.
    pub dimension: U32,
    /// 0 cosine, 1 Euclidean, 2 inner product.
    pub metric: U16,
    /// 0: the codebook is a guess, made without rows to learn from.
    pub is_trained: U16,
    /// Rotated axes.
    pub axes: U16,
    /// Groups of a code.
    pub groups: U16,
    /// Lists, with the two that have no centroid.
    pub lists: U32,
    /// First page of the directory.
    pub directory: U32,
    /// First page of the model.
    pub model: U32,
    /// Length of the model's byte stream.
    pub model_bytes: U32,
    /// First free page.
    pub free: U32,
    /// A list whose rows are moving to the lists from `moving_to` on, or [`NO_BLOCK`].
    pub moving_from: U32,
    /// See `moving_from`.
    pub moving_to: U32,
    /// Rows at the last calibration, as far as 32 bits go.
    pub rows_at_calibration: U32,
    /// The model tag of the indexed embeddings, 0 if none had one yet.
    pub tag: U64,
    /// Rows that the model was trained and the lists were sized for.
    pub rows_at_training: U64,
    /// Rows when the index was built or last vacuumed.
    pub rows: U64,
    /// For each of [`RANKS`]: the surprise in the middle of each class, increasing.
    pub surprises: [[F32; CLASSES]; RANKS.len()],
    /// For each of [`RANKS`], [`TARGETS`] and each class: the share of missing rows, as a natural logarithm, that may be
    /// expected when a search stops.
    pub allowances: [[[F32; CLASSES]; TARGETS.len()]; RANKS.len()],
    /// For each of [`RANKS`] and [`TARGETS`]: lists read by a search, on average over the calibration's queries.
    pub probed: [[F32; TARGETS.len()]; RANKS.len()],
}

/// A list in the directory; the centroid's bytes follow, one an axis.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct ListEntry {
    /// First page; it never changes.
    pub head: U32,
    /// Version of the list when its rows were last counted; the head has the current one.
    pub version: U32,
    /// Rows when the index was built or last vacuumed.
    pub rows: U32,
    /// Size of one step of the centroid's bytes: coordinate = (byte - 128) * step.
    pub step: F32,
    /// Mean squared distance of its rows from the centroid, over that of all rows.
    pub spread: F32,
    /// Mean squared length of its rows.
    pub norm: F32,
}

/// First bytes of a list's page.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct ListHeader {
    /// Kind [`Kind::List`].
    pub page: PageHeader,
    /// See [`Meta::epoch`].
    pub epoch: U32,
    /// Head only: goes up when rows leave the list or change pages.
    pub version: U32,
    /// Rows on this page.
    pub live: U16,
    /// 1 on the first page of a list.
    pub is_head: U16,
    /// Number of the block whose codes lie row by row, plus one; 0 if there is none.
    pub fresh: U32,
}

const _: () = assert!(size_of::<PageHeader>() == 16);
const _: () = assert!(size_of::<Meta>() == 92 + 4 * RANKS.len() * (CLASSES + TARGETS.len() * (CLASSES + 1)));
const _: () = assert!(size_of::<ListEntry>() == 24);
const _: () = assert!(size_of::<ListHeader>() == 32);

impl PageHeader {
    /// The header of a new page.
    pub fn new(kind: Kind, owner: u32) -> Self {
        Self {
            magic: MAGIC.into(),
            kind: (kind as u16).into(),
            format: FORMAT.into(),
            next: NO_BLOCK.into(),
            owner: owner.into(),
        }
    }

    /// The same with a page after it.
    pub fn linked(kind: Kind, owner: u32, next: BlockNumber) -> Self {
        Self { next: next.into(), ..Self::new(kind, owner) }
    }

    /// Whether this page is of a kind (and one of ours at all).
    pub fn is(&self, kind: Kind) -> bool {
        self.magic.get() == MAGIC && self.kind.get() == kind as u16
    }
}

impl ListHeader {
    /// The header of an empty page of a list.
    pub fn new(list: u32, epoch: u32, version: u32, is_head: bool) -> Self {
        Self {
            page: PageHeader::new(Kind::List, list),
            epoch: epoch.into(),
            version: version.into(),
            live: 0.into(),
            is_head: u16::from(is_head).into(),
            fresh: 0.into(),
        }
    }
}

/// Reads a struct from the start of a page and checks that the page is what it should be.
///
/// # Errors
/// [`StoreError::Damaged`] or [`StoreError::Format`].
pub fn read<T: FromBytes + KnownLayout + Immutable + Unaligned>(
    bytes: &[u8],
    block: BlockNumber,
    kind: Kind,
) -> Result<&T, StoreError> {
    let header = header(bytes);
    if !header.is(kind) {
        let problem = if header.magic.get() == MAGIC {
            format!("a page of kind {} where one of kind {} ({kind:?}) belongs", header.kind.get(), kind as u16)
        } else {
            format!("it does not look like a page of esr_ivf ({kind:?} expected)")
        };
        return Err(StoreError::Damaged { block, problem });
    }
    if header.format.get() != FORMAT {
        return Err(StoreError::Format { found: header.format.get(), expected: FORMAT });
    }
    Ok(T::ref_from_prefix(bytes).expect("a page is longer than any header").0)
}

/// The first bytes of any page.
pub fn header(bytes: &[u8]) -> &PageHeader {
    PageHeader::ref_from_prefix(bytes).expect("a page is longer than its header").0
}

/// A struct at the start of a page whose kind is known.
pub fn view<T: FromBytes + KnownLayout + Immutable + Unaligned>(bytes: &[u8]) -> &T {
    T::ref_from_prefix(bytes).expect("a page is longer than any header").0
}

/// A struct at the start of a page that is being changed.
pub fn write<T: FromBytes + IntoBytes + KnownLayout + Immutable + Unaligned>(bytes: &mut [u8]) -> &mut T {
    T::mut_from_prefix(bytes).expect("a page is longer than any header").0
}

/// Entries of a directory page.
pub fn entries_per_page(axes: usize) -> usize {
    (CONTENT_BYTES - size_of::<PageHeader>()) / (size_of::<ListEntry>() + axes)
}

/// Where an entry lies on its directory page.
pub fn entry_range(axes: usize, position: usize) -> std::ops::Range<usize> {
    let bytes = size_of::<ListEntry>() + axes;
    let start = size_of::<PageHeader>() + position * bytes;
    start..start + bytes
}

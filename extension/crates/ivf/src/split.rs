//! Splits a list that has outgrown its share. Codes do not depend on the list, so rows move as they are.
//!
//! New lists are made and published first, marked as the ones that rows are moving to: a search reads the old list before
//! them, and so sees every row in the one or in the other. Then rows move, a page's share for one list in one edit.

use zerocopy::FromBytes;

use crate::block::{self, Arrival};
use crate::build::write_entry;
use crate::chain;
use crate::compact::bump_version;
use crate::insert::move_to_second;
use crate::k_means;
use crate::list;
use crate::options::BuildOptions;
use crate::page::{self, Kind, ListEntry, ListHeader, META_BLOCK, Meta, PageHeader};
use crate::store::{BlockNumber, Edit, NO_BLOCK, PageStore, RowId, StoreError};
use crate::structure::{Structure, current};

/// A split that leaves more than this share of the rows together is none.
const TOO_LARGE: f64 = 0.95;

/// A list to be: where, around what, and how its rows scatter.
struct Part {
    number: u32,
    head: BlockNumber,
    centroid: Vec<f32>,
    rows: usize,
    squared_distance: f64,
    norm: f64,
}

/// Splits a list into about `parts`; `false` if its rows do not fall apart.
///
/// # Errors
/// Those of the store, or damaged pages.
pub fn split<S: PageStore>(store: &S, number: u32, parts: usize, options: &BuildOptions) -> Result<bool, StoreError> {
    let structure = current(store, &mut None)?;
    let Some(mut parts) = plan(store, &structure, number, parts, options)? else { return Ok(false) };
    let first_new = structure.lists.len() as u32;
    set_moving(store, Some((number, first_new)))?;
    for part in &mut parts[1..] {
        part.head = new_head(store, &structure, part.number)?;
        append_entry(store, &structure, part)?;
    }
    rewrite_entry(store, &structure, &parts[0])?;
    move_rows(store, &structure, &parts)?;
    set_moving(store, None)?;
    Ok(true)
}

/// Says on the meta page from which list rows are moving, and from which number on the lists are that they move to.
pub(crate) fn set_moving<S: PageStore>(store: &S, moving: Option<(u32, u32)>) -> Result<(), StoreError> {
    let (from, to) = moving.unwrap_or((NO_BLOCK, NO_BLOCK));
    chain::change_meta(store, |meta| {
        meta.moving_from = from.into();
        meta.moving_to = to.into();
        meta.generation = (meta.generation.get() + 1).into();
    })
}

/// Finds centroids for the parts; the first one takes the old list's place.
fn plan<S: PageStore>(
    store: &S,
    structure: &Structure,
    number: u32,
    parts: usize,
    options: &BuildOptions,
) -> Result<Option<Vec<Part>>, StoreError> {
    let axes = structure.axes();
    let mut points = Vec::new();
    let mut norms = Vec::new();
    list::for_each_page(store, structure, number, |bytes| {
        for (_, slot, block) in block::rows_of(structure.layout, bytes) {
            let start = points.len();
            points.resize(start + axes, 0.0);
            structure.model.quantiser.decode(block.row_codes(slot), &mut points[start..]);
            norms.push(block.norm(slot));
        }
    })?;
    let mut pause = || store.check_for_interrupts();
    let centroids = k_means::train(&points, axes, parts, options.seed, options.threads, &mut pause);
    let nearest = k_means::assign(&points, axes, &centroids, options.threads);
    let mut plan: Vec<Part> = centroids
        .chunks_exact(axes)
        .map(|centroid| Part {
            number,
            head: structure.lists[number as usize].head,
            centroid: centroid.to_vec(),
            rows: 0,
            squared_distance: 0.0,
            norm: 0.0,
        })
        .collect();
    for (&(part, distance), &norm) in nearest.iter().zip(&norms) {
        let part = &mut plan[part as usize];
        part.rows += 1;
        part.squared_distance += f64::from(distance);
        part.norm += f64::from(norm);
    }
    plan.retain(|part| part.rows > 0);
    let largest = plan.iter().map(|part| part.rows).max().unwrap_or(0);
    if plan.len() < 2 || largest as f64 > TOO_LARGE * norms.len() as f64 {
        return Ok(None);
    }
    // The largest part stays where it is: the fewest rows move.
    plan.sort_by_key(|part| std::cmp::Reverse(part.rows));
    for (place, part) in plan.iter_mut().enumerate().skip(1) {
        part.number = (structure.lists.len() + place - 1) as u32;
    }
    Ok(Some(plan))
}

fn new_head<S: PageStore>(store: &S, structure: &Structure, number: u32) -> Result<BlockNumber, StoreError> {
    let mut edit = store.edit();
    let (block, handle) = chain::allocate(store, &mut edit)?;
    *page::write(edit.bytes(handle)) = ListHeader::new(number, structure.meta.epoch.get(), 0, true);
    edit.commit();
    Ok(block)
}

fn entry_of(structure: &Structure, part: &Part, version: u32) -> ListEntry {
    let scatter = structure.model.scatter.iter().sum::<f32>().max(f32::MIN_POSITIVE);
    let rows = part.rows.max(1) as f64;
    ListEntry {
        head: part.head.into(),
        version: version.into(),
        rows: (part.rows as u32).into(),
        step: 0.0.into(),
        spread: ((part.squared_distance / rows) as f32 / scatter).into(),
        norm: ((part.norm / rows) as f32).into(),
    }
}

/// Adds a list to the directory; from then on it is searched and inserted into.
fn append_entry<S: PageStore>(store: &S, structure: &Structure, part: &Part) -> Result<(), StoreError> {
    let axes = structure.axes();
    let per_page = page::entries_per_page(axes);
    let blocks = chain::blocks_of(store, Kind::Directory, structure.meta.directory.get())?;
    let (position, place) = (part.number as usize / per_page, part.number as usize % per_page);
    let mut edit = store.edit();
    let last = edit.open(*blocks.last().expect("a directory has a page"))?;
    let meta = edit.open(META_BLOCK)?;
    let handle = if position < blocks.len() {
        last
    } else {
        let (block, handle) = chain::allocate_within(&mut edit)?;
        *page::write(edit.bytes(handle)) = PageHeader::new(Kind::Directory, position as u32);
        page::write::<PageHeader>(edit.bytes(last)).next = block.into();
        handle
    };
    let entry = entry_of(structure, part, 0);
    write_entry(&mut edit.bytes(handle)[page::entry_range(axes, place)], entry, &part.centroid);
    let meta: &mut Meta = page::write(edit.bytes(meta));
    meta.lists = (part.number + 1).into();
    meta.generation = (meta.generation.get() + 1).into();
    edit.commit();
    Ok(())
}

/// Gives the old list its new centroid. Its version stays that of the last count, so that searches notice the split.
fn rewrite_entry<S: PageStore>(store: &S, structure: &Structure, part: &Part) -> Result<(), StoreError> {
    let axes = structure.axes();
    let per_page = page::entries_per_page(axes);
    let blocks = chain::blocks_of(store, Kind::Directory, structure.meta.directory.get())?;
    let mut edit = store.edit();
    let handle = edit.open(blocks[part.number as usize / per_page])?;
    let range = page::entry_range(axes, part.number as usize % per_page);
    let version = ListEntry::ref_from_prefix(&edit.bytes(handle)[range.clone()]).expect("an entry").0.version.get();
    let entry = entry_of(structure, part, version);
    write_entry(&mut edit.bytes(handle)[range], entry, &part.centroid);
    edit.commit();
    Ok(())
}

/// Moves every row to the list whose centroid is nearest.
fn move_rows<S: PageStore>(store: &S, structure: &Structure, parts: &[Part]) -> Result<(), StoreError> {
    let centroids: Vec<f32> = parts.iter().flat_map(|part| part.centroid.iter().copied()).collect();
    let parent = &parts[0];
    for block in list::blocks(store, parent.number, parent.head)? {
        store.check_for_interrupts();
        let mut leaving = vec![Vec::new(); parts.len()];
        {
            let bytes = store.read(block)?;
            let mut points = Vec::new();
            let mut places = Vec::new();
            for (number, slot, rows) in block::rows_of(structure.layout, &bytes) {
                let start = points.len();
                points.resize(start + structure.axes(), 0.0);
                structure.model.quantiser.decode(rows.row_codes(slot), &mut points[start..]);
                places.push((number, slot, rows.row(slot)));
            }
            for ((part, _), place) in k_means::assign(&points, structure.axes(), &centroids, 1).into_iter().zip(places)
            {
                leaving[part as usize].push(place);
            }
        }
        for (part, rows) in parts.iter().zip(leaving).skip(1) {
            move_to(store, structure, parent.head, block, part.head, rows)?;
        }
    }
    Ok(())
}

/// Moves rows of one page to another list, as many at a time as its head has room for.
fn move_to<S: PageStore>(
    store: &S,
    structure: &Structure,
    parent: BlockNumber,
    block: BlockNumber,
    target: BlockNumber,
    mut rows: Vec<(usize, usize, RowId)>,
) -> Result<(), StoreError> {
    let layout = structure.layout;
    while !rows.is_empty() {
        let mut edit = store.edit();
        let (parent, page, to) = (edit.open(parent)?, edit.open(block)?, edit.open(target)?);
        let mut is_full = false;
        while let Some((number, slot, row)) = rows.pop() {
            let there = layout.block(edit.bytes(page), number);
            // An insertion may have moved the page's rows meanwhile; they are in the old list still, which is no harm.
            if there.live() >> slot & 1 == 0 || there.row(slot) != row {
                continue;
            }
            let stored = block::stored(&there, slot);
            if !block::put_row(layout, edit.bytes(to), &stored, Arrival::Together) {
                rows.push((number, slot, row));
                is_full = true;
                break;
            }
            block::remove_row(layout, edit.bytes(page), number, slot);
        }
        bump_version(edit.bytes(parent));
        edit.commit();
        if is_full {
            make_room(store, target)?;
        }
    }
    Ok(())
}

/// Moves the rows of a head that is full to a new second page.
fn make_room<S: PageStore>(store: &S, head: BlockNumber) -> Result<(), StoreError> {
    let mut edit = store.edit();
    let handle = edit.open(head)?;
    let (block, second) = chain::allocate(store, &mut edit)?;
    move_to_second(&mut edit, handle, block, second);
    edit.commit();
    Ok(())
}

//! What the triggers of one statement remember between each other: whether rows may wait for the end of the statement,
//! and which rows do. Knows no SQL.
//!
//! PostgreSQL has no place for this that an error clears, so everything is marked with the transaction and subtransaction
//! it belongs to, and what carries a dead mark counts as absent.

use std::cell::RefCell;

use pgrx::pg_sys::Oid;

use crate::writing::target::Target;

/// Where in the nesting of transactions a statement runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// The transaction.
    pub transaction: u32,
    /// The subtransaction; numbers are not used twice within a transaction.
    pub subtransaction: u32,
    /// How deep it is nested.
    pub level: i32,
}

/// A statement between its first and its last trigger.
#[derive(Debug)]
struct Frame {
    position: Position,
    table: Oid,
    /// Rows so far, for each style column.
    rows: Vec<(i16, u64)>,
}

#[derive(Debug, Default)]
struct State {
    transaction: u32,
    frames: Vec<Frame>,
    /// Rows that are stored and wait for their vectors: where they lie.
    waiting: Vec<(Target, Vec<String>)>,
}

thread_local! {
    static STATE: RefCell<State> = RefCell::default();
}

fn with_state<T>(position: Position, run: impl FnOnce(&mut State) -> T) -> T {
    STATE.with_borrow_mut(|state| {
        if state.transaction != position.transaction {
            *state = State { transaction: position.transaction, ..State::default() };
        }
        run(state)
    })
}

/// A statement begins that writes to `table`.
pub fn open(position: Position, table: Oid) {
    with_state(position, |state| {
        // Whatever is as deep as this statement and of another subtransaction has failed.
        state.frames.retain(|frame| frame.position == position || frame.position.level < position.level);
        state.frames.push(Frame { position, table, rows: Vec::new() });
    });
}

/// The statement's rows are all stored: hands out those that wait, other statements' too, since they are stored as well.
pub fn close(position: Position, table: Oid) -> Vec<(Target, Vec<String>)> {
    with_state(position, |state| {
        if let Some(index) = state.frames.iter().rposition(|f| f.position == position && f.table == table) {
            state.frames.remove(index);
        }
        std::mem::take(&mut state.waiting)
    })
}

/// Counts a row that a statement on one of certain tables (a partition and what it is part of) is about to store. Its
/// number, from one; `None` if no statement is open that would later hand it out, as when somebody writes to a partition
/// directly: then it must not wait.
pub fn count_row(position: Position, style: i16, is_table: impl Fn(Oid) -> bool) -> Option<u64> {
    with_state(position, |state| {
        let frame = state.frames.iter_mut().rev().find(|f| f.position == position && is_table(f.table))?;
        if let Some((_, rows)) = frame.rows.iter_mut().find(|(column, _)| *column == style) {
            *rows += 1;
            return Some(*rows);
        }
        frame.rows.push((style, 1));
        Some(1)
    })
}

/// Remembers a row; hands rows out once there are `limit` of them.
pub fn wait(position: Position, target: &Target, tid: String, limit: usize) -> Option<(Target, Vec<String>)> {
    with_state(position, |state| {
        let index = state.waiting.iter().position(|(known, _)| known == target).unwrap_or_else(|| {
            state.waiting.push((target.clone(), Vec::new()));
            state.waiting.len() - 1
        });
        let rows = &mut state.waiting[index].1;
        rows.push(tid);
        (rows.len() >= limit).then(|| state.waiting.swap_remove(index))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(transaction: u32, subtransaction: u32, level: i32) -> Position {
        Position { transaction, subtransaction, level }
    }

    #[test]
    fn what_failed_is_not_taken_for_an_open_statement() {
        let table = Oid::from(7);
        let count = |position| count_row(position, 1, |oid| oid == table);
        open(at(1, 1, 1), table);
        assert_eq!(count(at(1, 1, 1)), Some(1));
        assert_eq!(count(at(1, 1, 1)), Some(2));
        open(at(1, 2, 2), table);
        assert_eq!(count(at(1, 2, 2)), Some(1));
        // Subtransaction 2 failed; 3 writes without having opened a statement.
        assert_eq!(count(at(1, 3, 2)), None);
        open(at(1, 3, 2), table);
        assert_eq!(count(at(1, 3, 2)), Some(1));
        assert!(close(at(1, 3, 2), table).is_empty());
        assert_eq!(count(at(1, 3, 2)), None);
        assert_eq!(count(at(1, 1, 1)), Some(3));
        // The next transaction begins with nothing.
        assert_eq!(count(at(2, 1, 1)), None);
    }
}

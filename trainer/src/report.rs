//! Tables with numbers, for a terminal, a report and a file: one form for everything that is measured. Knows text only.

use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::protocol::bootstrap::Estimate;

/// One field of a table.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub enum Cell {
    /// Words.
    Text(String),
    /// A count.
    Count(usize),
    /// A number, printed with three decimals.
    Number(f64),
    /// A number with an interval.
    Between(Estimate),
    /// Nothing to say.
    Nothing,
}

impl Cell {
    fn print(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Count(n) => n.to_string(),
            Self::Number(x) => format!("{x:.3}"),
            Self::Between(e) => format!("{:.3} ({:.3} to {:.3})", e.value, e.low, e.high),
            Self::Nothing => String::new(),
        }
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Self::Text(text.into())
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<usize> for Cell {
    fn from(n: usize) -> Self {
        Self::Count(n)
    }
}

impl From<f64> for Cell {
    fn from(x: f64) -> Self {
        Self::Number(x)
    }
}

impl From<Estimate> for Cell {
    fn from(e: Estimate) -> Self {
        Self::Between(e)
    }
}

impl<T: Into<Cell>> From<Option<T>> for Cell {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Nothing, Into::into)
    }
}

/// Rows under column names.
#[derive(Clone, Debug, Serialize)]
pub struct Table {
    /// What the table shows.
    pub title: String,
    /// Names of the columns.
    pub columns: Vec<String>,
    /// One field a column.
    pub rows: Vec<Vec<Cell>>,
}

impl Table {
    /// An empty table.
    pub fn new(title: impl Into<String>, columns: &[&str]) -> Self {
        Self { title: title.into(), columns: columns.iter().map(|c| (*c).into()).collect(), rows: vec![] }
    }

    /// Adds a row, which must have a field for each column.
    pub fn row(&mut self, fields: Vec<Cell>) {
        assert_eq!(fields.len(), self.columns.len(), "a row of {:?} has another number of fields", self.title);
        self.rows.push(fields);
    }

    /// The table in Markdown.
    pub fn markdown(&self) -> String {
        let line = |fields: Vec<String>| format!("| {} |\n", fields.join(" | "));
        let mut out = format!("{}\n\n", self.title);
        out += &line(self.columns.clone());
        out += &format!("|{}\n", "---|".repeat(self.columns.len()));
        self.rows.iter().for_each(|row| out += &line(row.iter().map(Cell::print).collect()));
        out
    }
}

/// A drawing for a file of its own.
#[derive(Clone, Debug)]
pub struct Figure {
    /// Name of the file, without its ending.
    pub name: String,
    /// The drawing.
    pub svg: String,
}

/// The answer to one question.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    /// Name of the question, and of its files.
    pub name: String,
    /// What was measured.
    pub tables: Vec<Table>,
    /// What it looks like.
    pub figures: Vec<Figure>,
    /// What follows from it or limits it, in plain sentences made from the numbers.
    pub remarks: Vec<String>,
}

#[derive(Serialize)]
struct File<'a> {
    question: &'a str,
    tables: &'a [Table],
    remarks: &'a [String],
}

impl Answer {
    /// Tables and remarks in Markdown.
    pub fn markdown(&self) -> String {
        let mut out: String = self.tables.iter().map(|table| table.markdown() + "\n").collect();
        self.remarks.iter().for_each(|remark| out += &format!("- {remark}\n"));
        out
    }

    /// Writes `{name}.json`, and each figure as SVG, into a folder.
    ///
    /// # Errors
    /// Names what cannot be written.
    pub fn write(&self, folder: &Path) -> Result<()> {
        std::fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
        let put = |name: String, text: &str| {
            let path = folder.join(name);
            std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
        };
        let file = File { question: &self.name, tables: &self.tables, remarks: &self.remarks };
        put(format!("{}.json", self.name), &serde_json::to_string_pretty(&file)?)?;
        self.figures.iter().try_for_each(|figure| put(format!("{}.svg", figure.name), &figure.svg))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_print_and_are_written_whole() {
        let mut table = Table::new("Title", &["who", "n", "share", "R@1", "none"]);
        let estimate = Estimate { value: 0.25, low: 0.125, high: 0.5 };
        table.row(vec!["a".into(), 3usize.into(), 0.5.into(), estimate.into(), None::<f64>.into()]);
        let markdown = table.markdown();
        assert!(markdown.ends_with("| a | 3 | 0.500 | 0.250 (0.125 to 0.500) |  |\n"), "{markdown}");
        let folder = tempfile::tempdir().unwrap();
        let figures = vec![Figure { name: "drawing".into(), svg: "<svg/>".into() }];
        let answer = Answer { name: "q".into(), tables: vec![table], figures, remarks: vec!["So it is.".into()] };
        answer.write(folder.path()).unwrap();
        let json = std::fs::read_to_string(folder.path().join("q.json")).unwrap();
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(json["tables"][0]["rows"][0][3]["low"], 0.125);
        assert_eq!(std::fs::read_to_string(folder.path().join("drawing.svg")).unwrap(), "<svg/>");
    }

    #[test]
    #[should_panic(expected = "number of fields")]
    fn a_short_row_is_a_bug() {
        Table::new("t", &["a", "b"]).row(vec!["x".into()]);
    }
}

//! Tables for people, on standard output: as wide as the terminal, plain when piped.
//!
//! Every command prints its results through here, so that all look alike.

use comfy_table::{Cell, CellAlignment, ContentArrangement, LineStyle, Table, TableStyle};

/// One line under the header and nothing else: easy to read, easy to cut.
const STYLE: TableStyle = TableStyle::new().header_separator(LineStyle::new('-', '-', '-', '-'));

/// A terminal narrower than this (or one that states no width, as some recorders do) gets plain,
/// unwrapped lines.
const NARROWEST: u16 = 60;

/// An empty table in the house style.
fn plain_table() -> Table {
    let mut table = Table::new();
    table.load_style(STYLE);
    let wraps = table.width().is_some_and(|width| width >= NARROWEST);
    table.set_content_arrangement(if wraps {
        ContentArrangement::Dynamic
    } else {
        ContentArrangement::Disabled
    });
    table
}

/// A two-column table of facts.
pub struct Facts {
    table: Table,
}

impl Facts {
    /// An empty table under a title.
    pub fn new(title: &str) -> Facts {
        let mut table = plain_table();
        table.set_header([title, ""]);
        Facts { table }
    }

    /// Adds a line.
    pub fn line(&mut self, name: &str, value: impl Into<String>) -> &mut Facts {
        let value = Cell::new(value.into()).set_alignment(CellAlignment::Right);
        self.table.add_row([Cell::new(name), value]);
        self
    }

    /// Adds a line if there is a value.
    pub fn line_if(&mut self, name: &str, value: Option<String>) -> &mut Facts {
        if let Some(value) = value {
            self.line(name, value);
        }
        self
    }

    /// Prints the table.
    pub fn print(&self) {
        println!("{}", self.table);
    }
}

/// Prints a table with a header; the columns after the first are aligned right where `right` says so.
pub fn print(header: &[&str], rows: &[Vec<String>], right: bool) {
    let mut table = plain_table();
    table.set_header(header);
    for row in rows {
        table.add_row(row.iter().map(Cell::new));
    }
    if right {
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    println!("{table}");
}

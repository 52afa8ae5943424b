//! A report as Markdown: headings and tables, nothing else. Every cell goes through the escaper.

use super::Report;
use super::tables::{self, Table};
use crate::escape::markdown_cell;

pub fn markdown(report: &Report<'_>) -> String {
    let mut text = format!("# {}\n", markdown_cell(&format!("Report of {} as of {}", report.study.id, tables::as_of_name(report))));
    for section in tables::sections(report) {
        text.push_str(&format!("\n## {}\n", markdown_cell(&section.title)));
        for note in &section.notes {
            text.push_str(&format!("\n{}\n", markdown_cell(note)));
        }
        for table in section.tables.iter().filter(|table| !table.rows.is_empty()) {
            write(&mut text, table);
        }
    }
    text.push_str(&format!("\nstudy.json SHA-256 {}. Research decision support; a person decides.\n", report.study.hash));
    text
}

fn write(text: &mut String, table: &Table) {
    if !table.caption.is_empty() {
        text.push_str(&format!("\n### {}\n", markdown_cell(&table.caption)));
    }
    text.push('\n');
    line(text, &table.head);
    let rules = table.head.iter().enumerate().map(|(index, _)| if table.is_of_numbers && index > 0 { "---:" } else { "---" });
    text.push_str(&format!("| {} |\n", rules.collect::<Vec<_>>().join(" | ")));
    table.rows.iter().for_each(|row| line(text, row));
}

fn line(text: &mut String, cells: &[String]) {
    let cells: Vec<String> = cells.iter().map(|cell| markdown_cell(cell)).collect();
    text.push_str(&format!("| {} |\n", cells.join(" | ")));
}

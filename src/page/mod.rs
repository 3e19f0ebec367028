//! A run as a page of HTML, as Markdown for a pull request, as an entry of an experiment log, and as JSON.
//!
//! Makes text from a history and the files of its steps. The page is one file: it loads nothing, and everything that comes from a kernel,
//! a model or a path is text in it, never markup. Figures of a search and of a confirmation never share a column. Writes no file.

mod answer;
mod archive_view;
mod chart;
mod comparison;
mod details;
mod diff;
mod environment;
mod family;
mod figures;
mod html;
mod index;
mod json;
mod log;
mod markdown;
mod measurement;
mod runs;
mod selection;
mod tables;
mod template;
mod texts;

pub(crate) use comparison::difference_text;
pub(crate) use html::html;
pub(crate) use index::index_html;
pub(crate) use json::json;
pub(crate) use log::{LOG_HEAD, LogEntry, log_entries};
pub(crate) use markdown::markdown;
pub(crate) use measurement::{MeasuredKernel, Measurement, correlation_text, measurement_text};
pub(crate) use runs::{RunLine, lines_of_open_run, run_lines, runs_table};
